"""The training loop, as each worker runs it."""

import math
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import torch
from torch import Tensor

from homegrown.data.loader import Batches, TokenSplit
from homegrown.data.rows import NO_TARGET, parts
from homegrown.tokenizer.loading import load, token_bytes
from homegrown.training import microbatch
from homegrown.training.checkpoints import Checkpoints, TrainingState
from homegrown.training.compilation import compile_model, compiles
from homegrown.training.distributed import Worker
from homegrown.training.job import CHECKPOINTS, TrainingJob
from homegrown.training.journal import Journal
from homegrown.training.metrics import StepMetrics
from homegrown.training.objective import accumulating, clip_gradients, whole
from homegrown.training.objective import share as share_model
from homegrown.training.optimizer import optimizers, set_rates, share
from homegrown.training.peak import matmul_peak
from homegrown.training.precision import choose_precision
from homegrown.training.progress_file import Report
from homegrown.training.samples import Sampler
from homegrown.training.spikes import SpikeRule
from homegrown.training.stopping import Stop
from homegrown.training.throughput import Watch, peak_memory
from homegrown.training.validation import Validation, Validator
from homegrown.util.errors import UserError
from homegrown.util.seeds import derive


@dataclass(frozen=True)
class Update:
    """What one optimizer step measured."""

    loss: float
    gradient_norm: float
    skipped: bool
    stop: bool  # a worker was told to end


