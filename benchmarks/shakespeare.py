"""Tiny Shakespeare by `homegrown run auto`, in nats per character of the last tenth.

    python -m benchmarks.shakespeare [--minutes 10] [--epochs 20] [--set model.tied=false]

The first nine tenths are the training text, of which the first fiftieth is held out for validation: the last one begins
the play that the last tenth continues. The last tenth is judged once, at the end. Minutes are those of the tokenizer,
the tokens and the training, as a clock shows them, or the processor time per processor if other programs ran too. No
setting is touched; `--epochs` and `--set` repeat the figures beside the rules. nanoGPT's README has 1.4697 for 10.65
million parameters and 3 minutes of an A100.

Needs ../shared/corpora beside the repository. The last line is one JSON object.
"""

import argparse
import json
import math
import os
import resource
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.measuring import CORPORA
from benchmarks.scaling import train_once
from benchmarks.training import tokenize, write_shards
from homegrown.config.pipelines import change_recipe, load_auto
from homegrown.planning import scaling_rules as rules
from homegrown.planning import speed
from homegrown.planning.budget import Budget
from homegrown.planning.dial import dial, table
from homegrown.planning.machine import this_machine
from homegrown.planning.text_facts import facts
from homegrown.reporting.terminal import print_table
from homegrown.training.worker import prepare_environment
from homegrown.util.parallel import cpu_count

SPARE_SECONDS = 25.0
"""For the tokenizer, the tokens and the start."""
BUSY = 1.25
"""Ratio of time to processor time per processor above which other programs ran too."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10, help="time for everything but the probe (default 10)")
    parser.add_argument("--epochs", type=float, default=rules.MOST_EPOCHS, help="most readings of the text")
    parser.add_argument("--set", action="append", default=[], metavar="SETTING=VALUE", help="change the recipe")
    arguments = parser.parse_args()
    rules.MOST_EPOCHS = arguments.epochs
    if not CORPORA.is_dir():
        raise SystemExit(f"{CORPORA} is missing; this benchmark needs its texts.")
    prepare_environment()
    text = (CORPORA / "tinyshakespeare.txt").read_text()
    cut = len(text) * 9 // 10
    held_out = text.index("\n\n", cut // 50)
    splits = {"train": [text[held_out:cut]], "validation": [text[:held_out]], "test": [text[cut:]]}
    recipe, machine = load_auto(), this_machine()
    measured = speed.measure(recipe, machine.device("cpu"))
    began, busy = time.perf_counter(), processor_seconds()
    with tempfile.TemporaryDirectory() as name:
        data, threads = Path(name) / "data", cpu_count()
        write_shards(data, splits)
        known = facts(data / "shards", len(splits["train"][0].encode()))
        budget = Budget(seconds=60 * arguments.minutes - SPARE_SECONDS)
        chosen = dial(recipe, budget, known, measured, machine)
        print_table(table(chosen))
        recipe = change_recipe(chosen.recipe, arguments.set)
        tokenize(data, recipe.tokenizer.vocabulary_size)
        folder = Path(name)
        trained = train_once(data, recipe.new_model, recipe.training, folder / "out", threads)
        wall, processor = time.perf_counter() - began, (processor_seconds() - busy) / threads
        nats = judge(folder / "out" / "model", data)
    values = {
        "nats_per_character": round(nats / (len(text) - cut), 4),
        "minutes": round((wall if wall < BUSY * processor else processor) / 60, 2),
        "clock_minutes": round(wall / 60, 2),
        "processor_minutes_per_processor": round(processor / 60, 2),
        "validation_bits_per_byte": round(trained.bits_per_byte, 4),
        "promised_bits_per_byte": round(chosen.bits_per_byte, 4),
        "parameters": trained.parameters,
        "epochs": round(trained.epochs, 2),
    }
    print(json.dumps(values), flush=True)
    os._exit(0)  # without waiting for process groups and loader threads


def processor_seconds() -> float:
    """Return the processor time of this process and of its children that have exited."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def judge(model: Path, data: Path) -> float:
    """Return the nats of all characters of the test split, each token predicted from half a context at least."""
    from homegrown.data.loader import TokenSplit
    from homegrown.evaluation.perplexity import predict
    from homegrown.evaluation.windows import slide
    from homegrown.model.weights import load

    loaded, split = load(model), TokenSplit(data / "packed", "test")
    context = loaded.config.context
    windows = slide(np.array([0]), np.array([split.tokens]), context, context // 2)
    return math.fsum(predict(loaded, split, windows).tolist())


if __name__ == "__main__":
    main()
