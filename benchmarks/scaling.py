"""Sweeps behind the rules of `homegrown run auto`: one training per row, added to benchmarks/results/scaling.csv.

    python -m benchmarks.scaling wikipedia --tokens 1500000 [SETTING=VALUE ...]
    python -m benchmarks.scaling --repeat ROW
    python -m benchmarks.scaling --fit

A SETTING is one of `model` or `training`, or `vocabulary`. Without changes a row has `tiny`'s settings. `--repeat`
trains row ROW of the table again, counted from 1, and prints both results. `--fit` fits the loss, writes the picture
benchmarks/results/scaling.png, and prints the constants of `homegrown.planning.scaling_rules`.

One thread; losses by tokens do not depend on the machine's load. A row that the table already has is not trained again.
Needs ../shared/corpora beside the repository.
"""

import argparse
import csv
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml

from benchmarks.measuring import CORPORA
from benchmarks.training import TEXTS, prepare
from homegrown.config.pipelines import load_recipe
from homegrown.config.recipe import ModelSettings, TrainingSettings
from homegrown.training.worker import prepare_environment

TABLE = Path(__file__).parent / "results" / "scaling.csv"
DATA = Path(tempfile.gettempdir()) / "homegrown-scaling"
"""Tokens of the texts by vocabulary, kept between runs."""
VALIDATION_TOKENS = 120_000
_SETTINGS = ["hidden", "layers", "heads", "kv_heads", "feed_forward", "context", "tied"]
_TRAINING = ["batch_size", "learning_rate", "matrix_learning_rate", "momentum", "weight_decay", "dropout"]
COLUMNS = ["text", "vocabulary", "tokens", *_SETTINGS, *_TRAINING, "other", "epochs", "parameters", "bits_per_byte"]
COLUMNS += ["cpu_seconds"]
_RESULTS = 4
"""The last columns, which a run measures."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text", nargs="?", choices=list(TEXTS))
    parser.add_argument("--tokens", type=int, default=1_500_000, help="tokens to train on (default 1,500,000)")
    parser.add_argument("--repeat", type=int, metavar="ROW", help="row of the table to train again")
    parser.add_argument("changes", nargs="*", metavar="SETTING=VALUE")
    arguments = parser.parse_intermixed_args()
    if not CORPORA.is_dir():
        raise SystemExit(f"{CORPORA} is missing; this benchmark needs its texts.")
    prepare_environment()
    rows = table()
    if arguments.repeat:
        row = rows[arguments.repeat - 1]
        print("was", row)
        print("now", measured(row))
        return
    changes = {name: yaml.safe_load(value) for name, value in (change.split("=", 1) for change in arguments.changes)}
    row = described(arguments.text, arguments.tokens, changes)
    if any(list(one.values())[:-_RESULTS] == list(row.values()) for one in rows):
        print("The table has this row.")
        return
    row = measured(row)
    print(row)
    new = not TABLE.exists()
    with TABLE.open("a", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        if new:
            writer.writeheader()
        writer.writerow(row)


def table() -> list[dict[str, str]]:
    """Return the rows of the table."""
    if not TABLE.exists():
        return []
    with TABLE.open(newline="") as file:
        return list(csv.DictReader(file))


def described(text: str, tokens: int, changes: dict[str, Any]) -> dict[str, str]:
    """Return the settings of a row: those of `tiny` with `changes`; settings without a column are in `other`."""
    tiny = load_recipe("tiny")
    values = {**tiny.new_model.model_dump(), **tiny.training.model_dump(), "vocabulary": 4096, **changes}
    other = " ".join(f"{name}={value}" for name, value in sorted(changes.items()) if name not in COLUMNS)
    values |= {"text": text, "tokens": tokens, "other": other}
    return {name: str(values[name]) for name in COLUMNS[:-_RESULTS]}


def measured(row: dict[str, str]) -> dict[str, str]:
    """Train a row and return it with its results."""
    values = {name: yaml.safe_load(row[name]) for name in ["vocabulary", "tokens", *_SETTINGS, *_TRAINING]}
    for change in row["other"].split():
        name, _, value = change.partition("=")
        values[name] = yaml.safe_load(value)
    data = DATA / f"{row['text']}-{values['vocabulary']}"
    if not data.exists():
        unfinished = data.with_name(f".{data.name}-{os.getpid()}")
        train, held_out = TEXTS[row["text"]]()
        prepare(unfinished, train, held_out, values["vocabulary"])
        unfinished.rename(data)
    tiny = load_recipe("tiny")
    steps = values["tokens"] // (values["batch_size"] * values["context"])
    model = {name: values[name] for name in ModelSettings.model_fields if name in values}
    training = {name: values[name] for name in TrainingSettings.model_fields if name in values}
    shape = ModelSettings.model_validate({**tiny.new_model.model_dump(), **model})
    warmup = round(steps * tiny.training.warmup_steps / tiny.training.max_steps)
    alone = {"max_steps": steps, "warmup_steps": warmup, "validate_every": steps, "micro_batch_size": "auto"}
    settings = TrainingSettings.model_validate({**tiny.training.model_dump(), **alone, **training})
    bits, seconds, parameters, epochs = train_once(data, shape, settings)
    results = (f"{epochs:.2f}", str(parameters), f"{bits:.4f}", f"{seconds:.0f}")
    return row | dict(zip(COLUMNS[-_RESULTS:], results, strict=True))


def train_once(data: Path, model: ModelSettings, settings: TrainingSettings) -> tuple[float, float, int, float]:
    """Train with one thread; return bits per byte of the held-out text, processor seconds, parameters and epochs."""
    import torch

    from benchmarks.training_contestants import only_worker
    from homegrown.data.loader import TokenSplit
    from homegrown.training.callbacks import standard
    from homegrown.training.job import PROGRESS
    from homegrown.training.pretraining import Job
    from homegrown.training.progress_file import Report
    from homegrown.training.stopping import Stop
    from homegrown.training.trainer import Trainer

    torch.set_num_threads(1)
    never = settings.max_steps + 1
    settings = settings.model_copy(
        update={
            "validation_tokens": VALIDATION_TOKENS,
            "checkpoint_every": never,
            "sample_every": never,
            "sample_prompts": [],
            "compile": "never",
        }
    )
    with tempfile.TemporaryDirectory() as folder:
        job = Job(
            packed=data / "packed",
            tokenizer=data / "tokenizer",
            model=model,
            training=settings,
            seed=1,
            device="cpu",
        )
        began = time.process_time()
        trainer = Trainer(job, Path(folder), only_worker(Path(folder)), Report(Path(folder) / PROGRESS), standard())
        trainer.start()
        trainer.run(Stop())
        bits = trainer.state.metrics[-1].validation_bits_per_byte
        seconds = time.process_time() - began
        epochs = len(trainer.state.metrics) * trainer.batch_tokens / TokenSplit(data / "packed", "train").tokens
        parameters = trainer.config.parameter_count()
    assert bits is not None
    return bits, seconds, parameters, epochs


if __name__ == "__main__":
    main()
