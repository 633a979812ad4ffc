"""First passes of training in many launched processes under load: do all get the same bits; JSON as last line.

    python -m benchmarks.determinism [--launches 100] [--compiled 10] [--minutes 30] [--folder data/determinism]

Each process builds the same model of `tiny`'s shape, initialised from bigrams, and takes the gradients of one
micro-batch in float32 and bfloat16, with two threads, while as many other processes compute as the machine has
processors. The last `--compiled` ones compile the model first. Every figure is the number of different results: 1 is
the goal. `instructions` says on which processors: bfloat16 was found to differ on those with AMX.

A call with the same folder resumes; `--minutes` ends it earlier.
"""

import argparse
import hashlib
import json
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from homegrown.planning.synthetic import write_synthetic
from homegrown.training.worker import prepare_environment
from homegrown.util.parallel import cpu_count

THREADS = 2
VOCABULARY = 4096
ROWS = 4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--launches", type=int, default=100, help="processes (default: 100)")
    parser.add_argument("--compiled", type=int, default=10, help="those that compile the model (default: 10)")
    parser.add_argument("--minutes", type=float, default=30, help="time limit of this call (default: 30)")
    parser.add_argument("--folder", type=Path, default=Path("data/determinism"), help="records (data/determinism)")
    parser.add_argument("--one", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--compile", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(_passes(arguments.one, arguments.compile)))
        return
    arguments.folder.mkdir(parents=True, exist_ok=True)
    records = arguments.folder / "records.jsonl"
    records.touch()
    done = len(records.read_text().splitlines())
    end = time.monotonic() + arguments.minutes * 60
    compiled = [number >= arguments.launches - arguments.compiled for number in range(done, arguments.launches)]
    with tempfile.TemporaryDirectory() as text, ThreadPoolExecutor(cpu_count()) as pool, records.open("a") as file:
        write_synthetic(Path(text), VOCABULARY, 256, 200)
        for found in pool.map(lambda one: _launched(Path(text), one) if time.monotonic() < end else None, compiled):
            if found:
                file.write(json.dumps(found) + "\n")
                file.flush()
    different: defaultdict[str, set[str]] = defaultdict(set)
    lines = records.read_text().splitlines()
    for line in lines:
        for name, digest in json.loads(line).items():
            different[name].add(digest)
    instructions = sorted(different.pop("instructions", set()))
    kinds = {name: len(digests) for name, digests in different.items()}
    print(json.dumps({"launches": len(lines), **kinds, "instructions": instructions}))


def _launched(folder: Path, compile_it: bool) -> dict[str, str]:
    more = ["--compile"] if compile_it else []
    command = [sys.executable, "-m", "benchmarks.determinism", "--one", str(folder), *more]
    found: dict[str, str] = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)
    return found


def _passes(folder: Path, compile_it: bool) -> dict[str, str]:
    """Return the digests of the weights and of the losses with their gradients."""
    prepare_environment()

    import torch

    from homegrown.config.pipelines import load_recipe
    from homegrown.data.loader import Batches, TokenSplit
    from homegrown.model.config import ModelConfig
    from homegrown.model.transformer import Transformer
    from homegrown.training.compilation import compile_model
    from homegrown.training.initialisation import initialize
    from homegrown.training.next_token import NextToken
    from homegrown.training.precision import Precision, arithmetic

    def digest(tensors: Iterable[torch.Tensor]) -> str:
        whole = hashlib.sha256()
        for tensor in tensors:
            whole.update(tensor.detach().numpy().tobytes())
        return whole.hexdigest()

    torch.set_num_threads(THREADS)
    torch.use_deterministic_algorithms(True)
    split = TokenSplit(folder / "packed", "train")
    config = ModelConfig.from_settings(load_recipe("tiny").new_model, split.vocabulary_size, 0.0)
    torch.manual_seed(1)
    model = Transformer(config)
    initialize(model, "bigrams", split)
    found = {"weights": digest(model.parameters()), "instructions": str(arithmetic(1)["instructions"])}
    if compile_it:
        compile_model(model)
    windows, objective = torch.from_numpy(Batches(split, config.context, ROWS, 1).batch(0)), NextToken(model)
    for dtype in (torch.float32, torch.bfloat16):
        model.zero_grad()
        with Precision("cpu", dtype).autocast():
            loss = objective(windows)
        loss.backward()
        gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
        found[f"{str(dtype).removeprefix('torch.')}{', compiled' * compile_it}"] = digest([loss, *gradients])
    return found


if __name__ == "__main__":
    main()
