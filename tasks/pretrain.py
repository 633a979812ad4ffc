"""Pretrain: weights, metrics, samples and a curve."""

from pathlib import Path

from homegrown import devices
from homegrown.outcome import Outcome
from homegrown.recipe import ModelSettings, TrainingSettings
from tasks.locks import computing_on
from tasks.panels import Panel, picture
from tasks.stage import Handle, Work, stage


def _curve(folder: Path) -> str | None:
    file = folder / "curve.png"
    return picture(file, "loss and learning rate") if file.is_file() else None


def _report(folder: Path) -> str:
    import pyarrow.parquet as pq

    samples = pq.read_table(folder / "samples.parquet").to_pylist()[-3:]
    parts = [_curve(folder) or ""]
    for sample in samples:
        text = sample["text"].replace("```", "` ` `")
        prompt = f"after `{sample['prompt']}`" if sample["prompt"] else "from the start of a document"
        parts.append(f"**Step {sample['step']}**, {prompt}\n\n```text\n{text}\n```")
    return "\n\n".join(parts)


@stage(
    "pretrain",
    engine=["homegrown.training.pretrain", "homegrown.training.worker"],
    seeded=True,
    panel=Panel(markdown=_report, live=_curve),
)
def pretrain(work: Work, settings: TrainingSettings, model: ModelSettings, pack: Handle, tokenizer: Handle) -> Outcome:
    """Train the model; goes on from the last checkpoint after a kill."""
    from homegrown.training import pretrain as engine

    device = devices.resolve(work.compute.device)
    with computing_on(device, work.compute.processes):
        return engine.pretrain(
            work.out,
            pack.path,
            tokenizer.path,
            model,
            settings,
            seed=work.seed,
            device=device,
            processes=work.compute.processes,
            parallel=work.compute.parallel,
            progress=work.progress,
        )
