"""Memory, speed and loss of adapters, compared with full fine-tuning.

    python -m benchmarks.finetuning [--wide] MODEL CONVERSATIONS

MODEL is the folder `model` of a pretrained artifact, CONVERSATIONS a file in a shape of the stage `instructions`. Every
contestant trains the same steps on the same batches in its own process, whose peak memory is reported. `--wide` trains
an untrained model of width 768 and 12 layers with MODEL's tokenizer for a few steps, to show the memory of each method
when the weights exceed what the program itself needs.
"""

import argparse
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from homegrown.config.finetune_recipe import ConversationRows, FinetuneSettings, InstructionSettings
from homegrown.config.pipelines import load_finetuning
from homegrown.data.instructions import prepare
from homegrown.finetuning.tuning import finetune
from homegrown.model import weights
from homegrown.model.transformer import Transformer
from homegrown.model.weights import load_config

STEPS, WIDE_STEPS, BATCH = 60, 3, 4
GUIDE = {"rank": 8, "alpha": 32, "dropout": 0.05, "targets": ["q_proj", "v_proj"]}
EVERY = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
WIDE = {"rank": 16, "alpha": 32, "dropout": 0.0, "targets": EVERY}
CONTESTANTS: dict[str, tuple[dict[str, Any], float]] = {
    "guide: r 8, query and value": ({"method": "lora", **GUIDE}, 1e-3),
    "guide, higher rate": ({"method": "lora", **GUIDE}, 5e-3),
    "r 8, all projections": ({"method": "lora", **WIDE, "rank": 8}, 5e-3),
    "r 16, all projections": ({"method": "lora", **WIDE}, 5e-3),
    "r 16, all projections, higher rate": ({"method": "lora", **WIDE}, 1e-2),
    "r 16, all projections, qlora": ({"method": "qlora", **WIDE}, 5e-3),
    "full": ({"method": "full"}, 1e-3),
}

_WIDE = ("r 16, all projections", "r 16, all projections, qlora", "full")


def main(model: Path, conversations: Path, wide: bool) -> None:
    """Train every contestant and print the table."""
    recipe = load_finetuning("tiny")
    steps, batch = (WIDE_STEPS, 1) if wide else (STEPS, BATCH)
    print("| what | learning rate | trained parameters | optimizer MB | peak MB | s/step | held-out loss |")
    print("| --- | --: | --: | --: | --: | --: | --: |")
    with tempfile.TemporaryDirectory() as folder:
        packed = Path(folder) / "packed"
        if wide:
            model = _wide(model, Path(folder) / "wide")
        settings = InstructionSettings(files=[str(conversations)])
        rows = ConversationRows(context=load_config(model / "config.json").context)
        prepare(packed, model, settings, rows=rows)
        for number, (name, (changes, rate)) in enumerate(CONTESTANTS.items()):
            if wide and name not in _WIDE:
                continue
            training = recipe.training.model_copy(
                update={
                    "max_steps": steps,
                    "warmup_steps": min(recipe.training.warmup_steps, steps - 1),
                    "batch_size": batch,
                    "micro_batch_size": batch,
                    "learning_rate": rate,
                    "validate_every": steps,
                    "validation_tokens": 256 if wide else recipe.training.validation_tokens,
                    "checkpoint_every": steps,
                    "sample_every": steps + 1,
                    "sample_tokens": 1,
                }
            )
            found = finetune(
                Path(folder) / str(number),
                model,
                packed,
                FinetuneSettings.model_validate(changes),
                training,
                system=None,
                seed=1,
                device="cpu",
                processes=1,
            ).metrics
            trained, tokens = int(found["trained_parameters"]), float(found["tokens"]) / steps
            print(
                f"| {name} | {rate:g} | {trained:,} | {2 * 4 * trained / 1e6:.1f} | "
                f"{float(found['peak_memory_megabytes']):,.0f} | {tokens / float(found['tokens_per_second']):.2f} | "
                f"{float(found['validation_loss']):.4f} |",
                flush=True,
            )


def _wide(model: Path, folder: Path) -> Path:
    """Write an untrained model as wide as `small`, with the tokenizer of `model`."""
    config = replace(
        load_config(model / "config.json"), hidden=768, layers=12, heads=12, kv_heads=12, feed_forward=3072, tied=True
    )
    untrained = Transformer(config)
    untrained.initialize()
    weights.save(untrained, folder)
    shutil.copyfile(model / "tokenizer.json", folder / "tokenizer.json")
    return folder


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("conversations", type=Path)
    parser.add_argument("--wide", action="store_true")
    given = parser.parse_args()
    main(given.model, given.conversations, given.wide)
