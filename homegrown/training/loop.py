"""The pretraining loop, as each worker runs it."""

import math
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from homegrown.errors import UserError
from homegrown.model.config import ModelConfig
from homegrown.model.transformer import Transformer
from homegrown.recipe import TrainingSettings
from homegrown.seeds import derive
from homegrown.tokens.loader import Batches, TokenSplit
from homegrown.tokens.tokenizer import load, token_bytes
from homegrown.training.checkpoints import Checkpoints, TrainingState
from homegrown.training.job import CHECKPOINTS, Job
from homegrown.training.journal import Journal
from homegrown.training.metrics import StepMetrics
from homegrown.training.optimizer import optimizers, set_rates
from homegrown.training.peak import matmul_peak
from homegrown.training.precision import choose_precision
from homegrown.training.report import Report
from homegrown.training.samples import Sampler
from homegrown.training.schedule import share
from homegrown.training.spikes import SpikeRule
from homegrown.training.validation import Validation, Validator
from homegrown.training.watch import Watch, peak_memory
from homegrown.training.workers import Worker


class NextToken(nn.Module):
    """The objective as a module, which is what gradient averaging over workers wraps."""

    def __init__(self, model: Transformer):
        super().__init__()
        self.model = model

    def forward(self, windows: Tensor) -> Tensor:
        """Return the summed loss in nats of predicting each token of int64 `windows` [rows, context + 1]."""
        return self.model.loss(windows[:, :-1], windows[:, 1:])


@dataclass(frozen=True)
class Update:
    """What one optimizer step measured."""

    loss: float
    gradient_norm: float
    skipped: bool


