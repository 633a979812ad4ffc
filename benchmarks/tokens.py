"""Speed of encoding, packing and reading tokens.

    python -m benchmarks.tokens [TEXT] [--megabytes 20] [--tokens-per-second RATE]

TEXT is a file of plain text (an empty line between documents) or of JSON lines with a `text`, gzipped or not. Without
it the text is passages from ../shared/corpora beside the repository, else the documentation of the installed packages.
Goals: packing at 4 times the rate at which `tokenizers` only encodes, per core (`encode_vs_tokenizers`), and reading
windows at more than 100 times the rate of training (`loader_vs_training`). The last line is one JSON object.
"""

import argparse
import gzip
import json
import os
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from benchmarks.measuring import cpu_seconds, measured, real_texts, table
from homegrown.config.pipelines import load_recipe
from homegrown.config.recipe import Recipe
from homegrown.config.tokens import PackSettings, TokenizerSettings
from homegrown.util.files import parquet_parts, write_parquet

VOCABULARY = 32_000
LAYOUTS = (PackSettings(layout="contiguous"), PackSettings(layout="best_fit"))
CONTEXTS = (256, 1024, 2048)
READ_SECONDS = 3.0
TRAINED_STEPS = 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text", nargs="?", type=Path, help="file to encode")
    parser.add_argument("--megabytes", type=float, default=20, help="maximum megabytes of text (default 20)")
    parser.add_argument("--tokens-per-second", type=float, help="training rate to compare with (default measured)")
    arguments = parser.parse_args()
    texts, name = _texts(arguments.text, arguments.megabytes)
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        for shards, documents in {"shards": texts, "few": texts[:20]}.items():
            columns = {"text": documents, "source": ["benchmark"] * len(documents)}
            write_parquet(work / shards / "train" / "part-00000.parquet", pa.table(columns))
        measured(_train, work)
        figures = encoding(work, name) | reading(work, arguments.tokens_per_second) | best_fit(work, name)
    print(json.dumps({name: round(value, 6) for name, value in figures.items()}))


def encoding(work: Path, name: str) -> dict[str, float]:
    """Print MB per CPU second of the stage `pack`, reading and writing included, and of `tokenizers` alone."""
    theirs = max((measured(_tokenizers, work).result for _ in range(2)), key=lambda found: found.rate)
    found = {
        "tokenizers, encode_batch on one thread": theirs,
        **{
            f"homegrown, pack {settings.layout}": max(
                (measured(_pack, work, settings, 256).result for _ in range(2)), key=lambda found: found.rate
            )
            for settings in LAYOUTS
        },
    }
    rows = [(label, f"{one.rate:.2f}", f"{one.rate / theirs.rate:.2f}") for label, one in found.items()]
    table(f"Encoding {name}, vocabulary {VOCABULARY:,}", ("", "MB/CPU second", "times tokenizers"), rows)
    assert len({one.tokens for one in found.values()}) == 1, "the engines do not agree"
    slowest = min(found[f"homegrown, pack {settings.layout}"].rate for settings in LAYOUTS)
    return {"encode_vs_tokenizers": slowest / theirs.rate}


def reading(work: Path, tokens_per_second: float | None) -> dict[str, float]:
    """Print the windows per second that one thread reads, and that `tiny` trains on."""
    recipe = load_recipe("tiny")
    context = recipe.context
    rates = {settings.layout: measured(_read, work, settings, recipe).result for settings in LAYOUTS}
    trained = (tokens_per_second or measured(_training_rate, work, recipe).result) / context
    rows = [(f"{layout}, one thread", f"{rate:,.0f}", f"{rate / trained:,.0f}") for layout, rate in rates.items()]
    title = f"Windows of {context} tokens in shuffled batches of {recipe.training.batch_size}"
    table(title, ("", "windows/s", "times training"), [*rows, ("training `tiny`", f"{trained:,.1f}", "")])
    return {"loader_vs_training": min(rates.values()) / trained}


