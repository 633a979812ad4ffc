"""Rates and readings of continued pretraining: what the rules of `homegrown adapt --time` are fitted to.

    python -m benchmarks.adapt_rules TEXT STEPS [RATE ...] [--kilobytes 100] [--repeat]

TEXT is `novel` or `documentation`, or only its first kilobytes. SmolLM2-135M-Instruct, from the extra `starter`, trains
an adapter on it with the settings of the recipe `starter`, in so many steps of 2,048 tokens, once for each RATE (1e-3
without any), and is measured before and after on held-out documents, and on the general text that shows what it forgot.
One thread; losses do not depend on the machine's load. Rows are added to benchmarks/results/adapting.csv; one that is
there is trained again only with `--repeat`. 100 steps take ten minutes. Prepared texts stay in the temporary folder.
The last line is one JSON object: bits per byte by rate.

Needs ../shared/corpora beside the repository for the novel.
"""

import argparse
import json
import shutil
import tempfile
from pathlib import Path

import torch

from benchmarks.adapt import BATCH, CONTEXT, SEED, evaluate_base, held_out_costs, prepare, prepare_base
from benchmarks.measuring import add_row, cpu_seconds, rows_of
from benchmarks.scaling import in_a_process
from homegrown.config.adaptation import AdaptationSettings
from homegrown.config.pipelines import load_recipe
from homegrown.config.training import TrainingSettings
from homegrown.data.loader import TokenSplit
from homegrown.evaluation.general import prepare_general
from homegrown.model import weights
from homegrown.tokenizer.loading import load
from homegrown.training.worker import prepare_environment

TABLE = Path(__file__).parent / "results" / "adapting.csv"
DATA = Path(tempfile.gettempdir()) / "homegrown-adapting"
SETTINGS = ["text", "kilobytes", "steps", "rate"]
COLUMNS = [*SETTINGS, "epochs", "base", "bits_per_byte", "general_base", "general", "cpu_seconds"]

Row = dict[str, str]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text", choices=["novel", "documentation"])
    parser.add_argument("steps", type=int, help="steps of 2,048 tokens")
    parser.add_argument("rates", type=float, nargs="*", metavar="RATE", help="learning rates (default 1e-3)")
    parser.add_argument("--kilobytes", type=int, help="length of the text (default: all of it)")
    parser.add_argument("--repeat", action="store_true", help="train rows of the table again")
    arguments = parser.parse_intermixed_args()
    prepare_environment()
    found: dict[str, float] = {}
    for rate in arguments.rates or [1e-3]:
        wanted = {
            "text": arguments.text,
            "kilobytes": str(arguments.kilobytes or ""),
            "steps": str(arguments.steps),
            "rate": f"{rate:g}",
        }
        row = next((one for one in reversed(rows_of(TABLE)) if wanted.items() <= one.items()), None)
        if row is None or arguments.repeat:
            row = in_a_process(measured, wanted)
            add_row(TABLE, COLUMNS, row)
        found[row["rate"]] = float(row["bits_per_byte"])
        print(" ".join(f"{name} {value}" for name, value in row.items() if value), flush=True)
    print(json.dumps(found))


def text_of(name: str, kilobytes: int | None) -> tuple[Path, Path]:
    """Return the folders of a prepared text and of the base, made once."""
    base, data = DATA / "base" / "model", DATA / f"{name}-{kilobytes or 'all'}"
    if not base.exists():
        prepare_base(DATA / "base")
    if not (data / "ready").exists():
        shutil.rmtree(data, ignore_errors=True)
        prepare(data, name, base, kilobytes)
        (data / "ready").touch()
    return data, base


def measured(row: Row) -> Row:
    """Train a row, in a process of its own, and return it with its results."""
    from benchmarks.training_contestants import only_worker
    from homegrown.finetuning.adaptation import AdaptationJob
    from homegrown.training import trainer
    from homegrown.training.callbacks import standard
    from homegrown.training.job import PROGRESS
    from homegrown.training.progress_file import Report
    from homegrown.training.stopping import Stop

    torch.set_num_threads(1)
    data, base = text_of(row["text"], int(row["kilobytes"]) if row["kilobytes"] else None)
    steps = int(row["steps"])
    alone = dict.fromkeys(("max_steps", "validate_every", "checkpoint_every", "sample_every"), steps)
    changes = {
        **alone,
        "batch_size": BATCH,
        "micro_batch_size": 1,
        "learning_rate": float(row["rate"]),
        "warmup_steps": min(steps // 10, 10),
        "sample_prompts": [],
    }
    settings = TrainingSettings.model_validate(load_recipe("starter").training.model_dump() | changes)
    job = AdaptationJob(
        packed=data / "pack",
        tokenizer=base,
        base=base,
        training=settings,
        adaptation=AdaptationSettings.model_validate({"method": "lora", "context": CONTEXT}),
        seed=SEED,
        device="cpu",
    )
    general = prepare_general(load(base), data / "pack", CONTEXT, CONTEXT // 2)
    assert general is not None
    before = evaluate_base(data, base, 1).bits_per_byte
    general_before = general.costs(weights.load(base, dtype=torch.float32).eval()).bits_per_byte
    folder = Path(tempfile.mkdtemp())
    run = trainer.Trainer(job, folder, only_worker(folder), Report(folder / PROGRESS), standard())
    run.start()
    began = cpu_seconds()
    run.run(Stop())
    spent = cpu_seconds() - began
    run.task.keep(run.checkpoints, run.state.step, folder / "out")
    result = weights.load(folder / "out" / "model", dtype=torch.float32)
    after, general_after = (one.bits_per_byte for one in (held_out_costs(result, data, base), general.costs(result)))
    shutil.rmtree(folder)
    epochs = steps * BATCH * CONTEXT / TokenSplit(data / "pack", "train").tokens
    found = {"base": before, "bits_per_byte": after, "general_base": general_before, "general": general_after}
    figures = {name: f"{value:.4f}" for name, value in found.items()}
    return row | {"epochs": f"{epochs:.2f}", **figures, "cpu_seconds": f"{spent:.0f}"}


if __name__ == "__main__":
    main()
