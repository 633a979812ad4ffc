"""Generation speed of our engine, `transformers`, the guide's uncached loop, and llama.cpp on our export.

    python -m benchmarks.inference [--tokens 64] [--rounds 3] [--batches 1 16] [--models 100m tiny]

Every model is `modern` with random weights. All contestants decode greedily after the same random prompts of 32 tokens.
They take turns and their best round counts, so other load on the machine affects all of them. The table has tokens per
second, the time to the first token, and the share of the memory bandwidth that reading weights and cache in a step
amounts to; the bandwidth is measured by all threads, which sum arrays larger than any cache. On a processor without
bfloat16 instructions, which is reported, PyTorch emulates bfloat16. The last line is one JSON object.
"""

import argparse
import copy
import json
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from numba import njit
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

from benchmarks.inference_contestants import Timing, Writer, guide, llama_cpp, ours, transformers
from benchmarks.measuring import table
from homegrown.config.pipelines import load_recipe
from homegrown.export.gguf import write_gguf
from homegrown.model import weights
from homegrown.model.config import ModelConfig
from homegrown.model.transformer import Transformer
from homegrown.planning.machine import this_machine
from homegrown.quantization.linear import METHODS
from homegrown.quantization.memory import loaded_megabytes
from homegrown.quantization.variants import check_variant, load_variant, save_variant
from homegrown.tokenizer.encoding import SPLIT_PATTERN
from homegrown.tokenizer.loading import TOKENIZER_FILE
from homegrown.tokenizer.special import SPECIAL_TOKENS
from homegrown.util.errors import UserError

PROMPT = 32
BARS = {"vs_transformers_bf16_batch1": 2.3, "of_bandwidth": 0.6, "first_token_vs_llama_cpp_bf16": 1.2}

_SUMMED = 100_000_000
"""Float32 numbers, in the measurement of the bandwidth."""


@dataclass(frozen=True)
class Contestant:
    """One way to generate; each step reads `megabytes` of weights."""

    name: str
    write: Writer
    megabytes: float
    cache_bytes: int = 4
    batched: bool = True


@dataclass(frozen=True)
class Row:
    """The best round of one contestant; `share` is that of the memory bandwidth."""

    name: str
    batch: int
    timing: Timing
    share: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=64, help="tokens per round (default 64)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of each contestant (default 3)")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 16], help="batch sizes (default 1 16)")
    parser.add_argument("--models", nargs="+", default=["100m", "tiny"], choices=["100m", "tiny"])
    parser.add_argument(
        "--variants", nargs="*", default=list(METHODS), choices=list(METHODS), help="quantized variants (default all)"
    )
    parser.add_argument("--gguf", nargs="*", default=["f32", "bf16", "q8_0", "q4_0"], help="GGUF types for llama.cpp")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="threads of each contestant")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    bandwidth = memory_bandwidth(arguments.threads)
    processor = this_machine()
    print(f"{processor.processor}, {arguments.threads} threads, {'' if native() else 'no '}bfloat16 instructions")
    print(f"memory bandwidth: {bandwidth / 1e9:.1f} GB/s read by all threads, each summing its part of 400 MB")
    found: dict[str, list[Row]] = {}
    for name in arguments.models:
        config = config_of(name)
        rows: list[Row] = []
        with TemporaryDirectory() as folder, contestants(config, Path(folder), arguments) as every:
            for batch in arguments.batches:
                rows += contest(every, config, batch, arguments.tokens, arguments.rounds, bandwidth)
        found[name] = rows
        show(f"{name}: {config.parameter_count() / 1e6:.1f} million parameters", rows)
    print(json.dumps(summary(found)))


def config_of(name: str) -> ModelConfig:
    """Return a model's shape: `tiny` of pipelines.yaml, or one of 100 million parameters."""
    if name == "tiny":
        recipe = load_recipe("tiny")
        return ModelConfig.from_settings(recipe.new_model, recipe.tokenizer.vocabulary_size, 0.0)
    return ModelConfig(
        family="modern",
        vocabulary_size=32_000,
        hidden=768,
        layers=12,
        heads=12,
        kv_heads=4,
        head_size=64,
        feed_forward=2048,
        context=512,
        dropout=0.0,
        tied=True,
    )


@contextmanager
def contestants(config: ModelConfig, folder: Path, arguments: argparse.Namespace) -> Iterator[list[Contestant]]:
    """Yield all contestants, on the same weights; skip and report those that this machine cannot run."""
    torch.manual_seed(0)
    model = Transformer(config)
    model.initialize()
    model.eval()
    half = copy.deepcopy(model).bfloat16()
    half.model.positions = model.model.positions
    size = 4 * config.parameter_count() / 1e6
    every = [
        Contestant("ours, float32", ours(model), size),
        Contestant("ours, bf16", ours(half), size / 2, 2),
        Contestant("transformers, float32", transformers(config, model), size),
        Contestant("transformers, bf16", transformers(config, half), size / 2, 2),
        Contestant("the guide's loop, float32", guide(model), size, batched=False),
    ]
    weights.save(model, folder / "model")
    made_up_tokenizer(config.vocabulary_size).save(str(folder / "model" / TOKENIZER_FILE))
    for variant in arguments.variants:
        try:
            check_variant(variant, folder / "model", "cpu")
            (folder / variant).mkdir()
            save_variant(folder / "model", variant, folder / variant)
            quantized = load_variant(folder / variant)
        except UserError as error:
            print(f"{variant} is skipped: {error}")
            continue
        every.append(Contestant(f"ours, {variant}", ours(quantized), loaded_megabytes(quantized)))
    for kind in arguments.gguf:
        file = folder / f"{kind}.gguf"
        write_gguf(folder / "model", file, kind)
        try:
            writer = llama_cpp(file, config.context, max(arguments.batches), arguments.threads)
        except ImportError as error:
            print(f"llama.cpp is skipped ({error}); pip install -e '.[llama-cpp]'")
            break
        every.append(Contestant(f"llama.cpp, {kind}", writer, file.stat().st_size / 1e6, 2))
    yield every


