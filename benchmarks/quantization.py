"""Size, memory and loss of every variant of trained weights, compared with the original.

    python -m benchmarks.quantization [--weights pretrain] [--tokens 20000] [VARIANT ...]

Run it in the project's folder. It takes the weights of an artifact (`--weights pretrain@3`) and its validation text,
makes each variant as the stage `quantize` does, and prints a table. Memory is reported twice: all tensors of the loaded
weights, and the growth of a new process that loads them and computes once, including the libraries' working memory.
Goals: int8 costs at most 0.3% more bits per byte than the original, nf4 and q4_k_m at most 3%. The last line is one
JSON object.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from benchmarks.measuring import table
from homegrown.config.export import QuantizationSettings
from homegrown.quantization.quantize import quantize
from homegrown.quantization.requirements import REQUIREMENTS
from homegrown.quantization.variants import variants_of
from homegrown.store.artifacts import Store
from homegrown.store.manifest import Artifact

GOALS = {"int8": 0.003, "nf4": 0.03, "q4_k_m": 0.03}
"""Largest increase in bits per byte, as a share of the original's."""

_GROWTH = """
import sys
from pathlib import Path
import torch
import psutil
from homegrown.quantization import variants
from homegrown.quantization.linear import METHODS, try_out

folder = Path(sys.argv[1])
if folder.name in METHODS:
    try_out(folder.name, "cpu")  # imports what the variant needs, and allocates the buffers that libraries keep
before = psutil.Process().memory_info().rss
model = variants.load_variant(folder)
with torch.inference_mode():
    model(torch.zeros(1, 1, dtype=torch.int64))
print((psutil.Process().memory_info().rss - before) / 1e6)
"""


def growth(folder: Path) -> float:
    """Return the megabytes by which a new process grows when it loads a variant and computes once."""
    done = subprocess.run([sys.executable, "-c", _GROWTH, folder], check=True, capture_output=True, text=True)
    return float(done.stdout)


def measure(store: Store, weights: Artifact, tokens: int, variants: list[str]) -> list[dict[str, Any]]:
    """Return the rows of the stage's table, with `growth_megabytes`."""
    pack = next(artifact for artifact in store.inputs(weights) if artifact.manifest.stage == "pack")
    settings = QuantizationSettings.model_validate({"variants": variants, "validation_tokens": tokens})
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        quantize(out, weights.path, pack.path, settings, device="cpu", progress=_tell)
        rows: list[dict[str, Any]] = pq.ParquetFile(next((out / "variants").glob("*.parquet"))).read().to_pylist()
        folders = variants_of(weights.path, out)
        return [row | {"growth_megabytes": growth(folders[row["variant"]])} for row in rows]


def _tell(done: float, total: float | None = None, /, **metrics: Any) -> None:
    print(f"{done:.0f} of {total:.0f}", *metrics.values(), file=sys.stderr)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("variants", nargs="*", metavar="VARIANT", help=f"{', '.join(REQUIREMENTS)}; default all")
    parser.add_argument("--weights", default="pretrain", metavar="ARTIFACT", help="pretrain, or pretrain@VERSION")
    parser.add_argument("--tokens", type=int, default=20_000, help="tokens of the validation split (default 20000)")
    parser.add_argument("--artifacts", type=Path, default=Path("artifacts"), metavar="FOLDER")
    arguments = parser.parse_args()
    store = Store(arguments.artifacts)
    weights = store.resolve(arguments.weights)
    rows = measure(store, weights, arguments.tokens, arguments.variants or list(REQUIREMENTS))
    columns = {
        "disk MB": ("disk_megabytes", "{:.2f}"),
        "memory MB": ("memory_megabytes", "{:.2f}"),
        "growth MB": ("growth_megabytes", "{:.1f}"),
        "tokens/s": ("tokens_per_second", "{:.0f}"),
        "bits/byte": ("bits_per_byte", "{:.4f}"),
        "loss": ("loss", "{:+.2%}"),
    }
    cells = [(row["variant"], *(form.format(row[name]) for name, form in columns.values())) for row in rows]
    table(f"{weights.name}, {arguments.tokens:,} tokens of the validation split", ("variant", *columns), cells)
    losses = {row["variant"]: row["loss"] for row in rows}
    met = {name: losses[name] <= goal for name, goal in GOALS.items() if name in losses}
    print(json.dumps({"losses": losses, "goals_met": met}))


if __name__ == "__main__":
    main()
