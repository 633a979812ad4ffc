"""The pretraining loop, as each worker runs it."""

import math
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from homegrown.errors import UserError
from homegrown.model.config import ModelConfig
from homegrown.model.generation import generate
from homegrown.model.transformer import Transformer
from homegrown.recipe import TrainingSettings
from homegrown.seeds import derive
from homegrown.tokens.loader import Batches, TokenSplit
from homegrown.tokens.tokenizer import BOS_ID, EOS_ID, load, token_bytes
from homegrown.training.checkpoints import Checkpoints, TrainingState
from homegrown.training.curve import draw_curve
from homegrown.training.job import CHECKPOINTS, Job
from homegrown.training.metrics import Sample, StepMetrics
from homegrown.training.optimizer import optimizers, set_rates
from homegrown.training.precision import choose_precision
from homegrown.training.report import Report
from homegrown.training.schedule import share
from homegrown.training.validation import Validation, Validator
from homegrown.training.workers import Worker

_SAMPLE_TEMPERATURE = 0.8
_SAMPLE_TOP_P = 0.95


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
        self.micro_batches = _share_of_batch(self.settings, worker.count)
        self.prompts = _encode_prompts(self.tokenizer, self.settings.sample_prompts, self.config.context)
        torch.manual_seed(derive(job.seed, "initialisation"))
        self.model = Transformer(self.config)
        self.model.initialise()
        self.model.to(worker.device)
        self.optimizers = optimizers(self.model, self.settings)
        self.scaler = self.precision.scaler()
        self.checkpoints = Checkpoints(out / CHECKPOINTS)
        self.state = TrainingState()

    def resume(self, report: Report) -> int:
        """Go back to the newest intact checkpoint and return its step, 0 for a fresh start."""
        found = self.checkpoints.newest(report.note) if self.worker.leads else 0
        step = self.worker.agree(found)
        if step:
            self.state = self.checkpoints.load(step, self.model, self.optimizers)
            self.scaler.load_state_dict(self.state.scaler)
        return step

    def run(self, report: Report) -> None:
        """Train until the last step or until validation has stopped improving.

        Raises:
            UserError: the loss is no longer a number.
        """
        objective = self.worker.share(NextToken(self.model))
        self.model.train()
        with ThreadPoolExecutor(1) as loader:
            batches = self._batches(loader)
            while not self.finished:
                self._step(objective, next(batches), report)

    @property
    def finished(self) -> bool:
        """Whether there is nothing left to train."""
        patience = self.settings.patience
        impatient = patience is not None and self.state.validations_since_best >= patience
        return impatient or self.state.step >= self.settings.max_steps

    def _step(self, objective: nn.Module, windows: Tensor, report: Report) -> None:
        settings, state, began = self.settings, self.state, time.perf_counter()
        state.step += 1
        rate_share = share(state.step, settings)
        rate = settings.learning_rate * rate_share
        set_rates(self.optimizers, rate_share)
        update = self._update(objective, windows)
        batch_tokens = settings.batch_size * self.config.context
        speed = batch_tokens / (time.perf_counter() - began)
        validation = None
        if state.step % settings.validate_every == 0 or state.step == settings.max_steps:
            validation = self.validator(self.model)
            self._compare(validation)
        if self.finished or state.step % settings.sample_every == 0:
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
        if not self.worker.leads:
            return
        if self.finished or state.step % settings.checkpoint_every == 0:
            state.scaler = self.scaler.state_dict()
            self.checkpoints.save(self.model, self.optimizers, state)
        if validation:
            draw_curve(self.out / "curve.png", state.metrics)
        said: dict[str, float] = {"loss": row.loss, "learning_rate": rate, "tokens_per_second": speed}
        if validation:
            said["validation_bits_per_byte"] = validation.bits_per_byte
        report.step(state.step, settings.max_steps, validation is not None, **said)

    def _update(self, objective: nn.Module, windows: Tensor) -> Update:
        """Take one optimizer step on this worker's `windows` of the batch, all workers together."""
        batch_tokens = self.settings.batch_size * self.config.context
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
                self.scaler.scale(loss * (self.worker.count / batch_tokens)).backward()
            nats += loss.detach()
        for optimizer in self.optimizers:
            self.scaler.unscale_(optimizer)
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.settings.clip_norm)
        for optimizer in self.optimizers:
            self.scaler.step(optimizer)
            optimizer.zero_grad(set_to_none=True)
        self.scaler.update()
        mean = float(self.worker.sum(nats)) / batch_tokens
        if not math.isfinite(mean):
            raise UserError(
                f"The training loss is {mean} at step {self.state.step}; lower training.learning_rate "
                f"({self.settings.learning_rate}) or raise training.warmup_steps."
            )
        return Update(mean, float(norm))

    def _compare(self, validation: Validation) -> None:
        """Remember the weights if they are the best so far."""
        state = self.state
        if state.best_loss is not None and validation.loss >= state.best_loss:
            state.validations_since_best += 1
            return
        state.best_loss, state.best_step, state.validations_since_best = validation.loss, state.step, 0
        if self.worker.leads:
            self.checkpoints.save_best(self.model, state.step)

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
                stop_ids={EOS_ID},
            )
        for prompt, tokens in zip(self.settings.sample_prompts, written, strict=True):
            self.state.samples.append(Sample(self.state.step, prompt, self.tokenizer.decode(tokens)))

    def _batches(self, loader: ThreadPoolExecutor) -> Iterator[Tensor]:
        """Yield this worker's int64 [rows, context + 1] of each step's batch, the next one loaded meanwhile."""
        rows = self.micro_batches * self.settings.micro_batch_size
        mine = slice(self.worker.rank * rows, (self.worker.rank + 1) * rows)

        def read(step: int) -> Tensor:
            windows = torch.from_numpy(self.batches.batch(step)[mine])
            return windows.pin_memory() if self.worker.kind == "cuda" else windows

        coming = loader.submit(read, self.state.step)
        for step in range(self.state.step, self.settings.max_steps):
            windows = coming.result()
            coming = loader.submit(read, step + 1)
            yield windows.to(self.worker.device, non_blocking=True)


def _share_of_batch(settings: TrainingSettings, workers: int) -> int:
    micro_batches = settings.batch_size // settings.micro_batch_size
    if micro_batches % workers:
        raise UserError(
            f"compute.processes ({workers}) must divide training.batch_size / training.micro_batch_size "
            f"({micro_batches}); change one of the three."
        )
    return micro_batches // workers


def _encode_prompts(tokenizer: Tokenizer, prompts: list[str], context: int) -> list[list[int]]:
    encoded = [[BOS_ID, *tokenizer.encode(prompt, add_special_tokens=False).ids] for prompt in prompts]
    for prompt, tokens in zip(prompts, encoded, strict=True):
        if len(tokens) > context:
            raise UserError(
                f"The prompt {prompt[:40]!r} of training.sample_prompts has {len(tokens)} tokens, more than "
                f"model.context ({context}); shorten it."
            )
    return encoded
