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
    assert conversation(record, shape).messages == expected


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
        (
            {"messages": said(("user", "a"), ("system", "b"))},
            "messages",
            "message 2 from 'system' between a question and its answer",
        ),
        ({"messages": said(("user", "a"), ("critic", "b"))}, "messages", "has 'critic' as 'role' of message 2"),
        ({"messages": said(("user", "a"), ("tool", "b"))}, "messages", "message 2 from 'tool' where 'assistant'"),
        ({"messages": said(("user", {"a": 1}))}, "messages", "has an object as 'content' of message 1 instead of text"),
        (
            {"messages": said(("user", [{"type": "image_url", "image_url": {}}]))},
            "messages",
            "has a part of the type 'image_url' in 'content' of message 1",
        ),
        ({"messages": said(("user", "a"), ("assistant", None))}, "messages", "has null as 'content' of message 2"),
        (
            {"messages": [*said(("user", "a")), {"role": "assistant", "content": "b", "weight": 0.5}]},
            "messages",
            "has 0.5 as 'weight' of message 2; only 0 and 1",
        ),
        ({"question": "a", "answer": "b", "images": ["x.png"]}, "question_answer", "has 'images'; only text"),
        ({"question": "a", "answer": "b", "tools": "f"}, "question_answer", "has no list of functions under 'tools'"),
        ({"question": "a", "answer": "b", "history": ["c"]}, "question_answer", "no list of [question, answer]"),
        (
            {"messages": [*said(("user", "a")), {"role": "assistant", "tool_calls": [{"function": {}}]}]},
            "messages",
            "has a tool call without the name of a function in message 2",
        ),
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


CALL = {"type": "function", "function": {"name": "w", "arguments": {"city": "Bern"}}}


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        ({"messages": said(("developer", "Be brief."), ("user", "Why?"), ("assistant", " So.\n"))}, "Be brief."),
        ({"messages": said(("user", "Why?"), ("assistant", " So.\n")), "system": "Be brief."}, "Be brief."),
        ({"instruction": "Why?", "output": " So.\n", "system": "Be brief."}, "Be brief."),
    ],
)
def test_a_system_message_under_other_names_is_one(record: dict[str, Any], expected: str) -> None:
    assert conversation(record, shape_of(record)).messages == [Message("system", expected), WHY, SO]


@pytest.mark.parametrize("parts", [[{"type": "text", "text": "Wh"}, {"type": "text", "text": "y?"}], ["Wh", "y?"]])
def test_parts_of_text_are_text(parts: list[Any]) -> None:
    record = {"messages": said(("user", parts), ("assistant", [{"text": " So.\n"}]))}
    assert conversation(record, "messages").messages == [WHY, SO]


@pytest.mark.parametrize(
    "call",
    [
        {"content": None, "tool_calls": [CALL | {"id": "1"}]},
        {"tool_calls": [{"id": "1", "function": {"name": "w", "arguments": '{"city": "Bern"}'}}]},
        {"content": "", "tool_calls": [{"id": "1", "type": "function", "function": CALL["function"]}]},
    ],
)
def test_tool_calls_are_read_with_their_arguments_as_an_object(call: dict[str, Any]) -> None:
    turns = [*said(("user", "Why?")), {"role": "assistant", **call}]
    turns += [{"role": "tool", "tool_call_id": "1", "name": "w", "content": "sunny"}, *said(("assistant", " So.\n"))]
    function = {"name": "w", "parameters": {}}
    found = conversation({"messages": turns, "tools": [function]}, "messages")
    assert found.messages == [
        *[WHY, Message("assistant", "", tool_calls=(CALL | {"id": "1"},))],
        *[Message("tool", "sunny", name="w", tool_call_id="1"), SO],
    ]
    assert found.tools == [{"type": "function", "function": function}]
    assert not found.ignored


def test_the_older_form_of_a_call_is_one() -> None:
    call = {"role": "assistant", "content": None, "function_call": {"name": "w", "arguments": '{"city": "Bern"}'}}
    turns = [*said(("user", "Why?")), call, *said(("function", "sunny"), ("assistant", " So.\n"))]
    found = conversation({"messages": turns}, "messages").messages
    assert (found[1].tool_calls, found[2].role) == ((CALL,), "tool")


@pytest.mark.parametrize("key", ["reasoning_content", "thinking", "reasoning"])
def test_reasoning_is_read_under_its_names(key: str) -> None:
    turns = [*said(("user", "Why?")), {"role": "assistant", "content": " So.\n", key: "Hm."}]
    assert conversation({"messages": turns}, "messages").messages == [
        WHY,
        Message("assistant", " So.\n", reasoning="Hm."),
    ]


def test_several_system_messages_and_earlier_exchanges_are_read() -> None:
    turns = said(("system", "a"), ("system", "b"), ("user", "Why?"), ("assistant", " So.\n"), ("system", "c"))
    record = {"messages": [*turns, *said(("user", "Why?"), ("assistant", " So.\n"))]}
    roles = [message.role for message in conversation(record, "messages").messages]
    assert roles == ["system", "system", "user", "assistant", "system", "user", "assistant"]
    past = conversation({"instruction": "Why?", "output": " So.\n", "history": [["Hi", "Hello"]]}, "alpaca").messages
    assert past == [Message("user", "Hi"), Message("assistant", "Hello", trained=False), WHY, SO]


def test_a_prompt_of_messages_is_one() -> None:
    record = {"prompt": said(("system", "x"), ("user", "Why?")), "completion": said(("assistant", " So.\n"))}
    assert conversation(record, "prompt_completion").messages == [Message("system", "x"), WHY, SO]


@pytest.mark.parametrize("record", [{"text": 1}, {"question": "a"}, {}, 3, "a"])
def test_an_unknown_shape_is_an_error(record: Any) -> None:
    with pytest.raises(
        Malformed, match=r"match no known shape \(messages; conversations; prompt and|instead of an object"
    ):
        shape_of(record)
