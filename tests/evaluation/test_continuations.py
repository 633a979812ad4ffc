"""Which documents are continued, and how."""

from typing import Any

import pytest
import torch
from tokenizers import Tokenizer

from homegrown.config.evaluation import EvaluationSettings
from homegrown.data.loader import TokenSplit
from homegrown.evaluation.continuations import Task, choose_tasks, continue_all, tokens_per_second
from homegrown.evaluation.sample import cut, nats, write_sample
from homegrown.inference.generation import generate
from homegrown.util.errors import UserError
from tests.evaluation.small_model import small_model


def settings(**changes: int) -> EvaluationSettings:
    fields: dict[str, Any] = {"perplexity_tokens": None, "samples": 5, "prompt_tokens": 20, "continuation_tokens": 12}
    return EvaluationSettings(**(fields | changes))


def test_tasks_are_the_beginnings_of_different_documents(split: TokenSplit) -> None:
    tasks = choose_tasks(split, settings(), seed=1)
    beginnings = [split.document(number)[:32].tolist() for number in range(split.documents)]
    assert len(tasks) == 5
    found = [beginnings.index([*task.prompt, *task.reference]) for task in tasks]
    assert found == [task.document for task in tasks]
    assert len(set(found)) == 5
    assert all((len(task.prompt), len(task.reference), task.prompt[0]) == (20, 12, 0) for task in tasks)
    assert choose_tasks(split, settings(), seed=1) == tasks
    assert choose_tasks(split, settings(), seed=2) != tasks


def test_only_documents_with_text_to_the_end_are_taken(split: TokenSplit) -> None:
    assert len(choose_tasks(split, settings(samples=100), seed=1)) == 8
    shortest = min(len(split.document(number)) for number in range(8))
    most = settings(samples=100, prompt_tokens=shortest - 13)
    assert len(choose_tasks(split, most, seed=1)) == 8
    assert len(choose_tasks(split, settings(samples=100, prompt_tokens=shortest - 12), seed=1)) < 8


def test_no_document_long_enough_is_an_error(split: TokenSplit) -> None:
    with pytest.raises(UserError, match=r"evaluation\.prompt_tokens \+ evaluation\.continuation_tokens"):
        choose_tasks(split, settings(prompt_tokens=10_000), seed=1)


def test_continuations_are_greedy_and_in_order() -> None:
    model = small_model()
    tasks = [Task([0, 10 + number], [0] * 5, number) for number in range(70)]
    written = continue_all(model, tasks, end=2)
    assert written == [generate(model, [task.prompt], max_tokens=5, stop_ids={2})[0] for task in tasks]


def test_speed_is_positive() -> None:
    assert tokens_per_second(small_model(), Task([0, 1], [0] * 4, 0)) > 0


def test_a_sample_depends_on_the_seed_alone(tokenizer: Tokenizer) -> None:
    model = small_model()
    texts = [write_sample(model, tokenizer, seed) for seed in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]
    assert texts[0]


def test_the_cost_of_a_text_is_that_of_its_tokens_one_after_another() -> None:
    model, tokens = small_model(), [0, 9, 30, 11]
    one_by_one = 0.0
    for place, token in enumerate(tokens[1:], start=1):
        logits = model(torch.tensor([tokens[:place]]))[0, -1]
        one_by_one -= float(torch.log_softmax(logits.float(), 0)[token])
    assert nats(model, tokens) == pytest.approx(one_by_one, rel=1e-5)
    assert nats(model, tokens[:1]) == 0


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("One two. Three four five six. Seven ei", "One two. Three four five six."),
        ('He said "so it is." And the', 'He said "so it is."'),
        ("A. long sentence without its e", "A. long sentence without its"),
        ("version 3.14 of the thing is abou", "version 3.14 of the thing is"),
        ("我们读书。他们写", "我们读书。"),
        ("oneword\ufffd", "oneword"),
        ("", ""),
    ],
)
def test_a_text_is_cut_at_a_sensible_end(text: str, expected: str) -> None:
    assert cut(text) == expected
