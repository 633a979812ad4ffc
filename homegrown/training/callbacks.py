"""What every run does after a step, as callbacks of the trainer; `standard` lists them in their order."""

import math
import time

from homegrown.data.loader import TokenSplit
from homegrown.training.job import EVENTS
from homegrown.training.journal import Journal
from homegrown.training.metrics import StepMetrics
from homegrown.training.objective import unsharded
from homegrown.training.samples import Sampler
from homegrown.training.schedule import stable_steps
from homegrown.training.tensorboard import EventFile
from homegrown.training.trainer import Callback, Step, Trainer
from homegrown.training.validation import Validator
from homegrown.util.devices import peak_memory
from homegrown.util.progress import Metric
from homegrown.util.seeds import derive


def standard(*more: Callback) -> list[Callback]:
    """Return the callbacks of a run.

    The order matters: a validation decides what is the best step; samples are due at a step that ends training; the
    metrics of a step hold both. `more` see all of that and come before the checkpoint, which keeps their state; the
    files that people watch come last.
    """
    return [
        Validate(),
        StopEarly(),
        WriteSamples(),
        RecordMetrics(),
        *more,
        SaveCheckpoints(),
        WriteJournal(),
        WriteEvents(),
        ReportProgress(),
    ]


class Validate(Callback):
    """Measures the validation loss every `validate_every` steps, and at the last."""

    def attach(self, trainer: Trainer) -> None:
        """Choose the windows; raises UserError if the validation split is empty."""
        self.every = trainer.settings.validate_every
        self.validator = Validator(
            TokenSplit(trainer.job.packed, "validation"),
            trainer.config.context,
            trainer.settings,
            trainer.token_bytes,
            trainer.worker,
            trainer.precision,
        )

    def is_due(self, trainer: Trainer, step: Step) -> bool:
        """See `Callback`."""
        return super().is_due(trainer, step) or step.number == trainer.settings.max_steps

    def on_step_end(self, trainer: Trainer, step: Step) -> None:
        """Write `step.validation`."""
        with trainer.averaged(), unsharded(trainer.objective):
            step.validation = self.validator(trainer.terms, trainer.micro_batch_size)


class StopEarly(Callback):
    """Finishes after `patience` validations without a better one; the run's result is then the best.

    Without `patience` it does nothing, and the result is the last step. A loss that is not finite is never the best.
    """

    def __init__(self) -> None:
        self._validations_since_best = 0

    def is_due(self, trainer: Trainer, step: Step) -> bool:
        """After a validation, unless the last update was skipped."""
        return trainer.settings.patience is not None and step.validation is not None and trainer.spikes.calm

    def on_step_end(self, trainer: Trainer, step: Step) -> None:
        """Compare with the best loss so far, and write `step.improved`."""
        state = trainer.state
        assert step.validation is not None
        loss = step.validation.loss
        step.improved = math.isfinite(loss) and (state.best_loss is None or loss < state.best_loss)
        self._validations_since_best += 1
        if step.improved:
            state.best_loss, state.best_step, self._validations_since_best = loss, step.number, 0

    def finished(self, trainer: Trainer) -> bool:
        """See `Callback`."""
        patience = trainer.settings.patience
        return patience is not None and self._validations_since_best >= patience

    def state_dict(self) -> dict[str, int]:
        """See `Callback`."""
        return {"validations_since_best": self._validations_since_best}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """See `Callback`."""
        self._validations_since_best = state["validations_since_best"]


class WriteSamples(Callback):
    """Completes the prompts every `sample_every` steps, and at the last."""

    def attach(self, trainer: Trainer) -> None:
        """Take the prompts."""
        self.every = trainer.settings.sample_every
        self._sampler = Sampler(
            trainer.tokenizer,
            trainer.task.prompts,
            trainer.task.stop_ids,
            trainer.settings.sample_tokens,
            trainer.precision,
            derive(trainer.seed, "samples"),
        )

    def is_due(self, trainer: Trainer, step: Step) -> bool:
        """See `Callback`."""
        return super().is_due(trainer, step) or trainer.finished

    def on_step_end(self, trainer: Trainer, step: Step) -> None:
        """Write `step.samples`, in the leading worker."""
        with trainer.averaged(), unsharded(trainer.objective):
            if trainer.worker.leads:
                step.samples = self._sampler(trainer.model, step.number)


