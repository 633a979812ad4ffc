"""Training beside its peers: bits per byte against seconds, on the same tokens, the same machine, the same time.

    python -m benchmarks.training [--seconds 60] [--clock wall|processor] [--only shakespeare|wikipedia] [--out FOLDER]
                                  [--contestants modern nanochat-8x4]
    python -m benchmarks.training_peers     # first, once: fetches nanochat

Each contestant is a process of its own. They take turns of two seconds, so that other load on the machine affects all
alike; a contestant's clock runs only while it trains, and every learning rate follows the clock. On a busy machine
`--clock processor` counts processor time. The engine's own `Trainer` trains ours. All have 4 to 5 million parameters
(nanochat 7, of which it only looks up 3) and a context of 256, and are measured on the same held-out text. Speeds are
those of the median step.

Needs ../shared/corpora beside the repository. It takes 30 minutes at 60 seconds; the pictures go to `--out`, and the
last line is one JSON object: each of our figures divided by theirs, the worse of the two corpora.
"""

import argparse
import gzip
import json
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Literal

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.measuring import CORPORA
from benchmarks.training_peers import NANOCHAT
from homegrown.config.tokens import PackSettings, TokenizerSettings
from homegrown.data.packing import pack
from homegrown.tokenizer.train import train_tokenizer
from homegrown.training.worker import prepare_environment
from homegrown.util.parallel import cpu_count

CONTESTANTS = {
    "modern": "(a) modern, our defaults",
    "modern-auto": "(a) modern, by the rules of run auto",
    "modern-adamw": "(b) modern, AdamW",
    "classic": "(c) classic, the guide's settings",
    "nanogpt-0.001": "(d) nanoGPT's recipe, 1e-3",
    "nanogpt-0.002": "(d) nanoGPT's recipe, 2e-3",
    "nanogpt-0.004": "(d) nanoGPT's recipe, 4e-3",
    "llama": "(e) LlamaForCausalLM, 1e-3",
    "nanochat-4x4": "(f) nanochat, 4 times its rates, batch 4",
    "nanochat-8x4": "(f) nanochat, 8 times its rates, batch 4",
    "nanochat-4x8": "(f) nanochat, 4 times its rates, batch 8",
    "nanochat-8x8": "(f) nanochat, 8 times its rates, batch 8",
    "nanochat-16x8": "(f) nanochat, 16 times its rates, batch 8",
    "nanochat-8x16": "(f) nanochat, 8 times its rates, batch 16",
}
NANOGPT = [name for name in CONTESTANTS if name.startswith("nanogpt")]
NANOCHATS = [name for name in CONTESTANTS if name.startswith("nanochat")]
Clock = Literal["wall", "processor"]
TURN_SECONDS = 2.0
POINTS = 6
"""Validations of each contestant, evenly over its time; they do not count as training."""


@dataclass
class Run:
    """The results of one contestant: bits per byte of held-out text by seconds of training, and its speed."""

    name: str
    seconds: list[float] = field(default_factory=list)
    bits_per_byte: list[float] = field(default_factory=list)
    tokens_per_second: float = 0.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60, help="training time of each contestant (default 60)")
    parser.add_argument("--clock", choices=["wall", "processor"], default="wall", help="which seconds (default wall)")
    parser.add_argument("--only", choices=["shakespeare", "wikipedia"], help="one corpus alone")
    parser.add_argument("--contestants", nargs="+", choices=CONTESTANTS, default=[*CONTESTANTS], help="these alone")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"), help="where picture and table go")
    arguments = parser.parse_args()
    if {*arguments.contestants} & {*NANOCHATS} and not NANOCHAT.is_dir():
        sys.exit("nanochat is missing; run: python -m benchmarks.training_peers")
    if not CORPORA.is_dir():
        raise SystemExit(f"{CORPORA} is missing; this benchmark needs its texts.")
    arguments.out.mkdir(parents=True, exist_ok=True)
    prepare_environment()
    ratios: list[dict[str, float]] = []
    with tempfile.TemporaryDirectory() as folder:
        for corpus in [arguments.only] if arguments.only else ["shakespeare", "wikipedia"]:
            prepare(Path(folder) / corpus, *TEXTS[corpus]())
            runs = compete(Path(folder) / corpus, arguments.seconds, arguments.clock, arguments.contestants)
            print_table(corpus, runs)
            draw(arguments.out / f"training-{corpus}.png", corpus, runs)
            ratios.append(compare(runs))
            print(f"{corpus}: {json.dumps(ratios[-1])}\n", flush=True)
    worst = {key: (min if key.startswith("tokens") else max)(one[key] for one in ratios) for key in ratios[0]}
    print(json.dumps(worst))