class Trainer:
    """One worker's model, optimizer and data, and the state that goes from checkpoint to checkpoint."""

    def __init__(self, job: Job, out: Path, worker: Worker):
        """Open the data and build the model.

        Raises:
            UserError: a setting does not fit the data, the tokenizer or the number of workers.
        """
        self.settings, self.seed, self.out, self.worker = job.training, job.seed, out, worker
        self.started = job.started
        train = TokenSplit(job.packed, "train")
        self.config = ModelConfig.from_settings(job.model, train.vocabulary_size, job.training.dropout)
        self.tokenizer = load(job.tokenizer)
        self.precision = choose_precision(job.training.precision, worker.kind)
        self.batches = Batches(train, job.model.context, job.training.batch_size, derive(job.seed, "batches"))
        sizes = token_bytes(self.tokenizer)
        if len(sizes) != train.vocabulary_size:
            raise UserError(
                f"The tokens in {job.packed} have a vocabulary of {train.vocabulary_size}, but the tokenizer in "
                f"{job.tokenizer} has {len(sizes)}; run the stage `pack` again."
            )
        self.validator = Validator(
            TokenSplit(job.packed, "validation"),
            job.model.context,
            job.training,
            sizes,
            worker,
            self.precision,
        )
        self.micro_batches = _share_of_batch(self.settings, worker.count)
        self.batch_tokens = self.settings.batch_size * self.config.context
        self.sampler = Sampler(
            self.tokenizer, self.settings, self.config.context, self.precision, derive(job.seed, "samples")
        )
        torch.manual_seed(derive(job.seed, "initialisation"))
        self.model = Transformer(self.config)
        self.model.initialise()
        self.model.to(worker.device)
        self.optimizers = optimizers(self.model, self.settings)
        self.scaler = self.precision.scaler()
        self.checkpoints = Checkpoints(out / CHECKPOINTS)
        self.spikes = SpikeRule(self.settings)
        self.state = TrainingState()

    def resume(self, report: Report) -> int:
        """Go back to the newest intact checkpoint and return its step, 0 for a fresh start."""
        step = self._restore(report)
        if step:
            self.spikes.load(self.state.spikes)
        return step

    def run(self, report: Report) -> None:
        """Train until the last step or until validation has stopped improving.

        Raises:
            UserError: loss or gradients are no numbers, or far too high, again and again.
        """
        objective = self.worker.share(NextToken(self.model))
        self.model.train()
        self.watch = self._watch()
        with ThreadPoolExecutor(1) as loader:
            self._go_on(objective, loader, report)
            while self.spikes.must_roll_back:
                self._roll_back(report)
                self._go_on(objective, loader, report)

    @property
    def finished(self) -> bool:
        """Whether there is nothing left to train."""
        patience = self.settings.patience
        impatient = patience is not None and self.state.validations_since_best >= patience
        return impatient or self.state.step >= self.settings.max_steps

    def _go_on(self, objective: nn.Module, loader: ThreadPoolExecutor, report: Report) -> None:
        """Train until there is nothing left to train, or training must go back."""
        journal = Journal(self.out, self.state.metrics, self.state.samples) if self.worker.leads else None
        batches = self._batches(loader)
        while not self.finished and not self.spikes.must_roll_back:
            self._step(objective, next(batches), report, journal)
        if journal:
            journal.close()

    def _step(self, objective: nn.Module, windows: Tensor, report: Report, journal: Journal | None) -> None:
        settings, state, watch, began = self.settings, self.state, self.watch, time.perf_counter()
        state.step += 1
        rate_share = share(state.step, settings)
        set_rates(self.optimizers, rate_share)
        with watch.timing("update"):
            update = self._update(objective, windows)
        if state.seconds_to_first_step is None:
            state.seconds_to_first_step = time.time() - self.started
        validation = None
        if state.step % settings.validate_every == 0 or state.step == settings.max_steps:
            with watch.timing("validation"):
                validation = self.validator(self.model)
                self._compare(validation)
        samples = []
        if self.worker.leads and (self.finished or state.step % settings.sample_every == 0):
            with watch.timing("samples"):
                samples = self.sampler(self.model, state.step)
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
        if not journal:
            return
        # While updates are skipped, the weights may be what training has to go back from.
        due = self.spikes.calm and state.step % settings.checkpoint_every == 0
        if due or (self.finished and not self.spikes.must_roll_back):
            with watch.timing("checkpoint"):
                state.scaler, state.spikes = self.scaler.state_dict(), self.spikes.state()
                self.checkpoints.save(self.model, self.optimizers, state)
        journal.add(row, samples)
        news = watch.news(state.metrics, self.spikes)
        report.step(state.step, settings.max_steps, validation is not None, **news)

    def _update(self, objective: nn.Module, windows: Tensor) -> Update:
        """Take one optimizer step on this worker's `windows` of the batch, all workers together."""
        nats = torch.zeros((), dtype=torch.float64, device=self.worker.device)
        for place, rows in enumerate(windows.chunk(self.micro_batches)):
            # Dropout depends on the micro-batch's place in the whole batch: the same however many workers share it.
            micro_batch = self.worker.rank * self.micro_batches + place
            torch.manual_seed(derive(self.seed, "dropout", self.state.step, micro_batch))
            last = place == self.micro_batches - 1
            with nullcontext() if last or not isinstance(objective, DistributedDataParallel) else objective.no_sync():
                with self.precision.autocast():
                    loss = objective(rows)
                # Gradients are averaged over workers; the loss is a mean over the whole batch.
                self.scaler.scale(loss * (self.worker.count / self.batch_tokens)).backward()
            nats += loss.detach()
        for optimizer in self.optimizers:
            self.scaler.unscale_(optimizer)
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.settings.clip_norm)
        # Summed together, so that all workers see the same bits and take the same decision.
        measured = self.worker.sum(torch.stack([nats, norm.double() / self.worker.count]))
        update = self._judge(*measured.tolist())
        for optimizer in self.optimizers:
            if not update.skipped:
                self.scaler.step(optimizer)
            optimizer.zero_grad(set_to_none=True)
        self.scaler.update()
        return update

    def _judge(self, nats: float, gradient_norm: float) -> Update:
        loss = nats / self.batch_tokens
        # The scaler looks for its scale by overflowing, leaves such updates out by itself, and halves the scale.
        overflow = self.scaler.is_enabled() and math.isfinite(loss) and not math.isfinite(gradient_norm)
        searching = overflow and self.scaler.get_scale() > 1
        return Update(loss, gradient_norm, skipped=not searching and not self.spikes.admits(loss, gradient_norm))

    def _compare(self, validation: Validation) -> None:
        """Remember the weights if they are the best so far."""
        state = self.state
        if state.best_loss is not None and validation.loss >= state.best_loss:
            state.validations_since_best += 1
            return
        state.best_loss, state.best_step, state.validations_since_best = validation.loss, state.step, 0
        if self.worker.leads:
            self.checkpoints.save_best(self.model, state.step)

    def _restore(self, report: Report) -> int:
        found = self.checkpoints.newest(report.note) if self.worker.leads else 0
        step = self.worker.agree(found)
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
        if self.worker.leads and self.spikes.fruitless:
            self.checkpoints.drop(self.checkpoints.newest(report.note))
        step = self._restore(report)
        self.spikes.roll_back(here, step, self.state.spikes)
        self.state.seconds = seconds
        if self.worker.leads:
            report.note(f"Training went back from step {here} to step {step} and passes over the batches between them.")

    def _watch(self) -> Watch:
        peak = matmul_peak(self.worker.device, self.precision.dtype)
        peaks = self.worker.sum(torch.tensor(peak, dtype=torch.float64, device=self.worker.device))
        return Watch(self.settings, self.batch_tokens, self.config.flops_per_token(), float(peaks))

    def _batches(self, loader: ThreadPoolExecutor) -> Iterator[Tensor]:
        """Yield this worker's int64 [rows, context + 1] of each step's batch, the next one loaded meanwhile."""
        rows = self.micro_batches * self.settings.micro_batch_size
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


def _share_of_batch(settings: TrainingSettings, workers: int) -> int:
    micro_batches = settings.batch_size // settings.micro_batch_size
    if micro_batches % workers:
        raise UserError(
            f"compute.processes ({workers}) must divide training.batch_size / training.micro_batch_size "
            f"({micro_batches}); change one of the three."
        )
    return micro_batches // workers
