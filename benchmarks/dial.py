"""`homegrown run auto` against a grid of sizes, rates and batches with the same processor time.

    python -m benchmarks.dial [--minutes 3 10] [--only wikipedia|novel] [--jobs 2]
    python -m benchmarks.dial --little [--jobs 2]

Each training has one thread, one processor and the given minutes of processor time, from random weights to the last
validation. At the shortest time, the grid has half and twice the size of auto's model, with as many tokens as fit, and
half and twice its rates and its batch. At longer times it has the best of these. About 40 minutes on 2 processors.
The speed that auto counts on is measured while all of them are busy, as they are during the trainings.

Finished trainings are kept in the temporary folder by their settings: run again, it continues, also after a change of
the rules; --fresh measures all again. Needs ../shared/corpora beside the repository. The last line is one JSON object
with the worst of all texts and times: `auto_vs_best` (bits per byte of auto divided by the best of the grid),
`time_vs_promised` and `loss_vs_promised` (the largest deviation).

`--little` trains auto's recipes for parts of 10, 30, 100 and 300 kB of three books, in one minute at most, and compares
what they promise with the loss of every third passage, which is held out. Its JSON has the ratios by text.
"""

import argparse
import hashlib
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from queue import Queue
from typing import Any, Literal

from benchmarks.measuring import CORPORA, table
from benchmarks.scaling import DATA, tokens_of, train_once
from benchmarks.training import TEXTS
from homegrown.config.model import ModelSettings
from homegrown.config.pipelines import load_auto
from homegrown.config.training import TrainingSettings
from homegrown.planning import scaling_rules as rules
from homegrown.planning import speed
from homegrown.planning.budget import Budget
from homegrown.planning.dial import dial, of_size
from homegrown.planning.machine import this_machine
from homegrown.planning.text_facts import facts
from homegrown.training.worker import prepare_environment

RESULTS = DATA / "dial.jsonl"
SPEED = DATA / "dial-speed.json"
AUTO = "auto"
LITTLE_TEXTS = ("austen-emma", "chesterton-ball", "whitman-leaves")
LITTLE_SIZES = (10_000, 30_000, 100_000, 300_000)
PARAGRAPHS = 4
"""Paragraphs of a passage."""
Kind = Literal["auto", "size", "other"]


@dataclass(frozen=True)
class Contestant:
    """A training: what differs from auto's, and what auto promises."""

    text: str
    minutes: float
    name: str
    kind: Kind
    vocabulary: int
    model: dict[str, Any]
    training: dict[str, Any]
    seconds: float
    bits_per_byte: float

    @property
    def key(self) -> str:
        """What the result depends on, in short."""
        settings = json.dumps([self.text, self.vocabulary, self.model, self.training])
        return hashlib.sha256(settings.encode()).hexdigest()[:16]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, nargs="+", default=[3, 10], help="processor minutes (default 3 10)")
    parser.add_argument("--only", choices=["wikipedia", "novel"], help="one text alone")
    parser.add_argument("--jobs", type=int, default=2, help="trainings at a time, one processor each (default 2)")
    parser.add_argument("--little", action="store_true", help="the promises of little text instead")
    parser.add_argument("--fresh", action="store_true", help="measure all again")
    parser.add_argument("--train", metavar="JSON", help=argparse.SUPPRESS)  # the process of one training
    arguments = parser.parse_args()
    prepare_environment()
    if arguments.train:
        train(Contestant(**json.loads(arguments.train)))
        return
    if not CORPORA.is_dir():
        raise SystemExit(f"{CORPORA} is missing; this benchmark needs its texts.")
    DATA.mkdir(parents=True, exist_ok=True)
    if arguments.fresh:
        RESULTS.unlink(missing_ok=True)
        SPEED.unlink(missing_ok=True)
    processors = sorted(os.sched_getaffinity(0))[: arguments.jobs]
    measured = measure_speed(processors)
    if arguments.little:
        chosen = [contestants(text, 1, measured)[0] for text in LITTLE]
        print(json.dumps(promises(chosen, compete(chosen, processors))))
        return
    texts = [arguments.only] if arguments.only else ["wikipedia", "novel"]
    first, *later = sorted(arguments.minutes)
    everyone = [one for text in texts for one in contestants(text, first, measured)]
    longer = {(text, minutes): contestants(text, minutes, measured) for text in texts for minutes in later}
    autos = [one for group in longer.values() for one in group if one.kind == "auto"]
    found = compete([*autos, *everyone], processors)
    best = [
        promising(group, [one for one in everyone if one.text == text], found) for (text, _), group in longer.items()
    ]
    found = compete(best, processors)
    print(json.dumps(outcome([*everyone, *autos, *best], found)))


