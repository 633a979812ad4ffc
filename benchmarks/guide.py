"""What `docs/guide.md` says of the guide's own code, computed: parameters, tokenizer, sampling, LoRA, BLEU.

    python -m benchmarks.guide

Takes ten seconds, needs no network, and prints one JSON object.
"""

import json
import logging
import warnings
from typing import Any

import torch
from tokenizers import Tokenizer
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.trainers import BpeTrainer
from torch import nn

from homegrown.config.pipelines import load_recipe
from homegrown.evaluation.overlap import bleu_of_one
from homegrown.model.config import ModelConfig

SIZES = {"small": 110, "medium": 700, "large": 1300}
"""The guide's sizes, with the millions of parameters that it states for them."""

SPECIAL = ["<PAD>", "<UNK>", "<CLS>", "<SEP>", "<MASK>", "<BOS>", "<EOS>"]
VOCABULARY = 50_000
TRAINED_ON = "LICENSE"
CODE = "def f(x)"

PAIRS = (
    ("The quick brown fox jumps over the lazy dog", "The fast brown fox leaps over the sleeping dog"),
    ("Artificial intelligence is transforming our world", "AI is changing how we live and work"),
)
"""The guide's references and generated texts."""


def guide_parameters(hidden: int, layers: int, heads: int, feed_forward: int) -> int:
    """Return the parameters of the guide's model, from PyTorch's own layers of the same arrangement."""
    with torch.device("meta"):
        block = nn.TransformerEncoderLayer(hidden, heads, feed_forward, norm_first=True)
        ends = [nn.Embedding(VOCABULARY, hidden), nn.LayerNorm(hidden), nn.Linear(hidden, VOCABULARY)]
    return sum(parameter.numel() for part in [*ends, *[block] * layers] for parameter in part.parameters())


def parameters() -> dict[str, dict[str, float]]:
    """Return, for each size, millions of parameters: stated, the guide's model, our `classic`, our `modern`."""
    found = {}
    for size, stated in SIZES.items():
        counts: dict[str, float] = {"stated": stated}
        for name in (f"classic-{size}", size):
            recipe = load_recipe(name)
            config = ModelConfig.from_settings(
                recipe.new_model, recipe.tokenizer.vocabulary_size, recipe.training.dropout
            )
            counts[recipe.new_model.family] = round(config.parameter_count() / 1e6, 1)
            shape = (
                recipe.new_model.hidden,
                recipe.new_model.layers,
                recipe.new_model.heads,
                recipe.new_model.feed_forward,
            )
            counts["guide"] = round(guide_parameters(*shape) / 1e6, 1)
        found[size] = counts
    return found


def guide_tokenizer() -> Tokenizer:
    """Return the guide's tokenizer, plain BPE over `Whitespace`, trained on the text of the license."""
    tokenizer = Tokenizer(BPE(unk_token="<UNK>"))
    tokenizer.pre_tokenizer = Whitespace()
    trainer = BpeTrainer(vocab_size=VOCABULARY, special_tokens=SPECIAL, show_progress=False)
    tokenizer.train([TRAINED_ON], trainer)
    return tokenizer


def tokens() -> dict[str, Any]:
    """Return what the guide's tokenizer makes of code, and of a letter that its text did not have."""
    tokenizer = guide_tokenizer()
    encoded = tokenizer.encode(CODE)
    return {
        "code": CODE,
        "decoded": tokenizer.decode(encoded.ids),
        "naïve": tokenizer.encode("naïve").tokens,
        "ends_documents": tokenizer.token_to_id("<EOS>") in encoded.ids,
    }


def sampling() -> str:
    """Return what joining a sampled token to the prompt gives, in the guide's shapes: `top_k` rows, `unsqueeze(0)`."""
    prompt, (_, best) = torch.zeros(1, 3, dtype=torch.int64), torch.randn(1, 100).topk(50, dim=-1)
    token = best[0, torch.zeros(1, 1, dtype=torch.int64)]
    try:
        torch.cat([prompt, token.unsqueeze(0)], dim=1)
    except RuntimeError as error:
        return str(error)
    return "joined"


def lora() -> str:
    """Return what peft answers to the guide's target names on projections with the names of the guide's model."""
    from peft import LoraConfig, get_peft_model

    model = nn.ModuleDict({name: nn.Linear(8, 8) for name in ("W_q", "W_k", "W_v", "W_o")})
    config = LoraConfig(r=8, lora_alpha=32, target_modules=["q_proj", "v_proj"], lora_dropout=0.05)
    try:
        get_peft_model(model, config)
    except ValueError as error:
        return str(error)
    return "adapted"


def scores() -> dict[str, list[float]]:
    """Return BLEU of the guide's example: nltk's without smoothing, 0 to 1, and ours, 0 to 100."""
    from nltk.translate.bleu_score import sentence_bleu  # with SciPy and scikit-learn it takes a second

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # nltk: no n-grams of some order are shared
        unsmoothed = [sentence_bleu([reference.split()], text.split()) for reference, text in PAIRS]
    return {"unsmoothed": unsmoothed, "ours": [round(bleu_of_one(*pair), 1) for pair in PAIRS]}


def main() -> None:
    logging.disable()  # what peft's own imports miss is not ours
    parts = (parameters, tokens, scores, sampling, lora)
    print(json.dumps({part.__name__: part() for part in parts}, indent=2, ensure_ascii=False))


if __name__ == "__main__":
    main()
