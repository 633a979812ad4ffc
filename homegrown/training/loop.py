"""The pretraining loop, as each worker runs it."""

import math
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch import Tensor

from homegrown.errors import UserError
from homegrown.model.config import ModelConfig
from homegrown.model.generation import generate
from homegrown.model.transformer import Transformer
from homegrown.seeds import derive
from homegrown.tokens.loader import Batches, TokenSplit
from homegrown.tokens.rows import NO_TARGET, parts
from homegrown.tokens.special import special_ids
from homegrown.tokens.tokenizer import load, token_bytes
from homegrown.training import microbatch
from homegrown.training.checkpoints import Checkpoints, TrainingState
from homegrown.training.curve import draw_curve
from homegrown.training.job import CHECKPOINTS, Job
from homegrown.training.metrics import Sample, StepMetrics
from homegrown.training.objective import accumulating, clip_gradients, whole
from homegrown.training.objective import share as share_model
from homegrown.training.optimizer import optimizers, set_rates
from homegrown.training.precision import choose_precision
from homegrown.training.report import Report
from homegrown.training.schedule import share
from homegrown.training.stopping import Stop
from homegrown.training.validation import Validation, Validator
from homegrown.training.workers import Worker

_SAMPLE_TEMPERATURE = 0.8
_SAMPLE_TOP_P = 0.95


@dataclass(frozen=True)
class Update:
    """What one optimizer step measured."""

    loss: float
    gradient_norm: float
    stop: bool  # a worker was told to end


class Trainer:
    """One worker's model, optimizer and data, and the state that goes from checkpoint to checkpoint."""

    def __init__(self, job: Job, out: Path, worker: Worker):
        """Open the data and build the model.

        Raises:
            UserError: a setting does not fit the data, the tokenizer or the number of workers.
        """
        self.settings, self.seed, self.out, self.worker = job.training, job.seed, out, worker
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
        microbatch.check(self.settings, worker.count)
        self.prompts = _encode_prompts(self.tokenizer, self.settings.sample_prompts, self.config.context)
        torch.manual_seed(derive(job.seed, "initialisation"))
        self.model = Transformer(self.config)
        self.model.initialise()
        self.model.model.checkpointing = self.settings.activation_checkpointing
        self.model.to(worker.device)
        self.parallel = job.parallel
        self.scaler = self.precision.scaler()
        self.state = TrainingState()

    def start(self, report: Report) -> int:
        """Share the model with the other workers, who all call this, and go back to the newest intact checkpoint.

        Returns:
            The checkpoint's step, 0 for a fresh start.
        """
        worker = self.worker
        self.objective = share_model(self.model, worker, self.parallel)
        self.optimizers = optimizers(self.model, self.settings)
        with self._memory_errors(), self.precision.autocast():
            self.micro_batch_size = microbatch.choose(
                self.settings, self.config.context, self.batches.window, worker, self.objective, self.optimizers
            )
        self.checkpoints = Checkpoints(
            self.out / CHECKPOINTS, self.settings.keep_checkpoints, report.note, worker.writers, worker.device
        )
        step = worker.agree(self.checkpoints.newest() if worker.leads else 0)
        if step:
            self.state = self.checkpoints.load(step, self.model, self.optimizers)
            self.scaler.load_state_dict(self.state.scaler)
        return step

    def run(self, report: Report, stop: Stop) -> None:
        """Train until the last step, until validation has stopped improving, or until `stop` is wished in any worker.

        Whichever it is, a checkpoint of the last step taken is on disk at the end.

        Raises:
            UserError: the loss is no longer a number, or the GPU's memory is full.
            OSError: the disk was too full for the last checkpoint of a finished training (ENOSPC).
        """
        self.model.train()
        with ThreadPoolExecutor(1) as loader, self._memory_errors():
            batches, stopped = self._batches(loader), False
            while not (self.finished or stopped):
                stopped = self._step(next(batches), stop, report)
        self.checkpoints.settle(self.state, required=self.finished)

    @property
    def finished(self) -> bool:
        """Whether there is nothing left to train."""
        patience = self.settings.patience
        impatient = patience is not None and self.state.validations_since_best >= patience
        return impatient or self.state.step >= self.settings.max_steps

    def _step(self, windows: Tensor, stop: Stop, report: Report) -> bool:
        """Take one step with all that is due after it; say whether a worker wishes to stop."""
        settings, state, began = self.settings, self.state, time.perf_counter()
        state.step += 1
        rate_share = share(state.step, settings)
        rate = settings.learning_rate * rate_share
        set_rates(self.optimizers, rate_share)
        update = self._update(windows, stop)
        batch_tokens = settings.batch_size * self.config.context
        speed = batch_tokens / (time.perf_counter() - began)
        validation, improved = None, False
        if state.step % settings.validate_every == 0 or state.step == settings.max_steps:
            with whole(self.objective):
                validation = self.validator(self.model, self.micro_batch_size)
            improved = self._compare(validation)
        if self.finished or state.step % settings.sample_every == 0:
            with whole(self.objective):
                self._sample()
        state.seconds += time.perf_counter() - began
        row = StepMetrics(
            step=state.step,
            tokens=state.step * batch_tokens,
            loss=update.loss,
            learning_rate=rate,
            gradient_norm=update.gradient_norm,
            tokens_per_second=speed,
            seconds=state.seconds,
            validation_loss=validation.loss if validation else None,
            validation_bits_per_byte=validation.bits_per_byte if validation else None,
        )
        state.metrics.append(row)
        if improved or self.finished or update.stop or state.step % settings.checkpoint_every == 0:
            state.scaler = self.scaler.state_dict()
            self.checkpoints.save(self.model, self.optimizers, state)
        if not self.worker.leads:
            return update.stop
        if validation:
            draw_curve(self.out / "curve.png", state.metrics)
        said: dict[str, float] = {"loss": row.loss, "learning_rate": rate, "tokens_per_second": speed}
        if validation:
            said["validation_bits_per_byte"] = validation.bits_per_byte
        report.step(state.step, settings.max_steps, validation is not None, **said)
        return update.stop

    def _update(self, windows: Tensor, stop: Stop) -> Update:
        """Take one optimizer step on this worker's `windows` of the batch, all workers together."""
        batch_tokens = self._targets(windows)
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
                self.scaler.scale(loss * (self.worker.count / batch_tokens)).backward()
            nats += loss.detach()
        for optimizer in self.optimizers:
            self.scaler.unscale_(optimizer)
        norm = clip_gradients(self.model, self.settings.clip_norm)
        for optimizer in self.optimizers:
            self.scaler.step(optimizer)
            optimizer.zero_grad(set_to_none=True)
        self.scaler.update()
        wishes = torch.tensor([stop.wished], dtype=torch.float64, device=self.worker.device)
        total, stops = self.worker.sum(torch.cat([nats[None], wishes])).tolist()
        mean = total / batch_tokens
        if not math.isfinite(mean):
            raise UserError(
                f"The training loss is {mean} at step {self.state.step}; lower training.learning_rate "
                f"({self.settings.learning_rate}) or raise training.warmup_steps."
            )
        return Update(mean, norm, stops > 0)

    def _targets(self, windows: Tensor) -> int:
        """Return how many tokens the whole batch predicts: one at each place, but for the padding of rows."""
        _, targets, starts = parts(windows)
        if starts is None:
            return self.settings.batch_size * self.config.context
        return int(self.worker.sum((targets != NO_TARGET).sum()))

    def _compare(self, validation: Validation) -> bool:
        """Say whether the weights are the best so far, and remember it."""
        state = self.state
        if state.best_loss is not None and validation.loss >= state.best_loss:
            state.validations_since_best += 1
            return False
        state.best_loss, state.best_step, state.validations_since_best = validation.loss, state.step, 0
        return True

    def _sample(self) -> None:
        if not self.worker.leads or not self.prompts:
            return
        with self.precision.autocast():
            written = generate(
                self.model,
                self.prompts,
                max_new_tokens=self.settings.sample_tokens,
                temperature=_SAMPLE_TEMPERATURE,
                top_p=_SAMPLE_TOP_P,
                seed=derive(self.seed, "samples"),
                stop_ids={special_ids(self.tokenizer).eos},
            )
        for prompt, tokens in zip(self.settings.sample_prompts, written, strict=True):
            self.state.samples.append(Sample(self.state.step, prompt, self.tokenizer.decode(tokens)))

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

        def read(step: int) -> Tensor:
            windows = torch.from_numpy(self.batches.batch(step)[mine])
            return windows.pin_memory() if self.worker.kind == "cuda" else windows

        coming = loader.submit(read, self.state.step)
        for step in range(self.state.step, self.settings.max_steps):
            windows = coming.result()
            coming = loader.submit(read, step + 1)
            yield windows.to(self.worker.device, non_blocking=True)


def _encode_prompts(tokenizer: Tokenizer, prompts: list[str], context: int) -> list[list[int]]:
    start = special_ids(tokenizer).bos
    encoded = [[start, *tokenizer.encode(prompt, add_special_tokens=False).ids] for prompt in prompts]
    for prompt, tokens in zip(prompts, encoded, strict=True):
        if len(tokens) > context:
            raise UserError(
                f"The prompt {prompt[:40]!r} of training.sample_prompts has {len(tokens)} tokens, more than "
                f"model.context ({context}); shorten it."
            )
    return encoded
