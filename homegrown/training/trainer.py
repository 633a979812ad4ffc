"""The training loop, as each worker runs it, and the interface of the callbacks that run after each step.

Shapes of tensors, in this package:

    B   sequences in the batch of one optimizer step, over all workers (`training.batch_size`)
    R   sequences in a micro-batch, one forward pass of one worker (`training.micro_batch_size`)
    T   tokens of the context
    H   width of the residual stream
    V   tokens of the vocabulary

`windows` are int64: [rows, T + 1] of contiguous tokens, or [rows, 3, T] of packed rows, which hold inputs, targets and
where the document of each input starts (`homegrown.data.rows`). `rows` is B, B / workers or R. `parts` splits them into
inputs, targets and starts, each [rows, T]. A loss is a float32 scalar, summed over the targets.
"""

import math
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from homegrown.data.loader import Batches, TokenSplit
from homegrown.tokenizer.loading import load, token_bytes
from homegrown.training import fp8, microbatch
from homegrown.training.averaging import WeightAverage
from homegrown.training.checkpoints import Checkpoints, TrainingState
from homegrown.training.compilation import compile_model, compiles
from homegrown.training.distributed import Worker
from homegrown.training.job import CHECKPOINTS, EXTENDED, TrainingJob
from homegrown.training.metrics import Sample
from homegrown.training.objective import accumulating, clip_gradients, distribute
from homegrown.training.optimizer import optimizers, set_lr, trained
from homegrown.training.peak import matmul_peak
from homegrown.training.precision import arithmetic, changed, choose_precision
from homegrown.training.progress_file import Report
from homegrown.training.schedule import lr_share
from homegrown.training.spikes import SpikeRule
from homegrown.training.stopping import Stop
from homegrown.training.throughput import Watch
from homegrown.training.validation import Validation
from homegrown.util import devices
from homegrown.util.errors import UserError
from homegrown.util.seeds import derive


@dataclass(frozen=True)
class Update:
    """What one optimizer step measured, over all workers; `grad_norm` is taken before clipping."""

    loss: float
    grad_norm: float
    skipped: bool
    stop: bool
    """Whether a worker was asked to stop."""


@dataclass
class Step:
    """One step, counted from 1, as it passes from callback to callback; `began` is a `time.perf_counter()`."""

    number: int
    began: float
    lr: float
    update: Update
    validation: Validation | None = None
    improved: bool = False
    """Whether `validation` is the best so far."""
    samples: list[Sample] = field(default_factory=list)


class Callback:
    """Work of the trainer beside the update itself, such as validation or checkpoints.

    The trainer calls its callbacks in the order in which they are given, in every worker alike: each sees what those
    before it wrote to the step. `homegrown.training.callbacks.standard` lists those of every run. Subclasses override
    what they need.
    """

    every: int = 1
    """Steps from one `on_step_end` to the next; the estimate of the time left counts on it."""

    @property
    def name(self) -> str:
        """The name of its state in a checkpoint, and of its time in the estimate."""
        return type(self).__name__

    def attach(self, trainer: "Trainer") -> None:
        """Take what it needs of a new trainer, whose model is not built yet.

        Raises:
            UserError: a setting does not fit the data.
        """

    def on_train_begin(self, trainer: "Trainer") -> None:
        """Begin: called before the first step, and again after each return to a checkpoint."""

    def is_due(self, trainer: "Trainer", step: Step) -> bool:
        """Return whether to call `on_step_end` after this step; the same in all workers where they work together."""
        return step.number % self.every == 0

    def on_step_end(self, trainer: "Trainer", step: Step) -> None:
        """Do its work; `trainer.state` already counts this step."""

    def on_train_end(self, trainer: "Trainer") -> None:
        """Close what `on_train_begin` opened, also after an error."""

    def finished(self, trainer: "Trainer") -> bool:
        """Return whether nothing is left to train; the same in all workers, also after a resume."""
        return False

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint has to keep, fit for JSON."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""