def passages(text: str, size: int) -> tuple[list[str], list[str]]:
    """Return about `size` bytes of a text in passages, and the third ones held out."""
    paragraphs = (CORPORA / "gutenberg" / f"{text}.txt").read_text(encoding="latin-1").split("\n\n")
    found = ["\n\n".join(paragraphs[start : start + PARAGRAPHS]) for start in range(0, len(paragraphs), PARAGRAPHS)]
    train: list[str] = []
    held_out: list[str] = []
    for number, passage in enumerate(found):
        (held_out if number % 3 == 1 else train).append(passage)
        if sum(map(len, train)) >= size:
            break
    return train, held_out


LITTLE = [f"{text}-{size}" for size in LITTLE_SIZES for text in LITTLE_TEXTS]
TEXTS.update({f"{text}-{size}": partial(passages, text, size) for text in LITTLE_TEXTS for size in LITTLE_SIZES})


def promises(everyone: list[Contestant], found: dict[str, dict[str, float]]) -> dict[str, float]:
    """Print what was promised and what came, and return the ratio for each text."""
    ratios = {one.text: round(found[one.key]["bits_per_byte"] / one.bits_per_byte, 4) for one in everyone}
    rows = [
        (one.text, f"{one.bits_per_byte:.3f}", f"{found[one.key]['bits_per_byte']:.3f}", f"{ratios[one.text]:.3f}")
        for one in everyone
    ]
    table("little text", ("", "promised", "bits per byte", "ratio"), rows)
    return ratios


