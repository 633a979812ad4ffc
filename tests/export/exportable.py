"""Small models with real tokenizers, and random text that is hard to tokenize."""

import random
from functools import cache
from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

import homegrown
from homegrown.config.model import ModelSettings
from homegrown.model import weights
from homegrown.model.config import ModelConfig
from homegrown.model.transformer import Transformer
from homegrown.tokenizer.encoding import SPLIT_PATTERN
from homegrown.tokenizer.special import SPECIAL_TOKENS

_FOREIGN = (
    "naïve café Straße größer 日本語の文章 中文句子 한국어 문장 Привет мир ελληνικά "
    "עברית العربية हिन्दी ไทย 🙂👍🏽 x² ½ Ⅷ ﬁ\n"
)

# Pools of equal probability, hard for split patterns and byte-level tokens.
_POOLS = (
    "abcdefghijklmnopqrstuvwxyz",
    "ABC'sS'tT'reRE'veVE'mM'llLL'dD",
    "0123456789²½Ⅷ٣௧",
    "    \t\n\r\n\u00a0\u2003\u3000\u2028\u0085\x0b\x0c\u200b",
    ".,;:!?-_()[]{}<>|/\\\"'`~@#$%^&*+=…—“”",
    "àéîõüßøñçžłđþæœĳſŉǆ",
    "\u0300\u0301\u0308\u0327\u093f\u0e31\u20dd",
    "日本語中文한국어ひらがなカタカナ",
    "Приветмиρελληνικάעבריתالعربيةहिन्दीไทย",
    "🙂👩‍👩‍👧🏳️‍🌈👍🏽\ufe0f",
    "\x00\x01\x1b\x7f\ufffd\ufeff\U0001d54f\U00020000\U000e0001",
)
_PIECES = ("</s>", "<s>", "<|im_start|>", "<|im_end|>", "don't", "I'LL", "'ſ", " the", "self.", "\n\n", "    ")


def random_texts(count: int, seed: int) -> list[str]:
    draw = random.Random(seed)
    texts = []
    for _ in range(count):
        parts = []
        for _ in range(draw.randrange(1, 30)):
            if draw.random() < 0.2:
                parts.append(draw.choice(_PIECES))
            elif draw.random() < 0.1:
                parts.append(chr(draw.choice([draw.randrange(0xD800), draw.randrange(0xE000, 0x110000)])))
            else:
                parts.append(draw.choice(draw.choice(_POOLS)))
        texts.append("".join(parts))
    return texts


@cache
def real_text() -> str:
    sources = sorted((Path(homegrown.__file__).parent / "tokenizer").glob("*.py"))
    return "".join(source.read_text() for source in sources)


def trained_tokenizer(pattern: str | None = SPLIT_PATTERN) -> Tokenizer:
    """Return a byte-level BPE trained on real text; without a pattern it splits as GPT-2's does."""
    tokenizer = Tokenizer(models.BPE())
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=pattern is None)
    split = [] if pattern is None else [pre_tokenizers.Split(Regex(pattern), behavior="isolated")]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*split, byte_level]) if split else byte_level
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=700,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([real_text(), *[_FOREIGN] * 5], trainer)
    return tokenizer


def write_model(folder: Path, tokenizer: Tokenizer, *, family: str = "modern", tied: bool = True, **sizes: int) -> Path:
    """Write a model as the stage `pretrain` does, with random weights that all affect the logits."""
    fields = {"hidden": 64, "layers": 2, "heads": 4, "kv_heads": 2, "feed_forward": 128, "context": 96} | sizes
    if family == "classic":
        fields["kv_heads"] = fields["heads"]
    settings = ModelSettings.model_validate({"family": family, "tied": tied, **fields})
    torch.manual_seed(5)
    model = Transformer(ModelConfig.from_settings(settings, tokenizer.get_vocab_size(), 0.0))
    for name, parameter in model.named_parameters():
        gain = name.endswith("norm.weight") or "layernorm" in name
        torch.nn.init.normal_(parameter, mean=1.0 if gain else 0.0, std=0.2)
    weights.save(model.eval(), folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder
