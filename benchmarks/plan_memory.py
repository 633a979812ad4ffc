"""Memory that `plan` predicts for a training on this processor, beside the peak of the real training process.

    python -m benchmarks.plan_memory [--preset tiny small medium] [--steps 3] [--set training.dropout=0.1]

Each preset trains for a few steps on made-up tokens as a run does, from the imports to the written result, with a
small batch: `tiny` has its own, the others two sequences in two passes. `medium` needs 12 GB and half an hour of a
processor. The last line is one JSON object.
"""

import argparse
import json
import tempfile
from dataclasses import dataclass
from pathlib import Path

from homegrown.config.pipelines import load_recipe
from homegrown.config.recipe import Recipe
from homegrown.planning.compute import config_of
from homegrown.planning.machine import this_machine
from homegrown.planning.plan import make_plan
from homegrown.planning.synthetic import write_synthetic
from homegrown.planning.target import this_machine_as_target
from homegrown.store.artifacts import Store
from homegrown.training.pretraining import pretrain

_WINDOWS = 64


@dataclass(frozen=True)
class Row:
    """Bytes of one training process, without and with a probe's measurement of what PyTorch takes."""

    preset: str
    planned: int
    planned_unmeasured: int
    measured: int


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", nargs="+", default=["tiny", "small", "medium"], help="recipes of pipelines.yaml")
    parser.add_argument("--steps", type=int, default=3, help="steps of each training (default 3)")
    parser.add_argument("--set", action="append", default=[], metavar="SETTING=VALUE", help="change the recipes")
    arguments = parser.parse_args()
    rows = []
    for preset in arguments.preset:
        rows.append(measure(recipe_of(preset, arguments.steps, arguments.set)))
        row = rows[-1]
        print(f"{row.preset}: {row.planned / 1e9:.2f} GB planned, {row.measured / 1e9:.2f} GB measured", flush=True)
    print(json.dumps({row.preset: summary(row) for row in rows}))


def recipe_of(preset: str, steps: int, changes: list[str]) -> Recipe:
    """Return a preset with a few steps, a small batch and little validation, on the processor."""
    cheap = [f"training.max_steps={steps}", "training.validation_tokens=1000", "training.sample_tokens=4"]
    batch = [] if preset == "tiny" else ["training.batch_size=2", "training.micro_batch_size=1"]
    return load_recipe(preset, [*cheap, *batch, "compute.device=cpu", *changes])


def measure(recipe: Recipe) -> Row:
    """Plan a training, run it, and return both memories."""
    with tempfile.TemporaryDirectory(prefix="homegrown-memory-") as name:
        folder = Path(name)
        store = Store(folder / "artifacts")
        target = this_machine_as_target(this_machine(), recipe, None)
        planned, unmeasured = (
            make_plan(recipe, store, target, measure=probes).memory_bytes for probes in (True, False)
        )
        write_synthetic(folder, config_of(recipe, store).vocabulary_size, recipe.context, _WINDOWS)
        folders = (folder / "out", folder / "packed", folder / "tokenizer")
        made = pretrain(*folders, recipe.new_model, recipe.training, seed=recipe.seed, device="cpu", processes=1)
        return Row(recipe.name, planned, unmeasured, int(float(made.metrics["peak_memory_megabytes"]) * 1e6))


def summary(row: Row) -> dict[str, float]:
    """Return the figures of a row in gigabytes, and the plan's share of what was measured."""
    return {
        "planned_gb": round(row.planned / 1e9, 3),
        "planned_without_a_probe_gb": round(row.planned_unmeasured / 1e9, 3),
        "measured_gb": round(row.measured / 1e9, 3),
        "planned_vs_measured": round(row.planned / row.measured, 3),
    }


if __name__ == "__main__":
    main()
