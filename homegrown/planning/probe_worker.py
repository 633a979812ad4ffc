"""The process of one worker of a probe: `python -m homegrown.planning.probe_worker JOB`, started by the launcher."""

import statistics
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from homegrown.model.config import ModelConfig
from homegrown.planning.compute import Adapter, flops_per_token, step_tokens
from homegrown.planning.energy import EnergyMeter
from homegrown.planning.machine import this_machine
from homegrown.planning.probe import RESULT, Probed, ProbeJob, slice_of
from homegrown.training.job import PARENT_LOCK, PROGRESS, REFUSAL
from homegrown.training.pretraining import Job, NewModel
from homegrown.training.stopping import Stop, end_process
from homegrown.training.worker import prepare_environment
from homegrown.util import devices
from homegrown.util.errors import UserError
from homegrown.util.files import replacing

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from homegrown.data.loader import TokenSplit
    from homegrown.model.transformer import Transformer
    from homegrown.training.distributed import Worker

_LEAST_STEPS = 2
_NEVER = 10**9


class _AdapterJob(Job):
    """The training of an adapter on a new model, which takes the time and memory of one on a base."""

    adapter: Adapter

    def task(self, train: "TokenSplit", tokenizer: "Tokenizer") -> NewModel:
        """See `TrainingJob`."""
        return _NewModelBelowAdapter(self, train, tokenizer)


class _NewModelBelowAdapter(NewModel):
    """A new model, frozen in the type of the products, below an adapter; a `TrainingTask`."""

    def __init__(self, job: _AdapterJob, train: "TokenSplit", tokenizer: "Tokenizer"):
        super().__init__(job, train, tokenizer)
        self._adapter, self._precision = job.adapter, job.training.precision
        self._kind = job.device
        self.flops_per_token = flops_per_token(self.config, job.adapter)

    def begin(self) -> "Transformer":
        """See `TrainingTask`."""
        from homegrown.config.finetune_recipe import FinetuneSettings
        from homegrown.model import lora
        from homegrown.model.trained_rows import VOCABULARY
        from homegrown.training.precision import choose_precision

        model, adapter = super().begin(), self._adapter
        products = choose_precision(self._precision, self._kind).dtype
        beside = VOCABULARY if adapter.embeddings else ()
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1 and name not in beside:
                parameter.data = parameter.data.to(products)
        settings = FinetuneSettings(
            method="lora", rank=adapter.rank, dropout=adapter.dropout, targets=[*adapter.targets]
        )
        lora.attach(model, settings, [])
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(parameter.requires_grad or name in beside)
        return model


def main(path: Path) -> None:
    """Measure the job at `path` and write the result beside it; a UserError goes to a file of its own."""
    prepare_environment()
    stop = Stop()
    stop.without_parent(path.parent / PARENT_LOCK)
    try:
        result = measure(ProbeJob.model_validate_json(path.read_bytes()), path.parent, stop)
    except UserError as error:
        with replacing(path.parent / REFUSAL) as temporary:
            temporary.write_text(str(error))
        return
    if result:
        with replacing(path.parent / RESULT) as temporary:
            temporary.write_text(result.model_dump_json())


def measure(order: ProbeJob, out: Path, stop: Stop) -> Probed | None:
    """Train the probe's job; return the measurements in the leading worker, None in the others."""
    import torch

    from homegrown.training.callbacks import standard
    from homegrown.training.distributed import Worker
    from homegrown.training.peak import matmul_peak
    from homegrown.training.progress_file import Report
    from homegrown.training.trainer import Trainer

    worker = Worker(order.job.device)
    worker.join(out)
    job = _training(order, worker)
    base = devices.peak_memory(worker.device)
    trainer = Trainer(job, out, worker, Report(out / PROGRESS), standard())
    trainer.start()
    steps = trainer.steps(stop)
    # The first step compiles and allocates. The second may too, so it counts only if a step is slow.
    began = time.perf_counter()
    next(steps)
    started = time.process_time() + sum(psutil.Process().parent().cpu_times()[:2])
    if worker.agree(time.perf_counter() - began < order.seconds):
        next(steps)
    warm = len(trainer.state.metrics)
    meter, began, busy, taken = EnergyMeter(), time.perf_counter(), time.process_time(), 0
    while not worker.agree(taken >= _LEAST_STEPS and time.perf_counter() - began >= order.seconds):
        next(steps)
        taken += 1
    watts, busy = meter.watts(), time.process_time() - busy
    worker.leave()
    if not worker.leads:
        return None
    measured = trainer.state.metrics[warm:]
    speed = statistics.median(row.tokens_per_second for row in measured)
    return Probed(
        model=job.model,
        training=job.training,
        device=this_machine().processor if worker.kind == "cpu" else devices.describe(worker.kind),
        kind=worker.kind,
        precision=str(trainer.precision.products).removeprefix("torch."),
        micro_batch_size=trainer.micro_batch_size,
        compiled=job.training.compile == "always",
        steps=taken,
        step_seconds=trainer.batch_tokens / speed,
        busy_seconds=busy / taken / torch.get_num_threads(),
        tokens_per_second=speed,
        model_flops_utilisation=statistics.median(row.model_flops_utilisation for row in measured),
        peak_flops=matmul_peak(worker.device, trainer.precision.products),
        seconds_to_first_step=trainer.state.seconds_to_first_step or 0.0,
        busy_seconds_to_first_step=started,
        peak_memory_bytes=measured[-1].peak_memory_bytes,
        base_memory_bytes=base,
        watts=watts,
    )


def _training(order: ProbeJob, worker: "Worker") -> Job:
    """Return the job to measure: a slice if requested, without validations, samples and checkpoints."""
    from homegrown.data.index import read_index
    from homegrown.training.compilation import compiles
    from homegrown.training.peak import matmul_peak
    from homegrown.training.precision import choose_precision

    job, vocabulary_size = order.job, read_index(order.job.packed).vocabulary_size
    model, training = job.model, job.training
    config = ModelConfig.from_settings(model, vocabulary_size, training.dropout)
    tokens = step_tokens(config, training) * training.max_steps
    compiled = compiles(training.compile, worker.kind, flops_per_token(config, order.adapter), tokens)
    if order.step_seconds is not None:
        # Compiling on a CPU takes longer than the rest of the probe and saves a twelfth of its time.
        compiled = compiled and worker.kind != "cpu"
        dtype = choose_precision(training.precision, worker.kind).dtype
        model, training = slice_of(
            model,
            training,
            vocabulary_size,
            worker.count,
            order.adapter,
            flops_per_second=matmul_peak(worker.device, dtype),
            step_seconds=order.step_seconds,
            layers=order.layers,
        )
    alone: dict[str, Any] = {
        "max_steps": _NEVER,
        "compile": "always" if compiled else "never",
        "validate_every": _NEVER,
        "validation_tokens": model.context,
        "checkpoint_every": _NEVER,
        "sample_every": _NEVER,
        "sample_prompts": [],
        "spike_deviations": None,
    }
    job = job.model_copy(update={"model": model, "training": training.model_copy(update=alone)})
    return job if order.adapter is None else _AdapterJob(**dict(job), adapter=order.adapter)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
    end_process()