class RecordMetrics(Callback):
    """Adds each step's metrics and samples to the state; its `seconds` end here."""

    def on_step_end(self, trainer: Trainer, step: Step) -> None:
        """Append to `trainer.state`."""
        state, update, validation = trainer.state, step.update, step.validation
        state.seconds += time.perf_counter() - step.began
        state.metrics.append(
            StepMetrics(
                step=step.number,
                tokens=step.number * trainer.batch_tokens,
                loss=update.loss,
                learning_rate=step.lr,
                gradient_norm=update.grad_norm,
                tokens_per_second=trainer.watch.tokens_per_second,
                model_flops_utilisation=trainer.watch.mfu,
                peak_memory_bytes=peak_memory(trainer.worker.device),
                skipped=update.skipped,
                seconds=state.seconds,
                validation_loss=validation.loss if validation else None,
                validation_bits_per_byte=validation.bits_per_byte if validation else None,
                validation_by_source=validation.by_source if validation else {},
            )
        )
        state.samples += step.samples


class SaveCheckpoints(Callback):
    """Saves a checkpoint every `checkpoint_every` steps, at the best validation, before a decay, and at the end.

    While updates are skipped it saves none: the weights may be what training has to roll back from.
    """

    def attach(self, trainer: Trainer) -> None:
        """See `Callback`."""
        self.every = trainer.settings.checkpoint_every

    def is_due(self, trainer: Trainer, step: Step) -> bool:
        """See `Callback`."""
        extendable = step.number == stable_steps(trainer.settings) and trainer.settings.keep_checkpoints > 1
        wanted = step.improved or trainer.stopped or extendable or super().is_due(trainer, step)
        return (trainer.spikes.calm and wanted) or (trainer.finished and not trainer.spikes.must_roll_back)

    def on_step_end(self, trainer: Trainer, step: Step) -> None:
        """Begin to write a checkpoint."""
        trainer.save()


class WriteJournal(Callback):
    """Writes each step as a line of JSON, and the samples as a table."""

    _journal: Journal | None = None

    def on_train_begin(self, trainer: Trainer) -> None:
        """Begin the files with the steps so far, in the leading worker."""
        if trainer.worker.leads:
            self._journal = Journal(trainer.out, trainer.state.metrics, trainer.state.samples)

    def on_step_end(self, trainer: Trainer, step: Step) -> None:
        """Add the step."""
        if self._journal:
            self._journal.add(trainer.state.metrics[-1], step.samples)

    def on_train_end(self, trainer: Trainer) -> None:
        """Close the files."""
        if self._journal:
            self._journal.close()


class WriteEvents(Callback):
    """Writes what TensorBoard shows."""

    _events: EventFile | None = None

    def on_train_begin(self, trainer: Trainer) -> None:
        """Begin a file with the steps so far, in the leading worker."""
        if trainer.worker.leads:
            self._events = EventFile(trainer.out / EVENTS, trainer.state.metrics, trainer.state.samples)

    def on_step_end(self, trainer: Trainer, step: Step) -> None:
        """Add the step."""
        if self._events:
            self._events.add(trainer.state.metrics[-1], step.samples)

    def on_train_end(self, trainer: Trainer) -> None:
        """Close the file."""
        if self._events:
            self._events.close()


class ReportProgress(Callback):
    """Reports to the launching process: ordinary steps a few times a second, validations always."""

    def is_due(self, trainer: Trainer, step: Step) -> bool:
        """See `Callback`."""
        return trainer.worker.leads and (step.validation is not None or trainer.report.is_due())

    def on_step_end(self, trainer: Trainer, step: Step) -> None:
        """Report the last step's figures, the most important first."""
        metrics, spikes = trainer.state.metrics, trainer.spikes
        last = metrics[-1]
        figures: dict[str, Metric] = {"loss": last.loss}
        validated = (row.validation_bits_per_byte for row in reversed(metrics))
        if bits := next((value for value in validated if value is not None), None):
            figures["validation_bits_per_byte"] = bits
        figures["tokens_per_second"] = last.tokens_per_second
        figures["model_flops_utilisation"] = last.model_flops_utilisation
        if spikes.skipped_steps:
            figures |= {"skipped_steps": spikes.skipped_steps, "rolled_back_steps": spikes.rolled_back_steps}
        figures["learning_rate"] = last.learning_rate
        figures["seconds_left"] = trainer.watch.seconds_left(last.step)
        trainer.report.step(last.step, trainer.settings.max_steps, **figures)
