"""Perplexity and bits per byte of models whose predictions are known."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from small_model import CONTEXT, VOCABULARY, small_model
from tokenizers import Tokenizer

from homegrown.errors import UserError
from homegrown.evaluation.perplexity import measure_perplexity
from homegrown.tokens.index import read_index
from homegrown.tokens.loader import TokenSplit
from homegrown.tokens.tokenizer import token_bytes


@pytest.fixture
def tokens(stages: Path) -> np.ndarray:
    (file,) = read_index(stages / "pack").splits["test"]
    return np.fromfile(stages / "pack" / file.tokens_file, dtype="<u2").astype(int)


def test_a_uniform_model_has_the_vocabulary_as_perplexity(
    split: TokenSplit, tokenizer: Tokenizer, tokens: np.ndarray
) -> None:
    model = small_model()
    torch.nn.init.zeros_(model.model.embed_tokens.weight)
    found = measure_perplexity(model, split, token_bytes(tokenizer), 10**6)
    predicted = tokens[1 : 1 + split.windows(CONTEXT) * CONTEXT].tolist()
    size = sum(len(tokenizer.id_to_token(number)) for number in predicted if number > 6)
    assert found.perplexity == pytest.approx(VOCABULARY, rel=1e-5)
    assert found.tokens == len(predicted)
    assert found.bytes == size
    assert found.bits_per_byte == pytest.approx(math.log2(VOCABULARY) * len(predicted) / size, rel=1e-5)


def test_a_model_that_always_predicts_the_same_distribution(
    split: TokenSplit, tokenizer: Tokenizer, tokens: np.ndarray
) -> None:
    model = small_model("classic")
    weights = np.arange(1, VOCABULARY + 1) / (VOCABULARY * (VOCABULARY + 1) / 2)
    torch.nn.init.zeros_(model.lm_head.weight)
    model.lm_head.bias = torch.nn.Parameter(torch.from_numpy(np.log(weights)).float())
    found = measure_perplexity(model, split, token_bytes(tokenizer), 10**6)
    predicted = tokens[1 : 1 + split.windows(CONTEXT) * CONTEXT]
    assert found.perplexity == pytest.approx(math.exp(-np.log(weights[predicted]).mean()), rel=1e-4)


def test_every_window_is_predicted_on_its_own(split: TokenSplit, tokenizer: Tokenizer, tokens: np.ndarray) -> None:
    model = small_model()
    costs = []
    for start in range(0, len(tokens) - CONTEXT, CONTEXT):
        window = torch.from_numpy(tokens[start : start + CONTEXT + 1])
        costs.append(F.cross_entropy(model(window[None, :-1])[0], window[1:]).item())
    found = measure_perplexity(model, split, token_bytes(tokenizer), 10**6)
    assert math.log(found.perplexity) == pytest.approx(np.mean(costs), rel=1e-5)


def test_the_limit_is_kept_to_whole_windows(split: TokenSplit, tokenizer: Tokenizer) -> None:
    assert measure_perplexity(small_model(), split, token_bytes(tokenizer), 2 * CONTEXT + 1).tokens == 3 * CONTEXT


def test_a_split_shorter_than_a_window_is_one_sentence(stages: Path, tokenizer: Tokenizer) -> None:
    model = small_model()
    split = TokenSplit(stages / "pack", "test")
    split.tokens = CONTEXT
    with pytest.raises(UserError, match=r"raise shard\.test_share or lower model\.context"):
        measure_perplexity(model, split, token_bytes(tokenizer), 100)