def made_up_tokenizer(size: int) -> Tokenizer:
    """Return an untrained byte-level BPE of `size` tokens, since a GGUF file must have one."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    pairs = [(first, second) for first in alphabet for second in alphabet]
    merges = pairs[: size - len(alphabet) - len(SPECIAL_TOKENS)]
    tokens = [*SPECIAL_TOKENS, *alphabet, *(first + second for first, second in merges)]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT_PATTERN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(SPECIAL_TOKENS))
    return tokenizer


def contest(
    every: Sequence[Contestant], config: ModelConfig, batch: int, tokens: int, rounds: int, bandwidth: float
) -> list[Row]:
    """Run all contestants in turns after a warm-up round; return the best round of each."""
    generator = torch.Generator().manual_seed(1)
    prompts = torch.randint(config.vocabulary_size, (batch, PROMPT), generator=generator).tolist()
    taking_part = [one for one in every if batch == 1 or one.batched]
    timings: dict[str, list[Timing]] = {one.name: [] for one in taking_part}
    for number in range(rounds + 1):
        for one in taking_part:
            timing = one.write(prompts, tokens if number else 3)
            if number:
                timings[one.name].append(timing)
    rows = []
    for one in taking_part:
        best = Timing(
            min(timing.first_seconds for timing in timings[one.name]),
            max(timing.tokens_per_second for timing in timings[one.name]),
        )
        kept = 2 * config.layers * config.kv_heads * config.head_size * one.cache_bytes * (PROMPT + tokens / 2)
        read = (one.megabytes * 1e6 + batch * kept) * best.tokens_per_second / batch
        rows.append(Row(one.name, batch, best, read / bandwidth))
    return rows


def memory_bandwidth(threads: int) -> float:
    """Return the bytes per second that this many threads read, each an array of its own: the best of ten times."""
    parts = [np.ones(_SUMMED // threads, dtype=np.float32) for _ in range(threads)]
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(_sum, parts))  # compiled
        seconds = []
        for _ in range(10):
            start = time.perf_counter()
            list(pool.map(_sum, parts))
            seconds.append(time.perf_counter() - start)
    return sum(part.nbytes for part in parts) / min(seconds)


@njit(nogil=True, fastmath=True)  # type: ignore[untyped-decorator]
def _sum(numbers: Any) -> Any:
    """Return the sum in any order, so that it is computed in wide registers, faster than memory can be read."""
    total = np.float32(0)
    for place in range(len(numbers)):
        total += numbers[place]
    return total


def native() -> bool:
    """Return whether the processor has bfloat16 instructions; with AVX512 alone, oneDNN emulates them."""
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def show(title: str, rows: Sequence[Row]) -> None:
    """Print a table for each batch size, with ratios to `transformers` in bf16."""
    for batch in sorted({row.batch for row in rows}):
        here = [row for row in rows if row.batch == batch]
        theirs = speed(here, "transformers, bf16", batch)
        cells = [
            (
                row.name,
                f"{row.timing.tokens_per_second:,.1f}",
                f"{row.timing.tokens_per_second / theirs:.2f}",
                f"{row.timing.first_seconds * 1e3:.1f}",
                f"{row.share:.0%}",
            )
            for row in here
        ]
        header = (f"{title}, batch {batch}", "tokens/s", "of transformers bf16", "first token ms", "of bandwidth")
        table("", header, cells)


def row_of(rows: Sequence[Row], name: str, batch: int) -> Row:
    """Return the row of a contestant."""
    return next(row for row in rows if (row.name, row.batch) == (name, batch))


def speed(rows: Sequence[Row], name: str, batch: int) -> float:
    """Return the tokens per second of a contestant."""
    return row_of(rows, name, batch).timing.tokens_per_second


def summary(found: dict[str, list[Row]]) -> dict[str, object]:
    """Return the figures of the last line; the goals are for the larger model at batch 1."""
    rows = next(iter(found.values()))
    theirs = speed(rows, "transformers, bf16", 1)
    llama = [row for row in rows if row.name.startswith("llama.cpp") and row.batch == 1]
    ours, half = row_of(rows, "ours, bf16", 1), next((row for row in llama if row.name == "llama.cpp, bf16"), None)
    figures: dict[str, object] = {
        "vs_transformers_bf16_batch1": round(ours.timing.tokens_per_second / theirs, 3),
        "vs_transformers_float32_batch1": round(
            speed(rows, "ours, float32", 1) / speed(rows, "transformers, float32", 1), 3
        ),
        "llama_cpp_vs_transformers_bf16_batch1": (
            round(max(row.timing.tokens_per_second for row in llama) / theirs, 3) if llama else None
        ),
        "of_bandwidth": round(ours.share, 3),
        "first_token_vs_llama_cpp_bf16": (
            round(ours.timing.first_seconds / half.timing.first_seconds, 3) if half else None
        ),
        "bars": BARS,
        "bfloat16_native": native(),
    }
    for name, of_model in found.items():
        figures[name] = {f"{row.name}, batch {row.batch}": round(row.timing.tokens_per_second, 1) for row in of_model}
    return figures


if __name__ == "__main__":
    main()
