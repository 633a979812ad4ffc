"""Training speed on a GPU: tokens per second, utilisation, memory beside the plan's, time to the first step.

    python -m benchmarks.gpu [--preset small medium large] [--seconds 20] [--count 1] [--set training.optimizer=adamw]
    python -m benchmarks.gpu --rates small [--minutes 4]
    python -m benchmarks.gpu --fp8 large [--minutes 4]

The engine's own `Trainer` trains each preset, a recipe of `pipelines.yaml`, in bfloat16 on made-up tokens, in separate
processes: model, optimizer, compilation and the search for the micro-batch are those of a run. Activation checkpointing
is on if the recipe would not fit without it. A step that would take too long gets a smaller batch; model and context
do not change.

MFU is relative to two peaks: the specified peak FLOPS for dense bfloat16, as in the goals and in publications, and the
fastest matrix product measured here. Without a GPU it prints a message and writes nothing; `--device cpu --preset tiny`
measures a processor. `--rates` trains one preset's model on Wikipedia three times, each for some minutes: with the
settings that the rules of `run auto` derive for as many tokens as that takes, with half their rates and with twice
their rates. The best of the three is to be the first. `--fp8` trains it twice, the same steps in bfloat16 and in FP8
(`training.precision`), and prints losses and speeds side by side; on a processor FP8 is emulated. Both need
../shared/corpora beside the repository.

All figures go to `benchmarks/results/gpu-<device>-<date>.json`; the last line is one JSON object.
"""

import argparse
import json
import os
import re
import statistics
import tempfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from typing import Literal

import pyarrow.parquet as pq

from benchmarks.measuring import table
from benchmarks.scaling import Trained, tokens_of, train_once
from homegrown.config.pipelines import load_recipe
from homegrown.config.recipe import Recipe
from homegrown.config.training import TrainingSettings
from homegrown.data.loader import TokenSplit
from homegrown.planning import scaling_rules as rules
from homegrown.planning.compute import config_of
from homegrown.planning.gpus import recognized
from homegrown.planning.layouts import layouts
from homegrown.planning.machine import Machine, this_machine
from homegrown.planning.memory import Layout, training_memory
from homegrown.planning.probe import Probed, probe
from homegrown.planning.target import this_machine_as_target
from homegrown.store.artifacts import Store
from homegrown.training import fp8
from homegrown.training.job import METRICS
from homegrown.training.worker import prepare_environment
from homegrown.util.errors import UserError
from homegrown.util.files import replacing
from homegrown.util.parallel import cpu_count

STORE = Store(Path("artifacts"))
GOALS = {"small": 0.45, "medium": 0.50, "large": 0.55}
"""MFU on an H100: above nanochat's 41, 46 and 49%, and llm-foundry's 40 to 46%."""

STEP_SECONDS = 40.0
"""Longest step at a quarter of the device's peak, as `homegrown.planning.probe` estimates; half of that is usual."""


@dataclass(frozen=True)
class Row:
    """The measurements of one preset; `utilisation_of_specification` is None for a device without a specification."""

    preset: str
    device: str
    devices: int
    precision: str
    batch_size: int
    micro_batch_size: int
    checkpointing: bool
    compiled: bool
    tokens_per_second: float
    utilisation_of_specification: float | None
    utilisation_of_measured_peak: float
    goal: float | None
    peak_memory_bytes: int
    predicted_memory_bytes: int
    seconds_to_first_step: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", nargs="+", default=["small", "medium", "large"], help="recipes of pipelines.yaml")
    parser.add_argument("--seconds", type=float, default=20, help="seconds of steps for each preset (default 20)")
    parser.add_argument("--rates", metavar="PRESET", help="train this preset at three rates instead")
    parser.add_argument("--fp8", metavar="PRESET", help="train this preset in bfloat16 and in FP8 instead")
    parser.add_argument("--minutes", type=float, default=4, help="minutes of each training (default 4)")
    parser.add_argument("--count", type=int, default=1, help="GPUs to train on (default 1)")
    parser.add_argument("--set", action="append", default=[], metavar="SETTING=VALUE", help="change the recipes")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"), help="where the figures go")
    arguments = parser.parse_args()
    machine = this_machine()
    if arguments.device == "cuda" and not machine.gpus:
        print("nvidia-smi shows no GPU on this machine; nothing was measured or written.")
        return
    changes = [f"compute.device={arguments.device}", f"compute.processes={arguments.count}"]
    if arguments.device == "cuda":
        changes.append("training.precision=bf16")
    if arguments.fp8:
        recipe = load_recipe(arguments.fp8, [*changes, *arguments.set])
        print(json.dumps(in_both_precisions(recipe, machine, arguments.device, arguments.minutes, arguments.seconds)))
        return
    if arguments.rates:
        recipe = load_recipe(arguments.rates, [*changes, *arguments.set])
        print(json.dumps(at_three_rates(recipe, machine, arguments.device, arguments.minutes, arguments.seconds)))
        return
    rows = []
    for preset in arguments.preset:
        try:
            rows.append(measure(load_recipe(preset, [*changes, *arguments.set]), machine, arguments.seconds))
        except UserError as error:
            raise SystemExit(f"{preset}: {error}") from error
        print_rows(rows[-1:])
    write(arguments.out, rows, machine)
    if len(rows) > 1:
        print_rows(rows)
    print(json.dumps({row.preset: summary(row) for row in rows}))


