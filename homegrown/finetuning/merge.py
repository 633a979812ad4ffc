"""An adapter added to the weights that it was trained on: a whole model, which every reader of models takes."""

from pathlib import Path

import torch

from homegrown.finetuning.job import ADAPTER, MODEL
from homegrown.model import lora, weights
from homegrown.tokenizer.system import save_system
from homegrown.training.task import keep_model
from homegrown.util.progress import Outcome


def merge(out: Path, base: Path, finetuned: Path, system: str | None) -> Outcome:
    """Write `out/model`: the model of the folder `base`, in float32, with the adapter of the stage folder `finetuned`.

    An adapter that was trained beside 4-bit weights is added to the unquantized ones too (QLoRA's own advice).
    `system` is what the model is told where a conversation has no system message.

    Raises:
        UserError: a file is missing or damaged, or the adapter is of another model.
    """
    model = lora.merge(weights.load(base, dtype=torch.float32), finetuned / ADAPTER)
    keep_model(model, base, out / MODEL)
    save_system(out / MODEL, system)
    return Outcome(1, 1, "model", {"parameters": model.config.parameter_count()})
