"""The stage `quantize`: smaller variants of trained weights, each checked after loading it again."""

import shutil
from pathlib import Path

import pyarrow as pa
import torch
from torch import Tensor

from homegrown.files import replacing, write_parquet
from homegrown.formats.linear import check
from homegrown.formats.variants import DESCRIPTION, disk_megabytes, load_variant, matrices, save_variant
from homegrown.model import weights
from homegrown.model.transformer import Transformer
from homegrown.outcome import Outcome
from homegrown.progress import Progress, silent
from homegrown.recipe import QuantizationSettings

_TABLE = pa.schema(
    [
        ("variant", pa.string()),
        ("megabytes", pa.float64()),
        ("ratio", pa.float64()),
        ("max_logit_error", pa.float64()),
        ("relative_logit_error", pa.float64()),
    ]
)

_WORST_RELATIVE_ERROR = 0.5
"""Of the logits. Measured on trained weights: 0.006 for int8, 0.03 for the others; garbage is near 1 or beyond."""

_PROBES, _PROBE_TOKENS = 4, 64


def quantize(out: Path, pretrained: Path, settings: QuantizationSettings, *, progress: Progress = silent) -> Outcome:
    """Make each variant of the weights in `pretrained/model` as a folder `out/<variant>`.

    The table `variants` has its size in megabytes, how many times smaller it is than the original, and how far its
    logits are from the original's on random tokens, after loading: at most, and as a share of the logits' own spread.

    Raises:
        UserError: the weights cannot be read, or this machine or the model's sizes do not allow a variant; said before
            any work.
        RuntimeError: a variant's logits are garbage.
    """
    source = pretrained / "model"
    model = weights.load(source, dtype=torch.float32)
    variants = list(dict.fromkeys(settings.variants))
    for variant in variants:
        check(variant, matrices(model))
    probes = _probes(model)
    expected = _logits(model, probes)
    rows = []
    for done, variant in enumerate(variants, start=1):
        folder = out / variant
        if not (folder / DESCRIPTION).exists():
            _copy(source / "tokenizer.json", folder / "tokenizer.json")
            save_variant(model, variant, folder)
        error = _logits(load_variant(folder), probes) - expected
        relative = (error.norm() / (expected - expected.mean(-1, keepdim=True)).norm()).item()
        if not relative < _WORST_RELATIVE_ERROR:
            raise RuntimeError(
                f"The variant {variant} computes garbage after loading: its logits are off by {relative:.0%}."
            )
        rows.append(
            {
                "variant": variant,
                "megabytes": disk_megabytes(folder),
                "ratio": disk_megabytes(source) / disk_megabytes(folder),
                "max_logit_error": error.abs().max().item(),
                "relative_logit_error": relative,
            }
        )
        progress(done, len(variants))
    write_parquet(out / "variants" / "part-00000.parquet", pa.Table.from_pylist(rows, schema=_TABLE))
    sizes = {f"{row['variant']}_mb": row["megabytes"] for row in rows}
    ratios = {f"{row['variant']}_ratio": row["ratio"] for row in rows}
    return Outcome(rows_in=1, rows_out=len(rows), unit="variants", metrics=sizes | ratios)


def _probes(model: Transformer) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    shape = (_PROBES, min(_PROBE_TOKENS, model.config.context))
    return torch.randint(model.config.vocabulary_size, shape, generator=generator)


@torch.inference_mode()
def _logits(model: Transformer, tokens: Tensor) -> Tensor:
    logits: Tensor = model(tokens)
    return logits


def _copy(source: Path, target: Path) -> None:
    with replacing(target) as temporary:
        shutil.copyfile(source, temporary)