# --- the text ---------------------------------------------------------------------------------------------------------


def shakespeare() -> tuple[list[str], list[str]]:
    """Return the first nine tenths, and the last tenth held out."""
    text = (CORPORA / "tinyshakespeare.txt").read_text()
    cut = text.rindex("\n\n", 0, len(text) * 9 // 10)
    return [text[:cut]], [text[cut:]]


def wikipedia() -> tuple[list[str], list[str]]:
    """Return 20 MB of articles, and every twentieth held out, up to 1 MB."""
    train: list[str] = []
    held_out: list[str] = []
    left = {"train": 20e6, "held out": 1e6}
    with gzip.open(CORPORA / "wikipedia-2015.jsonl.gz", "rt") as lines:
        for number, line in enumerate(lines):
            text = json.loads(line)["text"]
            use = "held out" if number % 20 == 0 and left["held out"] > 0 else "train"
            (held_out if use == "held out" else train).append(text)
            left[use] -= len(text.encode())
            if left["train"] <= 0:
                break
    return train, held_out


def gutenberg() -> tuple[list[str], list[str]]:
    """Return the first nine tenths of the novels, and their last tenths held out."""
    return _books(["austen-emma", "austen-persuasion", "austen-sense", "chesterton-ball", "chesterton-brown"])


def novel() -> tuple[list[str], list[str]]:
    """Return the first nine tenths of one novel, and its last tenth held out."""
    return _books(["austen-emma"])


def persuasion() -> tuple[list[str], list[str]]:
    """Return the same of a novel of half the length."""
    return _books(["austen-persuasion"])


def _books(names: list[str]) -> tuple[list[str], list[str]]:
    books = [(CORPORA / "gutenberg" / f"{name}.txt").read_text(encoding="latin-1") for name in names]
    cuts = [text.rindex("\n\n", 0, len(text) * 9 // 10) for text in books]
    pairs = list(zip(books, cuts, strict=True))
    return [text[:cut] for text, cut in pairs], [text[cut:] for text, cut in pairs]


TEXTS = {
    "shakespeare": shakespeare,
    "wikipedia": wikipedia,
    "gutenberg": gutenberg,
    "novel": novel,
    "persuasion": persuasion,
}


def prepare(folder: Path, train: list[str], held_out: list[str], vocabulary: int = 4096) -> None:
    """Write tokenizer and token shards of a vocabulary learned from the training text."""
    write_shards(folder, {"train": train, "validation": held_out})
    tokenize(folder, vocabulary)


def write_shards(folder: Path, splits: dict[str, list[str]]) -> None:
    """Write the texts of each split."""
    for split, texts in splits.items():
        path = folder / "shards" / split / "part-00000.parquet"
        path.parent.mkdir(parents=True)
        rows = {"id": [f"{split}-{row}" for row in range(len(texts))], "text": texts, "source": ["text"] * len(texts)}
        pq.write_table(pa.table(rows), path)


def tokenize(folder: Path, vocabulary: int) -> None:
    """Write the tokenizer and the tokens of the shards in `folder`."""
    settings = TokenizerSettings(vocabulary_size=vocabulary, sample_mb=20)
    train_tokenizer(folder / "tokenizer", folder / "shards", settings)
    with ThreadPoolExecutor(1) as executor:
        pack(folder / "packed", folder / "shards", folder / "tokenizer", PackSettings(), executor=executor)


# --- the contest ------------------------------------------------------------------------------------------------------


def compete(data: Path, seconds: float, clock: Clock, names: list[str]) -> list[Run]:
    """Train contestants in turns, each for `seconds` of its own clock."""
    context = multiprocessing.get_context("spawn")
    runs: dict[str, Run] = {}
    lines: dict[str, Connection] = {}
    for name in names:
        ours, its = context.Pipe()
        context.Process(target=contend, args=(name, data, seconds, clock, its), daemon=True).start()
        lines[name], runs[name] = ours, Run(name)
    while lines:
        for name, line in list(lines.items()):
            line.send("go")
            while (said := line.recv()) not in ("paused", "done"):
                second, bits, speed = said
                runs[name].seconds.append(second)
                runs[name].bits_per_byte.append(bits)
                runs[name].tokens_per_second = speed
                print(f"{name:16} {second:6.1f} s  {bits:.4f} bits per byte  {speed:7.0f} tokens/s", flush=True)
            if said == "done":
                del lines[name]
    return list(runs.values())


def contend(name: str, data: Path, seconds: float, clock: Clock, line: Connection) -> None:
    """Train one contestant, in a process of its own, whenever it is its turn."""
    import torch

    from benchmarks import training_contestants

    torch.set_num_threads(cpu_count())
    line.recv()
    contestant = training_contestants.build(name, data, seconds)
    now = training_contestants.processor_seconds if clock == "processor" else time.perf_counter
    gone, turn, next_point = contestant.spent, 0.0, 1
    speeds: list[float] = []
    steps = contestant.steps()
    while True:
        began = now()
        learned = next(steps)
        spent = now() - began
        gone, turn = gone + spent, turn + spent
        speeds.append(learned / spent)
        contestant.gone = gone / seconds
        over = gone >= seconds
        if over or gone >= next_point * seconds / POINTS:
            next_point += 1
            line.send((gone, contestant.bits_per_byte(), statistics.median(speeds)))
        if over:
            break
        if turn >= TURN_SECONDS:
            turn = 0.0
            line.send("paused")
            line.recv()
    line.send("done")
    os._exit(0)  # without waiting for process groups and loader threads


# --- the outcome ------------------------------------------------------------------------------------------------------


def compare(runs: list[Run]) -> dict[str, float]:
    """Return our last figures divided by theirs, the best of each kind, for those that took part."""
    last = {run.name: run.bits_per_byte[-1] for run in runs}
    speed = {run.name: run.tokens_per_second for run in runs}
    found: dict[str, float] = {}
    rivals = {"nanogpt": NANOGPT, "nanochat": NANOCHATS, "guide": ["classic"], "own_adamw": ["modern-adamw"]}
    for kind, names in rivals.items():
        there = [last[name] for name in names if name in last]
        ours = [last[name] for name in ("modern", "modern-auto") if name in last]
        if there and ours:
            found[f"bpb_vs_{kind}"] = round(min(ours) / min(there), 4)
    for kind, names in {"nanogpt": NANOGPT, "llama": ["llama"]}.items():
        speeds = [speed[name] for name in names if name in speed]
        if speeds and "modern-adamw" in speed:
            found[f"tokens_per_second_vs_{kind}"] = round(speed["modern-adamw"] / statistics.median(speeds), 3)
    return found


def print_table(corpus: str, runs: list[Run]) -> None:
    print(f"\n{corpus:36} {'seconds':>8} {'bits per byte':>14} {'tokens/s':>9}")
    for run in runs:
        print(
            f"{CONTESTANTS[run.name]:36} {run.seconds[-1]:8.1f} {run.bits_per_byte[-1]:14.4f} "
            f"{run.tokens_per_second:9.0f}"
        )


def draw(path: Path, corpus: str, runs: list[Run]) -> None:
    """Draw bits per byte against seconds of training."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), dpi=110, layout="constrained")
    axes = figure.subplots()
    for run in runs:
        axes.plot(run.seconds, run.bits_per_byte, marker=".", label=CONTESTANTS[run.name])
    axes.set(title=f"{corpus}: held-out text", xlabel="seconds of training", ylabel="bits per byte")
    axes.grid(alpha=0.2)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="upper right")
    figure.savefig(path)


if __name__ == "__main__":
    main()
