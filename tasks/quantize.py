"""quantize: smaller variants of the weights."""

from typing import Any

from homegrown.config.export import QuantizationSettings
from homegrown.reporting import charts
from homegrown.reporting.numbers import shown
from homegrown.store.manifest import Artifact
from homegrown.util import devices
from homegrown.util.progress import Outcome
from tasks.locks import computing_on
from tasks.stage import Handle, Work, stage
from tasks.ui.markdown import picture, table
from tasks.ui.panels import Panel, rows_of


def _report(artifact: Artifact) -> str:
    """Show the size, speed and loss of each variant, and the error of its logits."""
    variants = list(rows_of(artifact.path / "variants"))
    names = [one["variant"] for one in variants]
    sizes = [one["disk_megabytes"] for one in variants]
    notes = [", ".join(filter(None, [f"{size:.3g} MB", _loss(one)])) for one, size in zip(variants, sizes, strict=True)]
    title = "Size on disk and loss in bits per byte"
    drawn = charts.bars(names, sizes, notes, title, color=charts.GREEN)
    rows = [
        [
            one["variant"],
            f"{one['ratio']:.2f}×",
            f"{one['relative_logit_error']:.2%}",
            shown(one["max_logit_error"]),
            one["device"],
        ]
        for one in variants
    ]
    header = ["variant", "compression", "logit error", "largest error", "device"]
    return "\n\n".join([_excerpt(artifact), picture(drawn, title), "### More figures", table(header, rows), _METHOD])


def _excerpt(artifact: Artifact) -> str:
    rows = [
        [
            one["variant"],
            f"{one['disk_megabytes']:.3g}",
            f"{one['memory_megabytes']:.3g}",
            f"{one['tokens_per_second']:,.0f}",
            f"{one['bits_per_byte']:.4f}",
            _loss(one),
        ]
        for one in rows_of(artifact.path / "variants")
    ]
    header = ["variant", "disk MB", "memory MB", "tokens/s", "bits per byte", "loss"]
    return f"### Smaller variants\n\n{table(header, rows)}"


def _loss(variant: dict[str, Any]) -> str:
    if variant["variant"] == "original":
        return ""
    written = f"{variant['loss']:+.2%}"
    return "0.00%" if float(written.rstrip("%")) == 0 else written


# One line per point: the UI makes a paragraph of every line.
_METHOD = """### Method

- Memory: all tensors of the loaded weights. Unquantized weights, such as the embedding, take 2 bytes each on disk and \
4 in memory.
- Tokens/s: one sequence with a KV cache, the fastest of three runs. Layers that unpack their weights for each product \
can be slower than the original's in a small model.
- Bits per byte: the validation split in adjacent windows of the model's context. Loss: the relative increase over \
the original.
- GGUF variants are computed in float32 here, which shows their loss; in llama.cpp and Ollama they are small in memory \
and fast."""


@stage("quantize", engine=["homegrown.quantization.quantize"], panel=Panel(_report, _excerpt))
def quantize(work: Work, settings: QuantizationSettings, pretrain: Handle, pack: Handle) -> Outcome:
    """Make, load and evaluate each variant of the weights."""
    from homegrown.quantization import quantize as engine

    device = devices.resolve(work.compute.device)
    with computing_on(device, 1):
        return engine.quantize(work.out, pretrain.path, pack.path, settings, device=device, progress=work.progress)