def measure(recipe: Recipe, machine: Machine, seconds: float) -> Row:
    """Train a preset for some seconds."""
    target, config = this_machine_as_target(machine, recipe, None), config_of(recipe, STORE)
    ways = layouts(recipe, config, target.device, target.value_bytes, target.count, target.memory_bytes)
    if not ways[0].fits:
        training = recipe.training.model_copy(update={"activation_checkpointing": True})
        recipe = recipe.model_copy(update={"training": training})
    probed = probe(
        recipe,
        config,
        target.device,
        seconds=seconds,
        step_seconds=STEP_SECONDS,
        layers=recipe.new_model.layers,
    )
    known = recognized(probed.device, target.memory_bytes) if target.device != "cpu" else None
    flops = probed.tokens_per_second * config.flops_per_token()
    return Row(
        preset=recipe.name,
        device=probed.device,
        devices=target.count,
        precision=probed.precision,
        batch_size=probed.training.batch_size,
        micro_batch_size=probed.micro_batch_size,
        checkpointing=probed.training.activation_checkpointing,
        compiled=probed.compiled,
        tokens_per_second=probed.tokens_per_second,
        utilisation_of_specification=flops / (known.teraflops * 1e12 * target.count) if known else None,
        utilisation_of_measured_peak=probed.model_flops_utilisation,
        goal=GOALS.get(recipe.name) if known and known.name == "NVIDIA H100 SXM" else None,
        peak_memory_bytes=probed.peak_memory_bytes,
        predicted_memory_bytes=predicted(recipe, probed),
        seconds_to_first_step=probed.seconds_to_first_step,
    )


@dataclass(frozen=True)
class Comparison:
    """A training beside others of the same steps: its result, and the loss of each step."""

    trained: Trained
    losses: list[float]
    tokens_per_second: float


def compared(
    recipe: Recipe,
    machine: Machine,
    device: Literal["cuda", "cpu"],
    minutes: float,
    seconds: float,
    change: Callable[[TrainingSettings], dict[str, TrainingSettings]],
) -> dict[str, Comparison]:
    """Train the preset's model on Wikipedia for some minutes with each of the settings that `change` returns.

    It makes them of those that the rules have for as many tokens as that takes.
    """
    prepare_environment()
    model, vocabulary = recipe.new_model, recipe.tokenizer.vocabulary_size
    tokens = 60 * minutes * measure(recipe, machine, seconds).tokens_per_second
    data = tokens_of("wikipedia", vocabulary)
    once = TokenSplit(data / "packed", "train").tokens
    settings = rules.training(recipe.training, model, vocabulary, tokens, once, device=device, devices=1)
    found = {}
    for name, changed in change(settings).items():
        with tempfile.TemporaryDirectory() as folder, ProcessPoolExecutor(1, get_context("spawn")) as alone:
            given = (data, model, changed, Path(folder), cpu_count(), recipe.seed, device)
            trained = alone.submit(train_once, *given).result()
            rows = pq.read_table(Path(folder) / METRICS, columns=["loss", "tokens_per_second"]).to_pydict()
        found[name] = Comparison(trained, rows["loss"], statistics.median(rows["tokens_per_second"]))
    return found


def at_three_rates(
    recipe: Recipe, machine: Machine, device: Literal["cuda", "cpu"], minutes: float, seconds: float
) -> dict[str, float]:
    """Train the preset's model for some minutes at half, once and twice the rules' rates; return bits per byte."""

    def rates(settings: TrainingSettings) -> dict[str, TrainingSettings]:
        names = ("learning_rate", "matrix_learning_rate")
        return {
            f"{factor:g}": settings.model_copy(update={name: factor * getattr(settings, name) for name in names})
            for factor in (0.5, 1, 2)
        }

    found = compared(recipe, machine, device, minutes, seconds, rates)
    rows = [(name, f"{one.trained.bits_per_byte:.4f}", f"{one.trained.epochs:.2f}") for name, one in found.items()]
    table(f"{recipe.name} at three rates", ("rates x", "bits per byte", "epochs"), rows)
    return {name: one.trained.bits_per_byte for name, one in found.items()}


