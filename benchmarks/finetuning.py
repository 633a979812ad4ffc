"""What adapters cost and reach beside full fine-tuning: `python -m benchmarks.finetuning MODEL CONVERSATIONS`.

MODEL is the folder `model` of a pretrained artifact, CONVERSATIONS a file of the stage `instructions`' shapes. Every
contestant trains the same steps on the same batches, in a process of its own, whose peak memory is what is reported.
"""

import sys
import tempfile
from pathlib import Path
from typing import Any

from homegrown.finetune_recipe import FinetuneSettings, InstructionSettings
from homegrown.finetuning.finetune import finetune
from homegrown.model.weights import load_config
from homegrown.pipelines import load_finetuning
from homegrown.tokens.instructions import prepare

STEPS, BATCH = 60, 4
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


def main(model: Path, conversations: Path) -> None:
    """Train every contestant and print the table."""
    recipe = load_finetuning("tiny")
    print("| what | learning rate | trained parameters | optimizer MB | peak MB | s/step | held-out loss |")
    print("| --- | --: | --: | --: | --: | --: | --: |")
    with tempfile.TemporaryDirectory() as folder:
        packed = Path(folder) / "packed"
        settings = InstructionSettings(files=[str(conversations)])
        prepare(packed, model, settings, context=load_config(model / "config.json").context)
        for number, (name, (changes, rate)) in enumerate(CONTESTANTS.items()):
            training = recipe.training.model_copy(
                update={
                    "max_steps": STEPS,
                    "batch_size": BATCH,
                    "micro_batch_size": BATCH,
                    "learning_rate": rate,
                    "validate_every": STEPS,
                    "checkpoint_every": STEPS,
                    "sample_every": STEPS,
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
            trained, tokens = int(found["trained_parameters"]), float(found["tokens"]) / STEPS
            print(
                f"| {name} | {rate:g} | {trained:,} | {2 * 4 * trained / 1e6:.1f} | "
                f"{float(found['peak_memory_megabytes']):,.0f} | {tokens / float(found['tokens_per_second']):.2f} | "
                f"{float(found['validation_loss']):.4f} |",
                flush=True,
            )


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