class Trainer:
    """One worker's model, optimizer and data, and the state that goes from checkpoint to checkpoint."""

    def __init__(self, job: TrainingJob, out: Path, worker: Worker):
        """Open the data and build the model.

        Raises:
            UserError: a setting does not fit the data, the tokenizer or the number of workers.
        """
        self.settings, self.seed, self.out, self.worker = job.training, job.seed, out, worker
        self.started = job.started
        train = TokenSplit(job.packed, "train")
        self.tokenizer = load(job.tokenizer)
        sizes = token_bytes(self.tokenizer)
        if len(sizes) != train.vocabulary_size:
            raise UserError(
                f"The tokens in {job.packed} have a vocabulary of {train.vocabulary_size}, but the tokenizer in "
                f"{job.tokenizer} has {len(sizes)}; run the stage `pack` again."
            )
        self.task = job.task(train, self.tokenizer)
        self.config = self.task.config
        self.precision = choose_precision(job.training.precision, worker.kind)
        self.batches = Batches(train, self.config.context, job.training.batch_size, derive(job.seed, "batches"))
        self.validator = Validator(
            TokenSplit(job.packed, "validation"),
            self.config.context,
            job.training,
            sizes,
            worker,
            self.precision,
        )
        microbatch.check(self.settings, worker.count)
        self.batch_tokens = self.settings.batch_size * self.config.context
        self.tokens = self.settings.max_steps * self.batch_tokens
        self.sampler = Sampler(
            self.tokenizer,
            self.task.prompts,
            self.task.stop_ids,
            self.settings.sample_tokens,
            self.precision,
            derive(job.seed, "samples"),
        )
        self.model = self.task.begin()
        self.model.model.checkpointing = self.settings.activation_checkpointing
        self.model.to(worker.device)
        self.parallel = job.parallel
        self.scaler = self.precision.scaler()
        self.spikes = SpikeRule(self.settings)
        self.state = TrainingState()
        self.stopped = False

    def start(self, report: Report) -> int:
        """Share the model with the other workers, who all call this, and go back to the newest intact checkpoint.

        Returns:
            The checkpoint's step, 0 for a fresh start.
        """
        worker = self.worker
        self.objective = share_model(self.model, worker, self.parallel)
        self.optimizers = optimizers(self.model, self.settings, self.task.wide_rate_share)
        with self._memory_errors(), self.precision.autocast():
            self.micro_batch_size = microbatch.choose(
                self.settings, self.config.context, self.batches.window, worker, self.objective, self.optimizers
            )
        # Not before: what serves any number of rows is slower, and each number tried would be compiled anew.
        if compiles(self.settings.compile, worker.kind, self.task.flops_per_token, self.tokens):
            compile_model(self.model)
        self.checkpoints = Checkpoints(
            self.out / CHECKPOINTS, self.settings.keep_checkpoints, report.note, worker.writers, worker.device
        )
        step = self._restore()
        if step:
            self.spikes.load(self.state.spikes)
        return step

    def run(self, report: Report, stop: Stop) -> None:
        """Train until the last step, until validation has stopped improving, or until `stop` is wished in any worker.

        Whichever it is, a checkpoint is on disk at the end: of the last step, or of the last before those that were
        skipped when the wish came.

        Raises:
            UserError: loss or gradients are no numbers, or far too high, again and again; the GPU's memory is full.
            OSError: the disk was too full for the last checkpoint of a finished training (ENOSPC).
        """
        for _ in self.steps(report, stop):
            pass
        self.checkpoints.settle(self.state, required=self.finished)

    def steps(self, report: Report, stop: Stop) -> Iterator[None]:
        """Do what `run` does but for its end, one step for each value."""
        self.model.train()
        self.watch = self._watch()
        with ThreadPoolExecutor(1) as loader, self._memory_errors():
            yield from self._go_on(loader, report, stop)
            while self.spikes.must_roll_back and not self.stopped:
                self._roll_back(report)
                yield from self._go_on(loader, report, stop)

    @property
    def finished(self) -> bool:
        """Whether there is nothing left to train."""
        patience = self.settings.patience
        impatient = patience is not None and self.state.validations_since_best >= patience
        return impatient or self.state.step >= self.settings.max_steps

    def _go_on(self, loader: ThreadPoolExecutor, report: Report, stop: Stop) -> Iterator[None]:
        """Train until there is nothing left to train, a worker wishes to stop, or training must go back."""
        journal = Journal(self.out, self.state.metrics, self.state.samples) if self.worker.leads else None
        batches = self._batches(loader)
        try:
            while not (self.finished or self.stopped or self.spikes.must_roll_back):
                self._step(next(batches), report, stop, journal)
                yield
        finally:
            if journal:
                journal.close()

    def _step(self, windows: Tensor, report: Report, stop: Stop, journal: Journal | None) -> None:
        """Take one step, with all that is due after it."""
        settings, state, watch, began = self.settings, self.state, self.watch, time.perf_counter()
        state.step += 1
        rate_share = share(state.step, settings)
        set_rates(self.optimizers, rate_share)
        with watch.timing("update"):
            update = self._update(windows, stop)
        self.stopped = update.stop
        if state.seconds_to_first_step is None:
            state.seconds_to_first_step = time.time() - self.started
        validation, improved = None, False
        if state.step % settings.validate_every == 0 or state.step == settings.max_steps:
            with watch.timing("validation"), whole(self.objective):
                validation = self.validator(self.model, self.micro_batch_size)
            improved = self.spikes.calm and self._compare(validation)
        samples = []
        if self.finished or state.step % settings.sample_every == 0:
            with watch.timing("samples"), whole(self.objective):
                samples = self.sampler(self.model, state.step) if self.worker.leads else []
        state.seconds += time.perf_counter() - began
        row = StepMetrics(
            step=state.step,
            tokens=state.step * self.batch_tokens,
            loss=update.loss,
            learning_rate=settings.learning_rate * rate_share,
            gradient_norm=update.gradient_norm,
            tokens_per_second=watch.tokens_per_second,
            model_flops_utilisation=watch.model_flops_utilisation,
            peak_memory_bytes=peak_memory(self.worker.device),
            skipped=update.skipped,
            seconds=state.seconds,
            validation_loss=validation.loss if validation else None,
            validation_bits_per_byte=validation.bits_per_byte if validation else None,
        )
        state.metrics.append(row)
        state.samples += samples
        # While updates are skipped, the weights may be what training has to go back from.
        due = self.spikes.calm and (improved or self.stopped or state.step % settings.checkpoint_every == 0)
        if due or (self.finished and not self.spikes.must_roll_back):
            with watch.timing("checkpoint"):
                state.scaler, state.spikes = self.scaler.state_dict(), self.spikes.state()
                self.checkpoints.save(self.model, self.optimizers, state)
        if journal:
            journal.add(row, samples)
            news = watch.news(state.metrics, self.spikes)
            report.step(state.step, settings.max_steps, validation is not None, **news)

    def _update(self, windows: Tensor, stop: Stop) -> Update:
        """Take one optimizer step on this worker's `windows` of the batch, all workers together."""
        targets = self._targets(windows)
        nats = torch.zeros((), dtype=torch.float64, device=self.worker.device)
        micro_batches = torch.split(windows, self.micro_batch_size)
        for place, rows in enumerate(micro_batches):
            # Dropout depends on the micro-batch's place in the whole batch: the same however many workers share it.
            micro_batch = self.worker.rank * len(micro_batches) + place
            torch.manual_seed(derive(self.seed, "dropout", self.state.step, micro_batch))
            with accumulating(self.objective, last=place == len(micro_batches) - 1):
                with self.precision.autocast():
                    loss = self.objective(rows)
                # Gradients are averaged over workers; the loss is a mean over the whole batch.
                self.scaler.scale(loss * (self.worker.count / targets)).backward()
            nats += loss.detach()
        for optimizer in self.optimizers:
            self.scaler.unscale_(optimizer)
        norm = clip_gradients(self.model, self.settings.clip_norm)
        # Summed together, so that all workers see the same bits and take the same decisions.
        mine = torch.tensor([norm / self.worker.count, stop.wished], dtype=torch.float64, device=self.worker.device)
        update = self._judge(targets, *self.worker.sum(torch.cat([nats[None], mine])).tolist())
        # The scaler leaves out the optimizer whose gradients overflow, and it alone: the other must not move either.
        taken = not update.skipped and math.isfinite(update.gradient_norm)
        for optimizer in self.optimizers:
            if taken:
                self.scaler.step(optimizer)
            optimizer.zero_grad(set_to_none=True)
        self.scaler.update()
        return update

    def _judge(self, targets: int, nats: float, gradient_norm: float, stops: float) -> Update:
        loss = nats / targets
        # The scaler looks for its scale by overflowing, leaves such updates out by itself, and halves the scale.
        overflow = self.scaler.is_enabled() and math.isfinite(loss) and not math.isfinite(gradient_norm)
        searching = overflow and self.scaler.get_scale() > 1
        skipped = not searching and not self.spikes.admits(loss, gradient_norm)
        return Update(loss, gradient_norm, skipped, stop=stops > 0)

    def _targets(self, windows: Tensor) -> int:
        """Return how many tokens the whole batch predicts: one at each place, but for the padding of rows."""
        _, targets, starts = parts(windows)
        if starts is None:
            return self.batch_tokens
        return int(self.worker.sum((targets != NO_TARGET).sum()))

    def _compare(self, validation: Validation) -> bool:
        """Say whether the weights are the best so far, and remember it."""
        state = self.state
        if state.best_loss is not None and validation.loss >= state.best_loss:
            state.validations_since_best += 1
            return False
        state.best_loss, state.best_step, state.validations_since_best = validation.loss, state.step, 0
        return True

    def _restore(self) -> int:
        """Go back to the newest intact checkpoint, all workers together, and return its step; 0 if there is none."""
        self.checkpoints.settle(self.state)
        step = self.worker.agree(self.checkpoints.newest() if self.worker.leads else 0)
        if step:
            self.state = self.checkpoints.load(step, self.model, self.optimizers)
            self.scaler.load_state_dict(self.state.scaler)
        return step

    def _roll_back(self, report: Report) -> None:
        """Go back to a checkpoint, and on with the batches that come after those used so far.

        Raises:
            UserError: there is none, or this has been done too often.
        """
        here, seconds = self.state.step, self.state.seconds
        self.checkpoints.settle(self.state)  # before anybody looks for the newest
        if self.worker.leads and self.spikes.fruitless:
            self.checkpoints.drop(self.checkpoints.newest())
        step = self._restore()
        self.spikes.roll_back(here, step, self.state.spikes)
        self.state.seconds = seconds
        if self.worker.leads:
            report.note(f"Training went back from step {here} to step {step} and passes over the batches between them.")

    def _watch(self) -> Watch:
        peak = matmul_peak(self.worker.device, self.precision.dtype)
        peaks = self.worker.sum(torch.tensor(peak, dtype=torch.float64, device=self.worker.device))
        return Watch(self.settings, self.batch_tokens, self.task.flops_per_token, float(peaks))

    @contextmanager
    def _memory_errors(self) -> Iterator[None]:
        """Turn a GPU's lack of memory into a sentence."""
        try:
            yield
        except torch.OutOfMemoryError as error:
            raise UserError(
                f"The GPU's memory is full after step {self.state.step}; lower training.micro_batch_size, set "
                "training.activation_checkpointing, or share the model with compute.parallel 'fsdp' on several GPUs."
            ) from error

    def _batches(self, loader: ThreadPoolExecutor) -> Iterator[Tensor]:
        """Yield this worker's rows of each step's batch (int64, as `Batches.batch`), the next one loaded meanwhile."""
        rows = self.settings.batch_size // self.worker.count
        mine = slice(self.worker.rank * rows, (self.worker.rank + 1) * rows)

        def read(number: int) -> Tensor:
            windows = torch.from_numpy(self.batches.batch(number)[mine])
            return windows.pin_memory() if self.worker.kind == "cuda" else windows

        next_one = self.state.step + self.spikes.rolled_back_steps
        coming = loader.submit(read, next_one)
        for number in count(next_one + 1):
            windows = coming.result()
            coming = loader.submit(read, number)
            yield windows.to(self.worker.device, non_blocking=True)
