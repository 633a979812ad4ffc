"""Costs in sliding windows: of models whose predictions are known, and as `transformers` has them."""

import math
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer

from homegrown.config.evaluation import EvaluationSettings
from homegrown.data.loader import TokenSplit
from homegrown.evaluation.costs import Costs
from homegrown.evaluation.examination import Examination, prepare
from homegrown.evaluation.perplexity import predict
from homegrown.evaluation.windows import slide
from homegrown.model.transformer import Transformer
from homegrown.util.errors import UserError
from tests.evaluation.small_model import CONTEXT, VOCABULARY, small_model


def examination(stages: Path, packed: Path | None = None, **changes: int | None) -> Examination:
    fields = {"perplexity_tokens": None, "samples": 4, "prompt_tokens": 20, "continuation_tokens": 12}
    settings = EvaluationSettings.model_validate(fields | changes)
    return prepare(packed or stages / "pack", stages / "shard", stages / "tokenizer", CONTEXT, settings, seed=1)


def costs(model: Transformer, asked: Examination) -> Costs:
    return asked.costs(predict(model, asked.held_out.split, asked.windows))


def perturbed(family: str = "modern") -> Transformer:
    """A model whose predictions depend on every token before."""
    model = small_model(family)
    torch.manual_seed(7)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2, mean=float(parameter.ndim == 1))
    return model


def test_every_token_is_predicted_once_with_enough_before_it() -> None:
    dice = random.Random(1)
    for _ in range(300):
        context = dice.randint(1, 12)
        stride = dice.randint(1, context)
        lengths = np.array([dice.randint(0, 40) for _ in range(dice.randint(1, 5))])
        begins = np.cumsum(lengths) - lengths
        windows = slide(begins, lengths, context, stride)
        expected = [
            place for begin, length in zip(begins, lengths, strict=True) for place in range(begin + 1, begin + length)
        ]
        assert sorted(windows.targets.tolist()) == expected
        before = windows.targets - np.repeat(windows.starts, windows.counted)
        text = begins[np.searchsorted(begins, windows.targets, side="right") - 1]
        assert (before >= np.minimum(windows.targets - text, context - stride + 1)).all()
        assert (windows.inputs <= context).all()


def test_a_uniform_model_has_the_vocabulary_as_perplexity(stages: Path, tokenizer: Tokenizer) -> None:
    model = small_model()
    torch.nn.init.zeros_(model.model.embed_tokens.weight)
    asked = examination(stages)
    found, tokens = costs(model, asked), asked.held_out.tokens()
    size = sum(len(tokenizer.id_to_token(number)) for number in tokens.tolist() if number > 6)
    assert found.perplexity == pytest.approx(VOCABULARY, rel=1e-5)
    assert found.tokens.sum() == len(tokens) - 1
    assert found.bytes.sum() == size == asked.held_out.split.bytes
    assert found.bits_per_byte == pytest.approx(math.log2(VOCABULARY) * (len(tokens) - 1) / size, rel=1e-5)


def test_a_model_that_always_predicts_the_same_distribution(stages: Path) -> None:
    model = small_model("classic")
    weights = np.arange(1, VOCABULARY + 1) / (VOCABULARY * (VOCABULARY + 1) / 2)
    torch.nn.init.zeros_(model.lm_head.weight)
    model.lm_head.bias = torch.nn.Parameter(torch.from_numpy(np.log(weights)).float())
    asked = examination(stages)
    found = costs(model, asked)
    for number in (0, 3, 9):
        document = asked.held_out.split.document(number)[0 if number else 1 :]
        assert found.nats[number] == pytest.approx(-np.log(weights[document]).sum(), rel=1e-4)
        assert found.tokens[number] == len(document)


