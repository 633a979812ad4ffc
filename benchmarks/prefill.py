"""The longest pause of running streams while a prompt of the entire context is read, in pieces or at once.

    python -m benchmarks.prefill [--model tiny|100m] [--context 1024] [--pieces 64 128 256] [--rounds 2] [--streams 4]

The model is `modern` with random weights; `streams` sequences are running when the prompt arrives. Each step of the
engine gives each of them one token, so a pause is the time of one step. Times are CPU time of this process, which has
one thread, so other load changes them little; the least of several rounds counts. The last line is one JSON object: the
longest pause in milliseconds by size of a piece, 0 for a prompt that is read at once.
"""

import argparse
import json
import time
from dataclasses import replace

import numba
import numpy as np
import torch

from benchmarks.inference import config_of
from benchmarks.measuring import table
from homegrown.inference.engine import Engine, Request
from homegrown.model.transformer import Transformer

LEFT = 8  # positions of the context after the long prompt


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="100m", choices=["tiny", "100m"])
    parser.add_argument("--context", type=int, default=1024)
    parser.add_argument("--pieces", type=int, nargs="+", default=[64, 128, 256])
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--streams", type=int, default=4)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    numba.set_num_threads(1)
    config = replace(config_of(arguments.model), context=arguments.context)
    torch.manual_seed(0)
    model = Transformer(config)
    model.initialize()
    model.eval()
    rows, found = [], {}
    for piece in (None, *arguments.pieces):
        rounds = [measure(model, piece, arguments.streams) for _ in range(arguments.rounds)]
        usual, longest, first = (min(values) * 1e3 for values in zip(*rounds, strict=True))
        rows.append((str(piece or "at once"), *(f"{value:,.0f}" for value in (usual, longest, first))))
        found[piece or 0] = round(longest, 1)
    header = ("tokens of a piece", "a step without prompts ms", "longest pause ms", "first token of the prompt ms")
    prompt = config.context - LEFT
    table(f"{arguments.model}: {arguments.streams} streams, then a prompt of {prompt} tokens", header, rows)
    print(json.dumps(found))


def measure(model: Transformer, piece: int | None, streams: int) -> tuple[float, float, float]:
    """Return seconds of a usual step, of the longest step while the prompt is read, and to the prompt's first token."""
    draw, vocabulary = np.random.default_rng(0), model.config.vocabulary_size
    engine = Engine(model, rows=streams + 1, prefill_chunk=piece)

    def add(tokens: int) -> object:
        return engine.add(Request(prompt_ids=draw.integers(7, vocabulary, tokens).tolist(), max_tokens=400))

    for _ in range(streams):
        add(32)
    usual = min(seconds(engine)[0] for _ in range(6))
    late, gaps, begun = add(model.config.context - LEFT), list[float](), False
    while not begun:
        gap, written = seconds(engine)
        gaps.append(gap)
        begun = late in written
    return usual, max(gaps), sum(gaps)


def seconds(engine: Engine) -> tuple[float, list[object]]:
    """Take a step; return its CPU seconds and the sequences that got a token."""
    began = time.process_time()
    written: list[object] = list(engine.step())
    return time.process_time() - began, written


if __name__ == "__main__":
    main()
