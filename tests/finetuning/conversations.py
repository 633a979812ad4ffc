"""Conversations whose answers follow a rule, and an untrained base model."""

import json
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from homegrown.config.finetune_recipe import ConversationRows, FinetuneSettings, FinetuneTraining, InstructionSettings
from homegrown.config.training import TrainingSettings
from homegrown.data.instructions import prepare
from homegrown.model import weights
from homegrown.model.config import ModelConfig
from homegrown.model.transformer import Transformer
from homegrown.tokenizer.special import SPECIAL_TOKENS

CONTEXT = 48
COLOURS = ("red", "green", "blue", "grey")


def write_conversations(path: Path, count: int = 60) -> None:
    """Write questions with a number, each answered by the colour that the number's last digit says."""
    rows = [{"question": f"box {n}?", "answer": f"it is {COLOURS[n % len(COLOURS)]}"} for n in range(count)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_base(folder: Path, family: str = "modern", *, tied: bool = True, vocabulary: int = 300) -> Path:
    """Write an untrained model with its tokenizer and return its folder."""
    folder.mkdir(parents=True)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=vocabulary, special_tokens=list(SPECIAL_TOKENS), initial_alphabet=alphabet)
    tokenizer.train_from_iterator(["box it is red green blue grey user assistant " * 20], trainer)
    tokenizer.save(str(folder / "tokenizer.json"))
    modern = family == "modern"
    config = ModelConfig(
        family=family,  # type: ignore[arg-type]
        vocabulary_size=tokenizer.get_vocab_size(),
        hidden=64,
        layers=2,
        heads=4,
        kv_heads=2 if modern else 4,
        head_size=16,
        feed_forward=128,
        context=64,
        dropout=0.0,
        tied=tied and modern,
    )
    torch.manual_seed(0)
    model = Transformer(config)
    model.initialize()
    if "lm_head.weight" in model.state_dict():  # which begins as 0
        torch.nn.init.normal_(model.get_parameter("lm_head.weight"), std=0.02)
    weights.save(model, folder)
    return folder


def pack_conversations(folder: Path, base: Path) -> Path:
    """Pack `write_conversations` with the tokenizer of `base` and return the folder."""
    folder.mkdir(parents=True)
    write_conversations(folder / "data.jsonl")
    settings = InstructionSettings(files=[str(folder / "data.jsonl")], held_out=0.1)
    prepare(folder / "packed", base, settings, rows=ConversationRows(context=64, sequence_length=CONTEXT))
    return folder / "packed"


def tuning(method: str = "lora", **changes: object) -> FinetuneSettings:
    return FinetuneSettings.model_validate(
        {"method": method, "rank": 4, "alpha": 16, "dropout": 0.0, "targets": ["q_proj", "v_proj", "down_proj"]}
        | changes
    )


def training(**changes: object) -> FinetuneTraining:
    return FinetuneTraining.model_validate(
        {
            "max_steps": 24,
            "batch_size": 4,
            "micro_batch_size": 4,
            "optimizer": "adamw",
            "learning_rate": 1e-2,
            "warmup_steps": 2,
            "weight_decay": 0.0,
            "dropout": 0.0,
            "precision": "fp32",
            "compile": "never",
            "validate_every": 8,
            "validation_tokens": 512,
            "checkpoint_every": 5,
            "sample_every": 12,
            "sample_prompts": ["box 3?"],
            "sample_tokens": 8,
        }
        | changes
    )


def loop(**changes: object) -> TrainingSettings:
    """The settings of the loop that `training` leads to."""
    return training(**changes).resolved(rows=1)