class Trainer:
    """One worker's model, optimizers and data, and the state that goes from checkpoint to checkpoint."""

    def __init__(
        self, job: TrainingJob, out: Path, worker: Worker, report: Report, callbacks: Sequence[Callback]
    ) -> None:
        """Open the data and build the model.

        Raises:
            UserError: a setting does not fit the data, the tokenizer or the number of workers.
        """
        self.job, self.settings, self.seed, self.out = job, job.training, job.seed, out
        self.worker, self.report, self.callbacks = worker, report, callbacks
        train = TokenSplit(job.packed, "train")
        self.tokenizer = load(job.tokenizer)
        self.token_bytes = token_bytes(self.tokenizer)
        if len(self.token_bytes) != train.vocabulary_size:
            raise UserError(
                f"The tokens in {job.packed} have a vocabulary of {train.vocabulary_size}, but the tokenizer in "
                f"{job.tokenizer} has {len(self.token_bytes)}; run the stage `pack` again."
            )
        self.task = job.task(train, self.tokenizer)
        self.config = self.task.config
        fp8.check(job.training, worker.kind)
        self.precision = choose_precision(job.training.precision, worker.kind)
        steps = job.training
        self.batches = Batches(
            train, self.config.context, steps.batch_size, derive(job.seed, "batches"), steps.max_steps
        )
        microbatch.check(self.settings, worker.count)
        self.batch_tokens = self.settings.batch_size * self.config.context
        for callback in callbacks:
            callback.attach(self)
        self.model = self.task.begin()
        self.model.model.checkpointing = self.settings.activation_checkpointing
        self.model.to(worker.device)
        if self.precision.eight_bits:
            fp8.convert(self.model, self.config.context)
        self.terms = self.task.objective(self.model)
        self.scaler = self.precision.scaler()
        self.spikes = SpikeRule(self.settings)
        self.state = TrainingState()
        self.stopped = False

    def start(self) -> int:
        """Distribute the model over all workers, who all call this, and resume from the newest intact checkpoint.

        Returns:
            The checkpoint's step, 0 for a fresh start.
        """
        worker, settings = self.worker, self.settings
        self.objective = distribute(self.terms, worker, self.job.parallel)
        self.optimizers = optimizers(self.model, settings, self.task.embedding_lr_share)
        share = settings.averaging
        self.average = None if share is None else WeightAverage(trained(self.model), share)
        with self._memory_errors(), self.precision.autocast():
            self.micro_batch_size = microbatch.choose(
                settings, self.config.context, self.batches.window, worker, self.objective, self.optimizers
            )
        # Only now: a model compiled for any number of rows is slower, and each number tried would be compiled anew.
        tokens = settings.max_steps * self.batch_tokens
        if compiles(settings.compile, worker.kind, self.task.flops_per_token, tokens):
            compile_model(self.model)
        self.checkpoints = Checkpoints(
            self.out / CHECKPOINTS, settings, self.report.note, worker.writers, worker.device
        )
        self.arithmetic = self._arithmetic()
        step = self._restore()
        if step:
            self.spikes.load_state_dict(self.state.spikes)
        elif worker.leads:
            (self.out / EXTENDED).unlink(missing_ok=True)
        return step

    def run(self, stop: Stop) -> None:
        """Train until the last step, until a callback has finished, or until `stop` is requested in any worker.

        A checkpoint is then on disk: of the last step, or, after a stop, of the last step before skipped ones.

        Raises:
            UserError: loss or gradients are not finite or spike repeatedly, or the last validation is not finite; the
                GPU's memory is full.
            OSError: the disk was too full for the last checkpoint of a finished training (ENOSPC).
        """
        for _ in self.steps(stop):
            pass
        self.checkpoints.settle(self.state, required=self.finished)
        if self.finished:
            self._check_result()

    def steps(self, stop: Stop) -> Iterator[None]:
        """Do what `run` does but for its end, one step for each value."""
        self.model.train()
        self.watch = self._watch()
        with ThreadPoolExecutor(1) as loader, self._memory_errors():
            yield from self._until_interrupted(loader, stop)
            while self.spikes.must_roll_back and not self.stopped:
                self._roll_back()
                yield from self._until_interrupted(loader, stop)

    @property
    def finished(self) -> bool:
        """Whether nothing is left to train."""
        return self.state.step >= self.settings.max_steps or any(callback.finished(self) for callback in self.callbacks)

    def _check_result(self) -> None:
        """Raise UserError if training ended with weights that compute no finite loss, also after a resume."""
        validated = (row for row in reversed(self.state.metrics) if row.validation_loss is not None)
        last = next(validated, None)
        if last is not None and not math.isfinite(last.validation_loss or 0.0):
            raise UserError(
                f"Training diverged: the validation loss of step {last.step} is not finite; lower "
                f"training.learning_rate ({self.settings.learning_rate}) or raise training.warmup_steps "
                f"({self.settings.warmup_steps})."
            )

    def save(self) -> None:
        """Begin to write a checkpoint of the last step."""
        state = self.state
        state.arithmetic = self.arithmetic
        state.scaler, state.spikes = self.scaler.state_dict(), self.spikes.state_dict()
        state.callbacks = {callback.name: kept for callback in self.callbacks if (kept := callback.state_dict())}
        self.checkpoints.save(self.model, self.optimizers, state, self.average)

    def release(self) -> None:
        """Free what only more steps need, so that writing the result takes no more memory than training did."""
        self.optimizers, self.average = [], None
        self.checkpoints.release()

    def averaged(self) -> AbstractContextManager[None]:
        """Return a context in which the model has the averaged weights, if the settings ask for an average."""
        return self.average.in_place() if self.average else nullcontext()

    def _until_interrupted(self, loader: ThreadPoolExecutor, stop: Stop) -> Iterator[None]:
        """Train until nothing is left to train, a worker was asked to stop, or training must roll back."""
        batches = self._batches(loader)
        with ExitStack() as begun:
            for callback in self.callbacks:
                callback.on_train_begin(self)
                begun.callback(callback.on_train_end, self)
            while not (self.finished or self.stopped or self.spikes.must_roll_back):
                self._step(next(batches), stop)
                yield

    def _step(self, windows: Tensor, stop: Stop) -> None:
        """Take one step on this worker's `windows` [B / workers, ...], then call the callbacks that are due."""
        state, began = self.state, time.perf_counter()
        state.step += 1
        share = lr_share(state.step, self.settings)
        set_lr(self.optimizers, share)
        with self.watch.timing("update"):
            update = self._update(windows, stop)
            if self.average:
                self.average.update(state.step)
        self.stopped = update.stop
        if state.seconds_to_first_step is None:
            state.seconds_to_first_step = time.time() - self.job.started
        step = Step(state.step, began, self.settings.learning_rate * share, update)
        for callback in self.callbacks:
            if callback.is_due(self, step):
                with self.watch.timing(callback.name):
                    callback.on_step_end(self, step)

    def _update(self, windows: Tensor, stop: Stop) -> Update:
        """Take one optimizer step on this worker's `windows` [B / workers, ...], all workers together."""
        targets = self._targets(windows)
        nats = torch.zeros((), dtype=self.worker.sums, device=self.worker.device)
        micro_batches = torch.split(windows, self.micro_batch_size)
        for place, rows in enumerate(micro_batches):
            # Dropout depends on the micro-batch's place in the batch: the same however many workers share it.
            micro_batch = self.worker.rank * len(micro_batches) + place
            torch.manual_seed(derive(self.seed, "dropout", self.state.step, micro_batch))
            with accumulating(self.objective, last=place == len(micro_batches) - 1):
                with self.precision.autocast():
                    loss = self.objective(rows)
                # Gradients are averaged over workers; the loss is a mean over the batch of all.
                self.scaler.scale(loss * (self.worker.count / targets)).backward()
            nats += loss.detach()
        for optimizer in self.optimizers:
            self.scaler.unscale_(optimizer)
        norm = clip_gradients(self.optimizers, self.settings.clip_norm)
        # Summed together, so that all workers see the same bits and decide alike.
        mine = torch.tensor(
            [norm / self.worker.count, stop.requested], dtype=self.worker.sums, device=self.worker.device
        )
        update = self._judge(targets, *self.worker.sum(torch.cat([nats[None], mine])).tolist())
        # The scaler leaves out only the optimizer whose gradients overflow: the other must not move either.
        taken = not update.skipped and math.isfinite(update.grad_norm)
        for optimizer in self.optimizers:
            if taken:
                self.scaler.step(optimizer)
            optimizer.zero_grad(set_to_none=True)
        self.scaler.update()
        return update

    def _judge(self, targets: int, nats: float, grad_norm: float, stops: float) -> Update:
        loss = nats / targets
        # The scaler looks for its scale by overflowing, leaves such updates out by itself, and halves the scale.
        overflow = self.scaler.is_enabled() and math.isfinite(loss) and not math.isfinite(grad_norm)
        searching = overflow and self.scaler.get_scale() > 1
        skipped = not searching and not self.spikes.admits(loss, grad_norm)
        return Update(loss, grad_norm, skipped, stop=stops > 0)

    def _targets(self, windows: Tensor) -> int:
        """Return over how many terms the loss of the batch of all workers is a mean: the tokens that it predicts."""
        count = self.terms.count(windows)
        return self.batch_tokens if count is None else int(self.worker.sum(count))

    def _arithmetic(self) -> dict[str, int | str]:
        """Return what the bits depend on in this process, with the loss of the first micro-batch before training.

        Each launch begins with the same model, so another loss shows that this process computes otherwise.
        """
        if self.worker.kind != "cpu":
            return {}
        facts = arithmetic(self.worker.count)
        if self.worker.count == 1 or self.job.parallel == "ddp":
            torch.manual_seed(derive(self.seed, "dropout", 0, 0))
            with self._memory_errors(), self.precision.autocast():
                loss = self.terms(torch.from_numpy(self.batches.batch(0)[: self.micro_batch_size]))
            facts["first loss"] = str(loss.item())
        return facts

    def _restore(self) -> int:
        """Load the newest intact checkpoint, all workers together, and return its step; 0 without a checkpoint."""
        self.checkpoints.settle(self.state)
        step = self.worker.agree(self.checkpoints.newest() if self.worker.leads else 0)
        if step:
            self.state = self.checkpoints.load(step, self.model, self.optimizers, self.average)
            self.scaler.load_state_dict(self.state.scaler)
            if difference := changed(self.state.arithmetic, self.arithmetic):
                self.state.inexact = f"resumed at step {step} on other arithmetic ({difference})"
                if self.worker.leads:
                    self.report.note(f"Training {self.state.inexact}; its weights are not those of an undisturbed run.")
            for callback in self.callbacks:
                if callback.name in self.state.callbacks:
                    callback.load_state_dict(self.state.callbacks[callback.name])
        return step

    def _roll_back(self) -> None:
        """Return to a checkpoint and continue with the batches after those used so far.

        Raises:
            UserError: no checkpoint was found, or training has rolled back too often.
        """
        here, seconds = self.state.step, self.state.seconds
        self.checkpoints.settle(self.state)  # before anybody looks for the newest
        if self.worker.leads and self.spikes.fruitless:
            self.checkpoints.drop(self.checkpoints.newest())
        step = self._restore()
        self.spikes.roll_back(here, step, self.state.spikes)
        self.state.seconds = seconds
        if self.worker.leads:
            self.report.note(f"Training rolled back from step {here} to step {step} and skips the batches between.")

    def _watch(self) -> Watch:
        peak = matmul_peak(self.worker.device, self.precision.products)
        peaks = self.worker.sum(torch.tensor(peak, dtype=self.worker.sums, device=self.worker.device))
        every = {callback.name: callback.every for callback in self.callbacks}
        return Watch(self.settings.max_steps, every, self.batch_tokens, self.task.flops_per_token, float(peaks))

    @contextmanager
    def _memory_errors(self) -> Iterator[None]:
        """Turn a GPU's lack of memory into a UserError."""
        try:
            yield
        except torch.OutOfMemoryError as error:
            raise UserError(
                f"The GPU ran out of memory after step {self.state.step}; lower training.micro_batch_size, set "
                "training.activation_checkpointing, or shard the model over several GPUs with compute.parallel 'fsdp'."
            ) from error

    def _batches(self, loader: ThreadPoolExecutor) -> Iterator[Tensor]:
        """Yield this worker's windows [B / workers, ...] of each step's batch; the next one is loaded meanwhile."""
        rows = self.settings.batch_size // self.worker.count
        mine = slice(self.worker.rank * rows, (self.worker.rank + 1) * rows)

        def read(number: int) -> Tensor:
            windows = torch.from_numpy(self.batches.batch(number)[mine])
            return windows.pin_memory() if devices.traits(self.worker.kind).pins else windows

        first = self.state.step + self.spikes.rolled_back_steps
        coming = loader.submit(read, first)
        for number in count(first + 1):
            windows = coming.result()
            coming = loader.submit(read, number)
            yield windows.to(self.worker.device, non_blocking=True)
