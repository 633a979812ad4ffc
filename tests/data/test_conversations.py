"""The shapes of instruction data: reading each, and the errors of malformed records."""

from typing import Any

import pytest

from homegrown.config.finetune_recipe import Shape
from homegrown.data.conversations import Malformed, conversation, shape_of
from homegrown.tokenizer.chat import Message

WHY, SO = Message("user", "Why?"), Message("assistant", " So.\n")


def said(*turns: tuple[str, Any], names: tuple[str, str] = ("role", "content")) -> list[dict[str, Any]]:
    return [{names[0]: role, names[1]: content} for role, content in turns]


@pytest.mark.parametrize(
    ("record", "shape", "expected"),
    [
        ({"messages": said(("user", "Why?"), ("assistant", " So.\n"))}, "messages", [WHY, SO]),
        (
            {"messages": said(("system", "Be brief."), *[("user", "Why?"), ("assistant", " So.\n")] * 2), "id": 7},
            "messages",
            [Message("system", "Be brief."), WHY, SO, WHY, SO],
        ),
        ({"prompt": "Why?", "completion": " So.\n"}, "prompt_completion", [WHY, SO]),
        ({"instruction": "Why?", "input": "", "output": " So.\n"}, "alpaca", [WHY, SO]),
        ({"instruction": "Why?", "output": " So.\n"}, "alpaca", [WHY, SO]),
        (
            {"instruction": "Translate.", "input": "ja", "output": "yes"},
            "alpaca",
            [Message("user", "Translate.\n\nja"), Message("assistant", "yes")],
        ),
        ({"question": "Why?", "answer": " So.\n"}, "question_answer", [WHY, SO]),
        (
            {"conversations": said(("system", "x"), ("human", "Why?"), ("gpt", " So.\n"), names=("from", "value"))},
            "sharegpt",
            [Message("system", "x"), WHY, SO],
        ),
        (
            {"prompt": "other", "completion": 1, "messages": said(("user", "Why?"), ("assistant", " So.\n"))},
            "messages",
            [WHY, SO],
        ),
    ],
)
def test_every_shape_is_recognized_and_read(record: dict[str, Any], shape: Shape, expected: list[Message]) -> None:
    assert shape_of(record) == shape
    assert conversation(record, shape) == expected


@pytest.mark.parametrize(
    ("record", "shape", "problem"),
    [
        (["Why?"], "messages", "is a list instead of an object"),
        ({"question": "Why?"}, "question_answer", "has no key 'answer'; its keys are 'question'"),
        ({"question": "Why?", "answer": 42}, "question_answer", "has a number under 'answer' instead of text"),
        ({"question": "Why?", "answer": True}, "question_answer", "has true or false under 'answer'"),
        ({"question": "Why?", "answer": None}, "question_answer", "has null under 'answer'"),
        ({"question": "Why?", "answer": " \n"}, "question_answer", "has an empty answer in message 2"),
        ({"question": "", "answer": "So."}, "question_answer", "has an empty question in message 1"),
        ({"question": "\ud800", "answer": "So."}, "question_answer", "has a lone surrogate"),
        ({"instruction": "a", "input": ["b"], "output": "c"}, "alpaca", "has a list under 'input'"),
        ({"messages": "Why?"}, "messages", "has text under 'messages' instead of a list"),
        ({"messages": []}, "messages", "ends without an answer"),
        ({"messages": said(("system", "x"))}, "messages", "ends without an answer"),
        ({"messages": said(("user", "a"))}, "messages", "ends without an answer"),
        (
            {"messages": said(("assistant", "a"))},
            "messages",
            "has message 1 from 'assistant' where 'user' is expected",
        ),
        ({"messages": said(("user", "a"), ("user", "b"))}, "messages", "message 2 from 'user' where 'assistant'"),
        ({"messages": said(("user", "a"), ("system", "b"))}, "messages", "message 2 from 'system' where 'assistant'"),
        ({"messages": said(("user", "a"), ("tool", "b"))}, "messages", "has 'tool' as 'role' of message 2"),
        ({"messages": said(("user", ["a"]))}, "messages", "has a list as 'content' of message 1 instead of text"),
        ({"messages": ["a"]}, "messages", "has text as message 1 instead of an object"),
        ({"messages": [{"content": "a"}]}, "messages", "has no 'role' in message 1; its keys are 'content'"),
        (
            {"conversations": said(("gpt", "a"), names=("from", "value"))},
            "sharegpt",
            "has message 1 from 'assistant' where 'user'",
        ),
    ],
)
def test_errors_name_the_problem(record: Any, shape: Shape, problem: str) -> None:
    with pytest.raises(Malformed) as raised:
        conversation(record, shape)
    assert problem in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("record", [{"text": "a"}, {"question": "a"}, {}, 3, "a"])
def test_an_unknown_shape_is_an_error(record: Any) -> None:
    with pytest.raises(
        Malformed, match=r"match no known shape \(messages; conversations; prompt and|instead of an object"
    ):
        shape_of(record)
