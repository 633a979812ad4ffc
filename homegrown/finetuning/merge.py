"""Merging an adapter into its base: the result is an ordinary model."""

from pathlib import Path

import torch

from homegrown.finetuning.job import ADAPTER, MODEL
from homegrown.model import lora, weights
from homegrown.tokenizer.chat_files import save_system
from homegrown.training.task import keep_model
from homegrown.util.progress import Outcome


def merge(out: Path, base: Path, finetuned: Path, system: str | None) -> Outcome:
    """Write `out/model`: the model in `base`, in float32, merged with the adapter in the stage folder `finetuned`.

    An adapter trained on 4-bit weights is merged into the unquantized weights too, as the QLoRA paper advises.
    `system` is the model's default system message.

    Raises:
        UserError: a file is missing or damaged, or the adapter belongs to another model.
    """
    model = lora.merge(weights.load(base, dtype=torch.float32), finetuned / ADAPTER)
    keep_model(model, base, out / MODEL)
    save_system(out / MODEL, system)
    return Outcome(1, 1, "model", {"parameters": model.config.parameter_count()})