@pytest.mark.parametrize("stride", [None, 10, CONTEXT])
def test_it_is_what_transformers_has_with_the_strided_recipe(stages: Path, stride: int | None) -> None:
    from transformers import Qwen3Config, Qwen3ForCausalLM

    model = perturbed()
    config = model.config
    oracle = Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=config.vocabulary_size,
            hidden_size=config.hidden,
            intermediate_size=config.feed_forward,
            num_hidden_layers=config.layers,
            num_attention_heads=config.heads,
            num_key_value_heads=config.kv_heads,
            head_dim=config.head_size,
            max_position_embeddings=config.context + 1,
            rms_norm_eps=config.norm_eps,
            rope_parameters={"rope_type": "default", "rope_theta": config.rope_theta},
            tie_word_embeddings=config.tied,
        )
    )
    oracle.load_state_dict(model.state_dict(), strict=False)
    oracle.eval()
    asked = examination(stages, stride=stride)
    tokens = torch.from_numpy(asked.held_out.tokens())[None]
    # The recipe of transformers' documentation on perplexity; its windows count the last target as one of their tokens.
    longest, step, before, nats = CONTEXT + 1, stride or CONTEXT // 2, 0, 0.0
    for begin in range(0, tokens.shape[1], step):
        end = min(begin + longest, tokens.shape[1])
        new = end - before
        window = tokens[:, begin:end]
        labels = window.clone()
        labels[:, :-new] = -100
        counted = int((labels[:, 1:] != -100).sum())
        with torch.no_grad():
            nats += oracle(window, labels=labels).loss.item() * counted
        before = end
        if end == tokens.shape[1]:
            break
    assert costs(model, asked).nats.sum() == pytest.approx(nats, rel=1e-5)


@pytest.mark.parametrize("family", ["modern", "classic"])
def test_rows_of_whole_documents_are_predicted_document_by_document(stages: Path, fitted: Path, family: str) -> None:
    model, asked = perturbed(family), examination(stages, fitted)
    found = costs(model, asked)
    short = [number for number in range(10) if len(asked.held_out.split.document(number)) <= CONTEXT]
    assert short
    for number in short:
        document = torch.from_numpy(asked.held_out.split.document(number))
        with torch.no_grad():
            logits = model(document[None, :-1])[0]
        expected = torch.nn.functional.cross_entropy(logits, document[1:], reduction="sum")
        assert found.nats[number] == pytest.approx(expected.item(), rel=1e-5)
    assert found.tokens.sum() == asked.held_out.split.tokens - 10


def test_documents_are_found_in_any_layout(stages: Path, fitted: Path) -> None:
    end_to_end, rows = examination(stages).held_out, examination(stages, fitted).held_out
    assert end_to_end.ids == [f"test-{number}" for number in range(10)]
    assert end_to_end.sources == ["even", "odd"] * 5
    assert sorted(rows.ids) == sorted(end_to_end.ids)
    for number, document in enumerate(rows.ids):
        same = end_to_end.split.document(end_to_end.ids.index(document))
        assert rows.split.document(number).tolist() == same.tolist()


def test_a_limit_takes_windows_spread_over_the_split(stages: Path) -> None:
    asked = examination(stages, perplexity_tokens=3 * CONTEXT, stride=CONTEXT)
    assert asked.facts.test_tokens <= 3 * CONTEXT
    assert asked.windows.starts[0] == 0
    assert asked.targets[-1] == asked.held_out.split.tokens - 1
    assert not asked.facts.whole_split and examination(stages).facts.whole_split


def test_rows_for_another_context_are_an_error(stages: Path, fitted: Path) -> None:
    settings = EvaluationSettings(perplexity_tokens=None, samples=4, prompt_tokens=20, continuation_tokens=12)
    with pytest.raises(UserError, match=r"pack\.layout"):
        prepare(fitted, stages / "shard", stages / "tokenizer", 2 * CONTEXT, settings, seed=1)


def test_shards_that_were_not_packed_are_an_error(stages: Path, split: TokenSplit, tmp_path: Path) -> None:
    settings = EvaluationSettings(perplexity_tokens=None, samples=4, prompt_tokens=20, continuation_tokens=12)
    (tmp_path / "test").symlink_to(stages / "shard" / "validation")
    with pytest.raises(UserError, match="run pack again"):
        prepare(stages / "pack", tmp_path, stages / "tokenizer", CONTEXT, settings, seed=1)
