"""Sweeps behind the rules of `homegrown run auto`: one training per row, added to benchmarks/results/scaling.csv.

    python -m benchmarks.scaling wikipedia --tokens 1500000 [SETTING=VALUE ...]
    python -m benchmarks.scaling wikipedia --tokens 1500000 --rates DEPTH
    python -m benchmarks.scaling --repeat ROW
    python -m benchmarks.scaling --fit

A SETTING is one of `model` or `training`, or `vocabulary`. Without changes a row has `tiny`'s settings. `--rates`
trains a model of so many layers three times, with the settings of the rules and half and twice their rates. `--repeat`
trains row ROW of the table again, counted from 1, and prints both results. `--fit` fits the loss, writes the picture
benchmarks/results/scaling.png, and prints the constants of `homegrown.planning.scaling_rules` and each model's best
rates, in those of the rules.

One thread; losses by tokens do not depend on the machine's load. A row that the table already has is not trained again.
Needs ../shared/corpora beside the repository.
"""

import argparse
import json
import math
import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from benchmarks.measuring import CORPORA, add_row, rows_of
from benchmarks.training import TEXTS, prepare
from homegrown.config.model import ModelSettings
from homegrown.config.pipelines import load_recipe
from homegrown.config.training import TrainingSettings
from homegrown.planning import scaling_rules as rules
from homegrown.training.job import SUMMARY
from homegrown.training.worker import prepare_environment

TABLE = Path(__file__).parent / "results" / "scaling.csv"
DATA = Path(tempfile.gettempdir()) / "homegrown-scaling"
"""Tokens of the texts by vocabulary, kept between runs."""
VALIDATION_TOKENS = 120_000
_SETTINGS = ["hidden", "layers", "heads", "kv_heads", "feed_forward", "context", "tied"]
_TRAINING = ["batch_size", "learning_rate", "matrix_learning_rate", "momentum", "weight_decay", "dropout"]
COLUMNS = ["text", "vocabulary", "tokens", *_SETTINGS, *_TRAINING, "other", "epochs", "parameters", "bits_per_byte"]
COLUMNS += ["cpu_seconds"]
VOCABULARY = 4096
RATES = ("matrix_learning_rate", "learning_rate")
FACTORS = (0.5, 1.0, 2.0)
_RESULTS = 4
"""The last columns, which a run measures."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text", nargs="?", choices=list(TEXTS))
    parser.add_argument("--tokens", type=int, default=1_500_000, help="tokens to train on (default 1,500,000)")
    parser.add_argument("--rates", type=int, metavar="DEPTH", help="layers of a model by the rules, at three rates")
    parser.add_argument("--repeat", type=int, metavar="ROW", help="row of the table to train again")
    parser.add_argument("--fit", action="store_true", help="fit the loss and draw the picture")
    parser.add_argument("changes", nargs="*", metavar="SETTING=VALUE")
    arguments = parser.parse_intermixed_args()
    if arguments.fit:
        fit()
        return
    if not CORPORA.is_dir():
        raise SystemExit(f"{CORPORA} is missing; this benchmark needs its texts.")
    prepare_environment()
    if arguments.repeat:
        row = rows_of(TABLE)[arguments.repeat - 1]
        print("was", row)
        print("now", in_a_process(measured, row))
        return
    if arguments.rates:
        for factor in FACTORS:
            add(described(arguments.text, arguments.tokens, by_rules(arguments, factor)))
        return
    changes = {name: yaml.safe_load(value) for name, value in (change.split("=", 1) for change in arguments.changes)}
    add(described(arguments.text, arguments.tokens, changes))


def add(row: dict[str, str]) -> None:
    """Train a row that the table lacks, and add it."""
    if any(list(one.values())[:-_RESULTS] == list(row.values()) for one in rows_of(TABLE)):
        print("The table has this row.")
        return
    row = in_a_process(measured, row)
    print(row, flush=True)
    add_row(TABLE, COLUMNS, row)


def by_rules(arguments: argparse.Namespace, factor: float) -> dict[str, Any]:
    """Return the changes from `tiny` to what the rules give a model, with `factor` times their rates."""
    from homegrown.data.loader import TokenSplit

    tiny = load_recipe("tiny")
    shape = rules.shape(arguments.rates)
    once = TokenSplit(tokens_of(arguments.text, VOCABULARY) / "packed", "train").tokens
    ruled = rules.training(tiny.training, shape, VOCABULARY, arguments.tokens, once, device="cpu", devices=1)
    settings = ruled.model_copy(update={name: factor * getattr(ruled, name) for name in RATES})
    changes = {name: getattr(shape, name) for name in _SETTINGS} | {name: getattr(settings, name) for name in _TRAINING}
    changes["micro_batch_size"] = ruled.micro_batch_size
    if ruled.orthogonalization_steps != tiny.training.orthogonalization_steps:
        changes["orthogonalization_steps"] = ruled.orthogonalization_steps
    return changes


def described(text: str, tokens: int, changes: dict[str, Any]) -> dict[str, str]:
    """Return the settings of a row: those of `tiny` with `changes`; settings without a column are in `other`."""
    tiny = load_recipe("tiny")
    values = {**tiny.new_model.model_dump(), **tiny.training.model_dump(), "vocabulary": 4096, **changes}
    other = " ".join(f"{name}={value}" for name, value in sorted(changes.items()) if name not in COLUMNS)
    values |= {"text": text, "tokens": tokens, "other": other}
    return {name: str(values[name]) for name in COLUMNS[:-_RESULTS]}


def in_a_process(function: Callable[[dict[str, str]], dict[str, str]], row: dict[str, str]) -> dict[str, str]:
    """Return `function(row)` of a process of its own: a training changes its process for good."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, row).result()