def measure_speed(processors: list[int]) -> speed.Speed:
    """Return the mean speed of each processor while all are busy, measured once, in processes that have no other."""
    if not SPEED.exists():
        code = "from benchmarks.dial import pinned; pinned()"
        probes = [
            subprocess.Popen(["taskset", "-c", str(one), sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
            for one in processors
        ]
        said = [json.loads(one.communicate()[0].splitlines()[-1]) for one in probes]
        means = {name: statistics.fmean(one[name] for one in said) for name in said[0] if name != "busy"}
        SPEED.write_text(json.dumps({**means, "busy": any(one["busy"] for one in said)}))
    return speed.Speed.model_validate_json(SPEED.read_bytes())


def pinned() -> None:
    """Print the speed of this process's processor; processor time does not count what comes before the training."""
    measured = speed.measure(load_auto(), "cpu", processor_time=True).model_copy(update={"seconds_to_first_step": 1.0})
    print(measured.model_dump_json())


def contestants(text: str, minutes: float, measured: speed.Speed) -> list[Contestant]:
    """Return auto's training of a text and its neighbors."""
    recipe, machine = load_auto(), this_machine()
    shards = tokens_of(text, rules.VOCABULARIES[0] if text in LITTLE else 4096) / "shards"
    known = facts(shards, text_bytes(shards))
    budget = Budget(seconds=60 * minutes)
    chosen = dial(recipe, budget, known, measured, machine)
    model, training = chosen.recipe.new_model, chosen.recipe.training

    def made(name: str, kind: Kind, model: ModelSettings, vocabulary: int, training: TrainingSettings) -> Contestant:
        values = (vocabulary, model.model_dump(), training.model_dump(), chosen.seconds, chosen.bits_per_byte)
        return Contestant(text, minutes, name, kind, *values)

    found = [made(AUTO, "auto", model, chosen.recipe.tokenizer.vocabulary_size, training)]
    place = rules.DEPTHS.index(model.layers)
    for depth in [*rules.DEPTHS[max(0, place - 1) : place], *rules.DEPTHS[place + 1 : place + 2]]:
        other = of_size(depth, recipe, budget, known, measured, machine)
        if other is not None:
            found.append(made(f"{depth} layers", "size", other.model, other.config.vocabulary_size, other.training))
    vocabulary = chosen.recipe.tokenizer.vocabulary_size
    for factor in (0.5, 2):
        rates = {name: factor * getattr(training, name) for name in ("learning_rate", "matrix_learning_rate")}
        changed = training.model_copy(update=rates)
        found.append(made(f"rates x {factor:g}", "other", model, vocabulary, changed))
        found.append(made(f"batch x {factor:g}", "other", model, vocabulary, with_batch(training, factor)))
    return found


def with_batch(training: TrainingSettings, factor: float) -> TrainingSettings:
    """Return a training on as many tokens in batches of another size; every count of steps follows."""
    batch = max(1, round(factor * training.batch_size))
    factor = batch / training.batch_size
    steps = round(training.max_steps / factor)
    counts = {
        "max_steps": steps,
        "warmup_steps": round(training.warmup_steps / factor),
        "validate_every": max(1, round(training.validate_every / factor)),
    }
    changed = training.model_dump() | counts | {"batch_size": batch, "micro_batch_size": "auto"}
    return TrainingSettings.model_validate(changed)


def text_bytes(shards: Path) -> int:
    """Return the bytes of the training text."""
    import pyarrow.parquet as pq

    parts = (shards / "train").glob("*.parquet")
    return sum(len(text.encode()) for part in parts for text in pq.read_table(part)["text"].to_pylist())


def promising(group: list[Contestant], shorter: list[Contestant], found: dict[str, dict[str, float]]) -> Contestant:
    """Return the neighbor of auto in `group` whose like was best at the shorter time."""
    reached = {one.name: found[one.key]["bits_per_byte"] for one in shorter}
    # A size beside auto's at the longer time need not have been one at the shorter time.
    return min((one for one in group if one.kind != "auto"), key=lambda one: reached.get(one.name, math.inf))


def compete(everyone: list[Contestant], processors: list[int]) -> dict[str, dict[str, float]]:
    """Train all that have no result yet, one on each processor at a time, and return all results by key."""
    done = results()
    left = {one.key: one for one in everyone if one.key not in done}.values()
    for text, vocabulary in {(one.text, one.vocabulary) for one in left}:
        tokens_of(text, vocabulary)
    idle: Queue[int] = Queue()
    for processor in processors:
        idle.put(processor)

    def run(one: Contestant) -> None:
        processor = idle.get()
        try:
            command = ["taskset", "-c", str(processor), sys.executable, "-m", "benchmarks.dial", "--train"]
            subprocess.run([*command, json.dumps(asdict(one))], check=True)
        finally:
            idle.put(processor)

    with ThreadPoolExecutor(len(processors)) as pool:
        list(pool.map(run, left))
    return results()


def results() -> dict[str, dict[str, float]]:
    """Return the results so far by key; an unfinished last line is ignored."""
    found = {}
    for line in RESULTS.read_text().splitlines() if RESULTS.exists() else []:
        try:
            values = json.loads(line)
        except ValueError:
            continue
        found[values.pop("key", "")] = values
    return found


def train(one: Contestant) -> None:
    """Train a contestant in this process and add its result."""
    model, training = ModelSettings(**one.model), TrainingSettings(**one.training)
    with tempfile.TemporaryDirectory() as folder:
        trained = train_once(tokens_of(one.text, one.vocabulary), model, training, Path(folder))
    name = f"{one.text}, {one.minutes:g} min, {one.name}"
    values = {"key": one.key, "bits_per_byte": trained.bits_per_byte, "seconds": trained.seconds}
    with RESULTS.open("a") as file:
        file.write(json.dumps({**values, "parameters": trained.parameters, "epochs": trained.epochs}) + "\n")
    print(f"{name:36} {trained.bits_per_byte:.4f} bits per byte after {trained.seconds:.0f} s", flush=True)
    os._exit(0)  # without waiting for process groups and loader threads


def outcome(everyone: list[Contestant], found: dict[str, dict[str, float]]) -> dict[str, Any]:
    """Print a table and return the JSON object."""
    cells, rows = {}, []
    for auto in (one for one in everyone if one.kind == "auto"):
        group = [one for one in everyone if (one.text, one.minutes) == (auto.text, auto.minutes)]
        reached = {one.name: found[one.key] for one in group}
        mine = reached[AUTO]
        best = min(values["bits_per_byte"] for values in reached.values())
        cells[f"{auto.text}, {auto.minutes:g} min"] = {
            "auto_vs_best": round(mine["bits_per_byte"] / best, 4),
            "bits_per_byte": round(mine["bits_per_byte"], 4),
            "promised_bits_per_byte": round(auto.bits_per_byte, 4),
            "loss_vs_promised": round(mine["bits_per_byte"] / auto.bits_per_byte, 4),
            "seconds": round(mine["seconds"], 1),
            "promised_seconds": round(auto.seconds, 1),
            "time_vs_promised": round(mine["seconds"] / auto.seconds, 4),
        }
        for name, values in sorted(reached.items(), key=lambda item: item[1]["bits_per_byte"]):
            figures = (f"{values['bits_per_byte']:.4f}", f"{values['seconds']:.0f}", f"{values['parameters']:,.0f}")
            rows.append((f"{auto.text}, {auto.minutes:g} min: {name}", *figures, f"{values['epochs']:.2f}"))
    table("auto and its grid", ("", "bits per byte", "seconds", "parameters", "epochs"), rows)
    worst = {"auto_vs_best": max(cell["auto_vs_best"] for cell in cells.values())}
    for name in ("time_vs_promised", "loss_vs_promised"):
        worst[name] = max((cell[name] for cell in cells.values()), key=lambda value: abs(value - 1))
    return {**worst, "cells": cells}


if __name__ == "__main__":
    main()
