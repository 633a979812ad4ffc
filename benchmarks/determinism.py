"""First passes of training in many launched processes under load: do all get the same bits; JSON as last line.

    python -m benchmarks.determinism [--launches 100] [--compiled 10]      # half an hour on 2 busy processors

Each process builds the same model of `tiny`'s shape, initialised from bigrams, and takes the gradients of one
micro-batch in float32 and bfloat16, with two threads, while as many other processes compute as the machine has
processors. The last `--compiled` ones compile the model first. Every figure is the number of different results: 1 is
the goal.
"""

import argparse
import hashlib
import json
import subprocess
import sys
import tempfile
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
    parser.add_argument("--one", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--compile", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(_passes(arguments.one, arguments.compile)))
        return
    different: defaultdict[str, set[str]] = defaultdict(set)
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(cpu_count()) as pool:
        write_synthetic(Path(folder), VOCABULARY, 256, 200)
        compiled = [number >= arguments.launches - arguments.compiled for number in range(arguments.launches)]
        for found in pool.map(lambda compile_it: _launched(Path(folder), compile_it), compiled):
            for name, digest in found.items():
                different[name].add(digest)
    print(json.dumps({"launches": arguments.launches, **{name: len(kinds) for name, kinds in different.items()}}))


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
    from homegrown.training.precision import Precision

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
    found = {"weights": digest(model.parameters())}
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