def in_both_precisions(
    recipe: Recipe, machine: Machine, device: Literal["cuda", "cpu"], minutes: float, seconds: float
) -> dict[str, float]:
    """Train the preset's model in bfloat16 and in FP8; return what FP8 has, divided by what bfloat16 has."""
    if device == "cpu":
        os.environ[fp8.EMULATED] = "1"
    found = compared(
        recipe,
        machine,
        device,
        minutes,
        seconds,
        lambda settings: {name: settings.model_copy(update={"precision": name}) for name in ("bf16", "fp8")},
    )
    bf16, eight = found["bf16"], found["fp8"]
    every = -(-len(bf16.losses) // 10)
    places = [range(start, min(start + every, len(bf16.losses))) for start in range(0, len(bf16.losses), every)]
    means = [[statistics.mean(one.losses[step] for step in place) for one in (bf16, eight)] for place in places]
    rows = [
        (f"{place[0] + 1} to {place[-1] + 1}", f"{one:.4f}", f"{other:.4f}", f"{other - one:+.4f}")
        for place, (one, other) in zip(places, means, strict=True)
    ]
    table(f"{recipe.name}: mean loss", ("steps", "bf16", "fp8", "difference"), rows)
    figures = {
        "bits_per_byte": eight.trained.bits_per_byte / bf16.trained.bits_per_byte,
        "tokens_per_second": eight.tokens_per_second / bf16.tokens_per_second,
    }
    table(
        "Both",
        ("precision", "bits per byte", "tokens/s"),
        [(name, f"{one.trained.bits_per_byte:.4f}", f"{one.tokens_per_second:,.0f}") for name, one in found.items()],
    )
    return figures


def predicted(recipe: Recipe, probed: Probed) -> int:
    """Return the plan's memory for the measured run, plus the process's memory before it."""
    config, devices = config_of(recipe, STORE), recipe.compute.processes
    layout = Layout(
        device=probed.kind,
        value_bytes=4 if probed.precision == "float32" else 2,
        rows=probed.micro_batch_size,
        passes=probed.training.batch_size // (probed.micro_batch_size * devices),
        devices=devices,
        parallel=recipe.compute.parallel,
        checkpointing=probed.training.activation_checkpointing,
        compiled=probed.compiled,
    )
    return probed.base_memory_bytes + training_memory(config, recipe.training, layout).peak


def summary(row: Row) -> dict[str, float | None]:
    """Return the part of a row for the last line."""
    return {
        "tokens_per_second": row.tokens_per_second,
        "mfu": row.utilisation_of_specification or row.utilisation_of_measured_peak,
        "goal": row.goal,
        "memory_vs_plan": row.peak_memory_bytes / row.predicted_memory_bytes,
        "seconds_to_first_step": row.seconds_to_first_step,
    }


def write(out: Path, rows: list[Row], machine: Machine) -> None:
    """Write all figures with the device, its driver and the date."""
    now = datetime.now(UTC)
    device = re.sub(r"[^a-z0-9]+", "-", rows[0].device.lower()).strip("-")
    path = out / f"gpu-{device}-{now:%Y-%m-%d}.json"
    driver = machine.gpus[0].driver if machine.gpus else None
    figures = {
        "device": rows[0].device,
        "driver": driver,
        "torch": version("torch"),
        "date": now.isoformat(timespec="seconds"),
        "rows": [asdict(row) for row in rows],
    }
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(figures, indent=2) + "\n")


def print_rows(rows: list[Row]) -> None:
    header = (
        "preset",
        "tokens/s",
        "MFU",
        "of measured",
        "goal",
        "memory GB",
        "planned",
        "first step",
        "batch",
        "micro",
    )
    cells = [
        (
            row.preset,
            f"{row.tokens_per_second:,.0f}",
            _percent(row.utilisation_of_specification),
            _percent(row.utilisation_of_measured_peak),
            _percent(row.goal),
            f"{row.peak_memory_bytes / 1e9:.2f}",
            f"{row.predicted_memory_bytes / 1e9:.2f}",
            f"{row.seconds_to_first_step:.1f} s",
            str(row.batch_size),
            str(row.micro_batch_size),
        )
        for row in rows
    ]
    table(f"{rows[0].devices} x {rows[0].device}, {rows[0].precision}", header, cells)


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.1%}"


if __name__ == "__main__":
    main()
