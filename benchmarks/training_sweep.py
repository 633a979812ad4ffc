"""One training run with some settings changed, over a fixed number of tokens, for the table of sweeps.

    python -m benchmarks.training_sweep shakespeare|wikipedia [--tokens 300000] [SETTING=VALUE ...]

A SETTING is one of `training` or `model` of the recipe `tiny`. Prints bits per byte of the held-out text, tokens per
CPU second of one thread, and the settings. benchmarks/results/sweeps.md has the results and the conclusions.
"""

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from benchmarks.measuring import CORPORA
from benchmarks.training import TEXTS, prepare
from homegrown.config.model import ModelSettings
from homegrown.config.pipelines import load_recipe
from homegrown.training.worker import prepare_environment


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", choices=list(TEXTS))
    parser.add_argument("--tokens", type=int, default=300_000, help="tokens to train on (default 300,000)")
    parser.add_argument("changes", nargs="*", metavar="SETTING=VALUE")
    arguments = parser.parse_intermixed_args()
    if not CORPORA.is_dir():
        raise SystemExit(f"{CORPORA} is missing; this benchmark needs its texts.")
    prepare_environment()
    changes = {name: yaml.safe_load(value) for name, value in (change.split("=", 1) for change in arguments.changes)}
    with tempfile.TemporaryDirectory() as folder:
        prepare(Path(folder), *TEXTS[arguments.corpus]())
        bits, speed = run(Path(folder), arguments.tokens, changes)
    print(f"{bits:.4f} bits per byte  {speed:6.0f} tokens/CPU s  {' '.join(arguments.changes)}")


def run(data: Path, tokens: int, changes: dict[str, Any]) -> tuple[float, float]:
    """Train on `tokens` tokens with one thread; return bits per byte and the median step's tokens per CPU second."""
    import torch

    from benchmarks.training_contestants import Ours

    model = {name: value for name, value in changes.items() if name in ModelSettings.model_fields}
    training = {name: value for name, value in changes.items() if name not in model}
    tiny = load_recipe("tiny")
    batch_tokens = training.get("batch_size", tiny.training.batch_size) * model.get("context", tiny.context)
    contestant = Ours(data, model, training, steps=tokens // batch_tokens)
    torch.set_num_threads(1)
    speeds, began = [], time.thread_time()
    for learned in contestant.steps():
        speeds.append(learned / (time.thread_time() - began))
        began = time.thread_time()
    return contestant.bits_per_byte(), float(np.median(speeds))


if __name__ == "__main__":
    main()
