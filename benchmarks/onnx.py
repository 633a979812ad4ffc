"""ONNX Runtime compared with PyTorch: tokens per second of a prompt and of greedy decoding at batch 1.

    python -m benchmarks.onnx [--preset tiny small] [--tokens 64] [--rounds 3] [--threads 1]

Each preset is the model of its recipe in `pipelines.yaml` with random weights, exported by `write_onnx`. Our engine
computes in float32, ONNX Runtime in float32 and int8, each with its cache and the same prompt. They take turns, and the
best turn of each counts. The last line is one JSON object.
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, models

from benchmarks.measuring import table
from homegrown.config.pipelines import load_recipe
from homegrown.export.onnx import cache_names, write_onnx
from homegrown.inference.generation import generate
from homegrown.model import weights
from homegrown.model.transformer import Transformer
from homegrown.planning.compute import config_of
from homegrown.store.artifacts import Store

_PROMPT = 64


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", nargs="+", default=["tiny", "small"], help="recipes of pipelines.yaml")
    parser.add_argument("--tokens", type=int, default=64, help="tokens per turn (default 64)")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each engine (default 3)")
    parser.add_argument("--threads", type=int, default=1, help="threads of each engine (default 1)")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    summary, rows = {}, []
    for preset in arguments.preset:
        figures = measure(preset, arguments.tokens, arguments.rounds, arguments.threads)
        ours = figures["PyTorch float32"]["decode"]
        for name, figure in figures.items():
            cells = (f"{figure['prompt']:,.0f}", f"{figure['decode']:,.1f}", f"{figure['decode'] / ours:.2f}")
            rows.append((f"{preset}: {name}", *cells, f"{figure['mb']:,.0f}"))
        for kind in ("float32", "int8"):
            summary[f"{preset}_{kind}_vs_pytorch"] = figures[f"onnxruntime {kind}"]["decode"] / ours
    header = ("batch 1", "prompt tokens/s", "new tokens/s", "of PyTorch's", "MB on disk")
    table(f"{arguments.threads} thread(s), a prompt of {_PROMPT} tokens", header, rows)
    print(json.dumps(summary))


def measure(preset: str, tokens: int, rounds: int, threads: int) -> dict[str, dict[str, float]]:
    """Return tokens per second and megabytes on disk by engine."""
    with TemporaryDirectory() as folder:
        source = Path(folder)
        model = random_model(preset)
        weights.save(model, source)
        Tokenizer(models.BPE()).save(str(source / "tokenizer.json"))
        prompt = list(range(20, 20 + _PROMPT))
        engines: dict[str, tuple[Callable[[int], object], Path]] = {
            "PyTorch float32": (lambda new: generate(model, [prompt], max_tokens=new), source / "model.safetensors")
        }
        for kind in ("float32", "int8"):
            file = write_onnx(source, source / kind, int8=kind == "int8")
            engines[f"onnxruntime {kind}"] = (Runtime(file, model, prompt, threads), file)
        seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in engines}
        for _ in range(rounds):
            for name, (write, _file) in engines.items():
                first, all_of_them = timed(write, 1), timed(write, 1 + tokens)
                seconds[name].append((first, all_of_them - first))
        return {
            name: {
                "prompt": _PROMPT / min(first for first, _ in seconds[name]),
                "decode": tokens / min(rest for _, rest in seconds[name]),
                "mb": file.stat().st_size / 1e6,
            }
            for name, (_write, file) in engines.items()
        }


def timed(write: Callable[[int], object], new: int) -> float:
    start = time.perf_counter()
    write(new)
    return time.perf_counter() - start


def random_model(preset: str) -> Transformer:
    torch.manual_seed(0)
    model = Transformer(config_of(load_recipe(preset), Store(Path("artifacts"))))
    model.initialize()
    return model.eval()


class Runtime:
    """Greedy decoding of one sequence by onnxruntime."""

    def __init__(self, file: Path, model: Transformer, prompt: list[int], threads: int):
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        self._session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
        self._names, self._prompt = cache_names(model.config), prompt
        empty = np.zeros((1, model.config.kv_heads, 0, model.config.head_size), dtype=np.float32)
        self._empty = dict.fromkeys(self._names, empty)

    def __call__(self, new: int) -> list[int]:
        """Return `new` tokens after the prompt."""
        ids, past, seen, written = np.array([self._prompt]), self._empty, 0, []
        for _ in range(new):
            positions = np.arange(seen, seen + ids.shape[1])[None]
            seen += ids.shape[1]
            feed: dict[str, Any] = {"input_ids": ids, "position_ids": positions}
            logits, *present = self._session.run(None, feed | {"attention_mask": np.ones((1, seen), np.int64)} | past)
            written.append(int(logits[0, -1].argmax()))
            ids, past = np.array([written[-1:]]), dict(zip(self._names, present, strict=True))
        return written


if __name__ == "__main__":
    main()