def measured(row: dict[str, str]) -> dict[str, str]:
    """Train a row and return it with its results."""
    values = {name: yaml.safe_load(row[name]) for name in ["vocabulary", "tokens", *_SETTINGS, *_TRAINING]}
    for change in row["other"].split():
        name, _, value = change.partition("=")
        values[name] = yaml.safe_load(value)
    data = tokens_of(row["text"], values["vocabulary"])
    tiny = load_recipe("tiny")
    steps = values["tokens"] // (values["batch_size"] * values["context"])
    model = {name: values[name] for name in ModelSettings.model_fields if name in values}
    training = {name: values[name] for name in TrainingSettings.model_fields if name in values}
    shape = ModelSettings.model_validate({**tiny.new_model.model_dump(), **model})
    warmup = round(steps * tiny.training.warmup_steps / tiny.training.max_steps)
    alone = {"max_steps": steps, "warmup_steps": warmup, "validate_every": steps, "micro_batch_size": "auto"}
    alone |= {"validation_tokens": VALIDATION_TOKENS}
    settings = TrainingSettings.model_validate({**tiny.training.model_dump(), **alone, **training})
    with tempfile.TemporaryDirectory() as folder:
        trained = train_once(data, shape, settings, Path(folder))
    results = (f"{trained.epochs:.2f}", trained.parameters, f"{trained.bits_per_byte:.4f}", f"{trained.seconds:.0f}")
    return row | dict(zip(COLUMNS[-_RESULTS:], map(str, results), strict=True))


def tokens_of(text: str, vocabulary: int) -> Path:
    """Return the folder with the tokens of a text, made once."""
    data = DATA / f"{text}-{vocabulary}"
    if not data.exists():
        unfinished = data.with_name(f".{data.name}-{os.getpid()}")
        train, held_out = TEXTS[text]()
        prepare(unfinished, train, held_out, vocabulary)
        unfinished.rename(data)
    return data


@dataclass(frozen=True)
class Trained:
    """A finished training: bits per byte of held-out text, processor seconds per thread, parameters, epochs."""

    bits_per_byte: float
    seconds: float
    parameters: int
    epochs: float


