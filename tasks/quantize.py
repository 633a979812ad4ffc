"""Quantize: smaller variants of the weights."""

from homegrown.outcome import Outcome
from homegrown.recipe import QuantizationSettings
from tasks.panels import Panel, parquet_rows
from tasks.stage import Handle, Work, stage


@stage("quantize", engine=["homegrown.formats.quantize"], panel=Panel(table=parquet_rows("variants")))
def quantize(work: Work, settings: QuantizationSettings, pretrain: Handle) -> Outcome:
    """Make each variant of the weights, and check that it loads again."""
    from homegrown.formats import quantize as engine

    return engine.quantize(work.out, pretrain.path, settings, progress=work.progress)
