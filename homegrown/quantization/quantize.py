"""The stage `quantize`: smaller variants of trained weights, each reloaded and compared with the original."""

import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from torch import Tensor

from homegrown.config.export import QuantizationSettings
from homegrown.data.loader import TokenSplit
from homegrown.data.rows import NO_TARGET, parts
from homegrown.inference.generation import generate
from homegrown.model import weights
from homegrown.model.transformer import Transformer
from homegrown.quantization.memory import loaded_megabytes
from homegrown.quantization.requirements import check_requirements
from homegrown.quantization.variants import (
    DESCRIPTION,
    ORIGINAL,
    check_variant,
    device_of,
    disk_megabytes,
    load_variant,
    save_variant,
)
from homegrown.tokenizer.loading import load, token_bytes
from homegrown.util.errors import UserError
from homegrown.util.files import write_parquet
from homegrown.util.progress import Metric, Outcome, Progress, silent

_WORST_RELATIVE_ERROR = 0.5
"""Of the logits. On trained weights it is 0.006 for int8 and 0.03 for the others; garbage gives 1 or more."""

_PROBES, _PROBE_TOKENS, _PROMPT_TOKENS = 4, 64, 16


@dataclass(frozen=True, kw_only=True)
class Row:
    """Measurements of one reloaded variant; one row of the table `variants`.

    Megabytes are 10^6 bytes. `ratio` is the original's size on disk divided by the variant's. `loss` is the relative
    increase of bits per byte on held-out text. Logits are compared on random tokens; `relative_logit_error` is relative
    to their spread.
    """

    variant: str
    disk_megabytes: float
    ratio: float
    memory_megabytes: float
    tokens_per_second: float
    bits_per_byte: float
    loss: float
    max_logit_error: float
    relative_logit_error: float
    device: str


class _Measure:
    """Measures variants of one model on the same text."""

    def __init__(self, source: Path, packed: Path, most_tokens: int, device: str) -> None:
        self._split = TokenSplit(packed, "validation")
        self._sizes: npt.NDArray[np.int32] = token_bytes(load(source))
        self._most, self._device = most_tokens, device
        self._prompt = self._split.read_at([0], min(_PROMPT_TOKENS, self._split.tokens))[0].tolist()
        self._source = source
        self._logits: Tensor | None = None
        self._bits = 0.0

    def __call__(self, name: str, folder: Path) -> Row:
        """Load a variant and measure it; call it with the original first."""
        model = load_variant(folder, device_of(folder, self._device))
        logits, bits = _logits(model), bits_per_byte(model, self._split, self._sizes, self._most)
        if self._logits is None:
            self._logits, self._bits = logits, bits
        error = logits - self._logits
        spread = (self._logits - self._logits.mean(-1, keepdim=True)).norm()
        return Row(
            variant=name,
            disk_megabytes=disk_megabytes(folder),
            ratio=disk_megabytes(self._source) / disk_megabytes(folder),
            memory_megabytes=loaded_megabytes(model),
            tokens_per_second=tokens_per_second(model, self._prompt),
            bits_per_byte=bits,
            loss=bits / self._bits - 1,
            max_logit_error=error.abs().max().item(),
            relative_logit_error=(error.norm() / spread).item(),
            device=model.device.type,
        )


def quantize(
    out: Path,
    pretrained: Path,
    packed: Path,
    settings: QuantizationSettings,
    *,
    device: str,
    progress: Progress = silent,
) -> Outcome:
    """Write each variant of the weights in `pretrained/model` to the folder `out/<variant>`.

    The table `variants` has one `Row` for each, the original first. Bits per byte are measured on the validation split
    in `packed`.

    Raises:
        UserError: before any work: the weights cannot be read, or this machine or the model's sizes do not support a
            variant.
        RuntimeError: a variant's logits are garbage.
    """
    source = pretrained / "model"
    variants = list(dict.fromkeys(settings.variants))
    check_requirements(variants, weights.load_config(source / "config.json"))
    for variant in variants:
        check_variant(variant, source, device)
    progress(0, len(variants) + 1, variant=ORIGINAL)
    measure = _Measure(source, packed, settings.validation_tokens, device)
    rows = [measure(ORIGINAL, source)]
    for variant in variants:
        progress(len(rows), len(variants) + 1, variant=variant)
        folder = out / variant
        if not (folder / DESCRIPTION).exists():
            save_variant(source, variant, folder)
        row = measure(variant, folder)
        if not row.relative_logit_error < _WORST_RELATIVE_ERROR:
            raise RuntimeError(
                f"The variant {variant} computes garbage after loading: its logits differ by "
                f"{row.relative_logit_error:.0%}."
            )
        rows.append(row)
    progress(len(rows), len(variants) + 1)
    write_parquet(out / "variants" / "part-00000.parquet", pa.Table.from_pylist([asdict(row) for row in rows]))
    metrics: dict[str, Metric] = {}
    for row in rows[1:]:
        metrics |= {f"{row.variant}_mb": row.disk_megabytes, f"{row.variant}_loss": row.loss}
    return Outcome(rows_in=1, rows_out=len(variants), unit="variants", metrics=metrics)


@torch.inference_mode()
def _logits(model: Transformer) -> Tensor:
    """Return the logits of fixed random tokens, float32 [probes, tokens, vocabulary], on the CPU."""
    generator = torch.Generator().manual_seed(0)
    shape = (_PROBES, min(_PROBE_TOKENS, model.config.context))
    tokens = torch.randint(model.config.vocabulary_size, shape, generator=generator)
    logits: Tensor = model(tokens.to(model.device)).float().cpu()
    return logits


_BATCH_TOKENS = 4096
_LONGEST_WINDOW = 2048
_RUNS = 3
_WRITTEN = 48


@torch.inference_mode()
def bits_per_byte(model: Transformer, split: TokenSplit, token_bytes: npt.NDArray[np.int32], most_tokens: int) -> float:
    """Return bits per byte over evenly spaced windows of a split: its rows, or as long as the model's context.

    A window has at most 2,048 tokens. Windows are independent, so one pass compares all variants on the same tokens.
    Quote the figure of the stage `evaluate` instead, which gives each token more context.

    Raises:
        UserError: the split is empty.
    """
    context = split.context or split.fitting(min(model.config.context, _LONGEST_WINDOW))
    if context > model.config.context:  # rows of pairs, each document of which is shorter
        model.set_context(context)
    windows = split.windows(context)
    if not windows:
        raise UserError("The validation split is empty; add text or raise shard.validation_share.")
    chosen = np.linspace(0, windows - 1, min(windows, math.ceil(most_tokens / context))).round().astype(np.int64)
    rows = max(1, _BATCH_TOKENS // context)
    nats, size = 0.0, 0
    for start in range(0, len(chosen), rows):
        batch = split.read(chosen[start : start + rows], context)
        nats += model.loss(*parts(torch.from_numpy(batch).to(model.device))).item()
        _, targets, _ = parts(batch)
        size += int(token_bytes[targets[targets != NO_TARGET]].sum())
    return nats / math.log(2) / size


def tokens_per_second(model: Transformer, prompt: Sequence[int]) -> float:
    """Return the speed of generating one sequence, prompt included: the fastest of several runs.

    A warm-up run lets layers reorder their weights.
    """
    generate(model, [prompt], max_tokens=2)
    return max(_speed(model, prompt) for _ in range(_RUNS))


def _speed(model: Transformer, prompt: Sequence[int]) -> float:
    start = time.perf_counter()
    (written,) = generate(model, [prompt], max_tokens=_WRITTEN)
    return len(written) / (time.perf_counter() - start)