def train_once(
    data: Path,
    model: ModelSettings,
    settings: TrainingSettings,
    out: Path,
    threads: int = 1,
    seed: int = 1,
    device: Literal["cpu", "cuda"] = "cpu",
) -> Trained:
    """Train with the engine's own loop and write the results of a training to `out`; it compiles on a GPU only."""
    import torch

    from benchmarks.training_contestants import only_worker
    from homegrown.data.loader import TokenSplit
    from homegrown.training.callbacks import standard
    from homegrown.training.job import PROGRESS
    from homegrown.training.pretraining import Job
    from homegrown.training.progress_file import Report
    from homegrown.training.results import finish
    from homegrown.training.stopping import Stop
    from homegrown.training.trainer import Trainer

    out.mkdir(exist_ok=True)
    never = {"checkpoint_every": settings.max_steps + 1, "sample_every": settings.max_steps + 1, "sample_prompts": []}
    settings = settings.model_copy(update={**never, "compile": "never" if device == "cpu" else settings.compile})
    job = Job(
        packed=data / "packed", tokenizer=data / "tokenizer", model=model, training=settings, seed=seed, device=device
    )
    began = time.process_time()
    worker = only_worker(out, device)
    torch.set_num_threads(threads)  # a worker takes all processors
    trainer = Trainer(job, out, worker, Report(out / PROGRESS), standard())
    trainer.start()
    trainer.run(Stop())
    seconds = (time.process_time() - began) / threads
    finish(trainer, out, resumed_from=0)
    summary = json.loads((out / SUMMARY).read_bytes())
    epochs = summary["tokens"] / TokenSplit(data / "packed", "train").tokens
    return Trained(summary["validation_bits_per_byte"], seconds, summary["parameters"], epochs)


PUBLISHED = [(85e6, 50_257, 7.7e9, 1.05)]
"""Hidden weights, vocabulary, bytes of text, bits per byte: GPT-2 small's loss of 3.28 on FineWeb after 3,250 steps of
524,288 tokens (modded-nanogpt's optimizers), at 4.5 bytes a token. It is other text, so it counts a quarter."""
_DEVIATION, _FAR = 0.01, 0.04


def fit() -> None:
    """Fit the loss of Wikipedia's best rows, print the law and the best rates, and draw the picture."""
    import numpy as np
    from scipy.optimize import least_squares

    from homegrown.planning.text import bytes_per_token

    rows = best_rows([row for row in rows_of(TABLE) if row["text"] == "wikipedia"])
    points: list[tuple[float, int, float]] = [
        (hidden_weights(row), int(row["vocabulary"]), int(row["tokens"]) * bytes_per_token(int(row["vocabulary"])))
        for row in rows
    ]
    points += [(weights, vocabulary, text_bytes) for weights, vocabulary, text_bytes, _ in PUBLISHED]
    seen = np.array([float(row["bits_per_byte"]) for row in rows] + [bits for *_, bits in PUBLISHED])
    spread = np.array([_DEVIATION] * len(rows) + [_FAR] * len(PUBLISHED))

    def law(values: Any) -> rules.LossLaw:
        scale, known, narrow, alpha, coarse, gamma, power = values
        parts = np.exp([scale, known, narrow, coarse]).tolist()
        return rules.LossLaw(0.3, parts[0], parts[1], parts[2], float(alpha), parts[3], float(gamma), float(power))

    def off(values: Any) -> Any:
        made = law(values)
        return (np.array([made(*point) for point in points]) - seen) / spread

    low, high = [-5, -6, -12, 0.1, -12, 0.05, 0.02], [5, 1, 3, 2, 3, 2, 1]
    starts = [
        [0.4, known, -3, alpha, -4, gamma, power]
        for known in (-2, 0)
        for alpha in (0.4, 0.8)
        for gamma in (0.3, 0.8)
        for power in (0.1, 0.2, 0.4)
    ]
    best = min((least_squares(off, start, bounds=(low, high)) for start in starts), key=lambda found: found.cost)
    found = law(best.x)
    print(found)
    for point, bits in zip(points, seen, strict=True):
        print(f"{point[0] / 1e6:8.2f} M  {point[1]:6,}  {point[2] / 1e6:9.2f} MB  {bits:.4f}  {found(*point):.4f}")
    swept = swept_rates(rows_of(TABLE))
    for name, losses in swept.items():
        print(f"{name}: best at {best_factor(losses):.2f} times the rates of the rules")
    draw([found(*point) for point in points[: len(rows)]], rows, swept)


def best_rows(rows: list[dict[str, str]]) -> list[dict[str, str]]:
    """Return the best of the rows of each model, vocabulary and number of tokens."""
    best: dict[tuple[str, ...], dict[str, str]] = {}
    for row in sorted(rows, key=lambda row: float(row["bits_per_byte"])):
        best.setdefault(tuple(row[name] for name in (*_SETTINGS, "vocabulary", "tokens")), row)
    return list(best.values())


def swept_rates(rows: list[dict[str, str]]) -> dict[str, dict[float, float]]:
    """Return the bits per byte by the factor on both of the rules' rates, for each model and number of tokens."""
    swept: dict[str, dict[float, float]] = {}
    for row in rows:
        tokens, width, batch = (int(row[name]) for name in ("tokens", "hidden", "batch_size"))
        ruled = (rules.matrix_learning_rate(tokens, batch * int(row["context"])), rules.learning_rate(width, 1.0))
        matrix, other = (float(row[name]) / rate for name, rate in zip(RATES, ruled, strict=True))
        if (row["text"], row["vocabulary"]) == ("wikipedia", str(VOCABULARY)) and math.isclose(
            matrix, other, rel_tol=0.02
        ):
            name = f"{int(row['parameters']) / 1e6:.1f} M parameters, {tokens / 1e6:g} M tokens"
            losses = swept.setdefault(name, {})
            factor = min(FACTORS, key=lambda one: abs(math.log(one / matrix)))
            losses[factor] = min(float(row["bits_per_byte"]), losses.get(factor, math.inf))
    return {name: dict(sorted(losses.items())) for name, losses in swept.items() if len(losses) == len(FACTORS)}


def best_factor(losses: dict[float, float]) -> float:
    """Return the factor on the rates with the least loss, by a parabola over its logarithm."""
    import numpy as np

    curve, slope, _ = np.polyfit([math.log(factor) for factor in losses], list(losses.values()), 2)
    return math.exp(-slope / (2 * curve))


def hidden_weights(row: dict[str, str]) -> int:
    """Return the weights of a row's model without embedding and output projection."""
    from homegrown.model.config import ModelConfig
    from homegrown.planning.compute import hidden_parameters

    values = {name: yaml.safe_load(row[name]) for name in _SETTINGS}
    shape = ModelSettings.model_validate({**values, "family": "modern"})
    return hidden_parameters(ModelConfig.from_settings(shape, int(row["vocabulary"]), dropout=0.0))


def draw(fitted: list[float], rows: list[dict[str, str]], swept: dict[str, dict[float, float]]) -> None:
    """Draw what was measured against what the law gives, and how much worse other rates are than the best."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.6), dpi=100, layout="constrained")
    left, right = figure.subplots(1, 2)
    seen = [float(row["bits_per_byte"]) for row in rows]
    left.plot(fitted, seen, "o")
    ends = [min(fitted + seen), max(fitted + seen)]
    left.plot(ends, ends, color="gray", linewidth=1)
    left.set(title="Wikipedia: the fitted law", xlabel="bits per byte by the law", ylabel="measured")
    for name, losses in swept.items():
        right.plot(
            losses.keys(), [100 * (loss / min(losses.values()) - 1) for loss in losses.values()], "o-", label=name
        )
    right.set(title="Rates of Muon and AdamW", xlabel="times the rates of the rules", ylabel="percent above the best")
    right.set_xscale("log", base=2)
    right.set_xticks(FACTORS, [f"{factor:g}" for factor in FACTORS])
    right.legend(frameon=False)
    for panel in (left, right):
        panel.grid(alpha=0.2)
        panel.spines[["top", "right"]].set_visible(False)
    figure.savefig(TABLE.with_suffix(".png"))


if __name__ == "__main__":
    main()
