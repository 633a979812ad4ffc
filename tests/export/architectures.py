"""Small random models of every architecture that can be a base, as transformers saves them."""

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from homegrown.tokenizer.encoding import BYTES, LLAMA3_PATTERN, QWEN2_PATTERN, TEKKEN_PATTERN
from homegrown.tokenizer.special import SPECIAL_TOKENS
from tests.export.exportable import real_text, trained_tokenizer

CONTEXT = 128
ORIGINAL = 32
"""The context of pretraining where rotary positions are scaled."""
WINDOW = 24

_LLAMA3 = {
    "rope_type": "llama3",
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": ORIGINAL,
}
_YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": ORIGINAL}

BASES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama2": ("llama", {"num_key_value_heads": 4}),
    "llama3": ("llama", {"rope_parameters": {**_LLAMA3, "rope_theta": 500_000.0}}),
    "llama-linear": ("llama", {"rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 10_000.0}}),
    "llama-yarn": ("llama", {"rope_parameters": {**_YARN, "rope_theta": 10_000.0}}),
    "smollm2": ("llama", {"tie_word_embeddings": True, "rms_norm_eps": 1e-5}),
    "mistral": ("mistral", {"sliding_window": WINDOW, "head_dim": 32}),
    "qwen2": ("qwen2", {"tie_word_embeddings": True}),
    "qwen2-window": ("qwen2", {"use_sliding_window": True, "sliding_window": WINDOW, "max_window_layers": 1}),
    "qwen2-yarn": ("qwen2", {"rope_parameters": {**_YARN, "rope_theta": 1e6}}),
    "qwen3": (
        "qwen3",
        {"tie_word_embeddings": True, "head_dim": 32, "rope_parameters": {"rope_type": "default", "rope_theta": 1e6}},
    ),
}


def save_base(folder: Path, name: str, dtype: torch.dtype = torch.float32) -> torch.nn.Module:
    """Save a base with its tokenizer to a folder, as a hub has it, and return it in evaluation mode."""
    from transformers import AutoConfig, AutoModelForCausalLM

    kind, changes = BASES[name]
    tokenizer = base_tokenizer(name)
    shape = {
        "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "max_position_embeddings": CONTEXT, "vocab_size": tokenizer.get_vocab_size() + 5,
    }  # fmt: skip
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **(shape | changes)))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2, mean=float(parameter.ndim == 1))
    model.to(dtype).save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    return model.eval()


def base_tokenizer(name: str) -> Tokenizer:
    """Return a small tokenizer that splits text as that of a base does."""
    if name.startswith("qwen"):
        return trained_tokenizer(QWEN2_PATTERN)
    if name == "smollm2":
        return _with_digits()
    tokenizer = trained_tokenizer(TEKKEN_PATTERN if name == "mistral" else LLAMA3_PATTERN)
    tokenizer.model.ignore_merges = True
    return tokenizer


_MISSING = {0x04, 0x06, 0x13, 0x14, 0x16, 0x1D, 0xC0, 0xC1, 0xF1, 0xF2, *range(0xF5, 0x100)}
"""The bytes without a token in SmolLM2's vocabulary."""


def _with_digits() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    split = [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(split)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=700,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=[character for character, byte in BYTES.items() if byte not in _MISSING],
        show_progress=False,
    )
    tokenizer.train_from_iterator([real_text()], trainer)
    return tokenizer