def best_fit(work: Path, name: str) -> dict[str, float]:
    """Print padding and speed of best-fit packing, for real and synthetic lengths."""
    from homegrown.data.best_fit import lay_out

    dice = np.random.default_rng(1)
    kinds = {
        name: _lengths(work),
        "log-normal, median 150": np.maximum(1, dice.lognormal(np.log(150), 1, 1_000_000)).astype(np.int64),
        "log-normal, median 700": np.maximum(1, dice.lognormal(np.log(700), 1, 1_000_000)).astype(np.int64),
        "all of 0.6 rows of 1,024": np.full(100_000, 614, dtype=np.int64),
    }
    rows, wastes, speeds = [], [], []
    for label, lengths in kinds.items():
        for context in CONTEXTS:
            before = cpu_seconds()
            pieces = lay_out(lengths, context)
            seconds = max(cpu_seconds() - before, 1e-6)
            waste = 1 - int(lengths.sum()) / ((int(pieces.row[-1]) + 1) * context)
            cut = len(pieces.row) - int((-(-lengths // context)).sum())
            speed = len(pieces.row) / seconds
            figures = (f"{len(pieces.row):,}", f"{cut:,}", f"{waste:.3%}", f"{speed / 1e6:.1f}")
            rows.append((f"{label}, rows of {context:,}", *figures))
            wastes.append(waste)
            if len(lengths) >= 100_000:
                speeds.append(speed)
    table("Best-fit-decreasing", ("", "pieces", "cut without need", "padding", "million pieces/CPU second"), rows)
    return {"best_fit_waste": max(wastes), "best_fit_pieces_per_second": min(speeds)}


class Encoded(NamedTuple):
    """MB of text per CPU second, and its number of tokens without special ones."""

    rate: float
    tokens: int


def _texts(path: Path | None, megabytes: float) -> tuple[list[str], str]:
    if path is None:
        texts, name = real_texts(int(megabytes * 1e6 / 3000))
        return texts, name
    taken, size = [], 0
    for text in _documents(path):
        taken.append(text)
        size += len(text.encode())
        if size >= megabytes * 1e6:
            break
    return taken, path.name


def _documents(path: Path) -> Iterator[str]:
    with gzip.open(path, "rt") if path.suffix == ".gz" else path.open() as file:
        if ".jsonl" in path.name:
            yield from (json.loads(line)["text"] for line in file)
        else:
            yield from filter(None, map(str.strip, file.read().split("\n\n")))


def _train(work: Path) -> None:
    from homegrown.tokenizer.train import train_tokenizer

    settings = TokenizerSettings(vocabulary_size=VOCABULARY, sample_mb=10)
    train_tokenizer(work / "tokenizer", work / "shards", settings)


def _shard_texts(work: Path) -> list[str]:
    import pyarrow.parquet as pq

    (part,) = parquet_parts(work / "shards" / "train")
    texts: list[str] = pq.read_table(part)["text"].to_pylist()
    return texts


def _tokenizers(work: Path) -> Encoded:
    os.environ |= {"TOKENIZERS_PARALLELISM": "false", "RAYON_NUM_THREADS": "1"}
    from homegrown.tokenizer.loading import load

    tokenizer, texts = load(work / "tokenizer"), _shard_texts(work)
    tokenizer.encode_batch(texts[:2])
    before, tokens = cpu_seconds(), 0
    for start in range(0, len(texts), 1000):
        tokens += sum(len(one.ids) for one in tokenizer.encode_batch(texts[start : start + 1000]))
    return Encoded(sum(len(text.encode()) for text in texts) / 1e6 / (cpu_seconds() - before), tokens)


def _pack(work: Path, settings: PackSettings, context: int) -> Encoded:
    from homegrown.data.loader import TokenSplit
    from homegrown.data.packing import pack

    rows, seconds = context if settings.layout == "best_fit" else None, 0.0
    for shards in ("few", "shards"):  # the first warms up: a worker creates its encoder once
        with tempfile.TemporaryDirectory(dir=work) as out, ThreadPoolExecutor(1) as executor:
            before = cpu_seconds()
            pack(Path(out), work / shards, work / "tokenizer", settings, context=rows, executor=executor)
            seconds = cpu_seconds() - before
            train = TokenSplit(Path(out), "train")
    return Encoded(train.bytes / 1e6 / seconds, train.tokens - 2 * train.documents)


def _packed(work: Path, settings: PackSettings, context: int) -> Path:
    from homegrown.data.packing import pack

    out = work / settings.layout
    if not out.exists():
        with ThreadPoolExecutor(1) as executor:
            rows = context if settings.layout == "best_fit" else None
            pack(out, work / "shards", work / "tokenizer", settings, context=rows, executor=executor)
    return out


def _read(work: Path, settings: PackSettings, recipe: Recipe) -> float:
    from homegrown.data.loader import Batches, TokenSplit

    context, size = recipe.context, recipe.training.batch_size
    batches = Batches(TokenSplit(_packed(work, settings, context), "train"), context, size, seed=1)
    start, step = time.perf_counter(), 0
    while time.perf_counter() - start < READ_SECONDS:
        batches.batch(step)
        step += 1
    return step * size / (time.perf_counter() - start)


def _training_rate(work: Path, recipe: Recipe) -> float:
    """Return tokens per second of training `tiny` on all cores: the best of a few steps with plain AdamW."""
    from homegrown.training.worker import prepare_environment

    prepare_environment()
    import torch

    from homegrown.data.loader import Batches, TokenSplit
    from homegrown.model.config import ModelConfig
    from homegrown.model.transformer import Transformer
    from homegrown.training.precision import choose_precision

    context, settings = recipe.context, recipe.training
    split = TokenSplit(_packed(work, LAYOUTS[0], context), "train")
    model = Transformer(ModelConfig.from_settings(recipe.new_model, recipe.tokenizer.vocabulary_size, 0.0))
    model.initialize()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    batches, precision = Batches(split, context, settings.batch_size, seed=1), choose_precision("auto", "cpu")
    best = float("inf")
    for step in range(TRAINED_STEPS):
        windows = torch.from_numpy(batches.batch(step)) % recipe.tokenizer.vocabulary_size
        start = time.perf_counter()
        with precision.autocast():
            loss = model.loss(windows[:, :-1], windows[:, 1:]) / windows[:, 1:].numel()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()
        best = min(best, time.perf_counter() - start)
    return settings.batch_size * context / best


def _lengths(work: Path) -> "np.ndarray[tuple[int], np.dtype[np.int64]]":
    """Return the number of predicted tokens of each document."""
    from homegrown.data.loader import TokenSplit

    split = TokenSplit(_packed(work, LAYOUTS[0], 256), "train")
    return np.array([len(split.document(number)) - 1 for number in range(split.documents)])


if __name__ == "__main__":
    main()
