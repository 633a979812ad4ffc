"""Bodies of requests: what is refused, with which message, and what changes nothing."""

import gzip
import json
from typing import Any

import httpx
import openai
import pytest
from openai.types import Completion
from openai.types.chat import ChatCompletion

from tests.serving.conftest import CONTEXT, OWN, PROMPT, TALK, Served

SURROGATE = "The text has an unpaired surrogate; send valid Unicode."


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"suffix": "x"}, "suffix is not supported"),
        ({"best_of": 3}, "best_of is not supported"),
        (
            {"logit_bias": {"5": 101}},
            "logit_bias is invalid; give an object with token ids as names and numbers from -100 to 100",
        ),
        ({"logit_bias": {"275": 1}}, "logit_bias has the unknown token 275; those of pretrain@1 are 0 to 274"),
        ({"logit_bias": {str(token): -100 for token in range(275)}}, "logit_bias bans all tokens; leave some"),
        ({"seed": 1.5}, "seed is 1.5; give an integer"),
        ({"top_k": 2**40}, "top_k is 1099511627776; give at most 2147483647"),
        ({"repetition_penalty": 1e39}, r"repetition_penalty is 1e\+39; give at most 3.4"),
        ({"min_tokens": 4, "max_tokens": 3}, "min_tokens is 4, but at most 3 can be generated; reduce it"),
        ({"guided_choice": "x" * 99}, f'guided_choice is "{"x" * 59}...; give a list'),
        ({"stop_token_ids": [-1]}, "stop_token_ids has the unknown token -1"),
        ({"temperature": 3}, "temperature is 3; give at most 2"),
        ({"top_p": 0}, "top_p is 0; give more than 0"),
        ({"n": 65}, "n is 65; give at most 64"),
        ({"n": 33, "prompt": ["a", "b"]}, "exceed 64 choices"),
        ({"prompt": ["a"] * 65}, "400 - prompt is a list of 65; give a string, token ids, or a list of 1 to 64 of"),
        ({"prompt": 5}, "400 - prompt is 5; give a string, token ids, or a list of 1 to 64 of either"),
        ({"max_tokens": -1}, "max_tokens is -1; give at least 0"),
        ({"stop": ["x"] * 17}, "400 - stop is a list of 17; give a string or at most 16 strings, each of 1 to 256"),
        ({"prompt": []}, "prompt is an empty list; give a string"),
        ({"guided_choice": []}, r"guided_choice is an empty list; give at least 1\."),
        ({"temprature": 0}, r"temprature \(did you mean temperature\?\)"),
        ({"best_off": 1, "ignore_eos": True}, r"Unsupported: best_off \(did you mean best_of\?\), ignore_eos;"),
        ({"prompt": [5, 280]}, "those of pretrain@1 are 0 to 274"),
        (
            {"prompt": "x", "max_tokens": CONTEXT},
            "length is 128 tokens, but the prompt has 2 and the completion up to 128; reduce one",
        ),
        ({"prompt": [9] * CONTEXT}, "length is 128 tokens, but the prompt has 128; shorten it"),
        *(
            ({name: True}, f"400 - {name} is true; give a number")
            for name in (
                "temperature",
                "n",
                "max_tokens",
                "logprobs",
                "seed",
                "top_k",
                "min_p",
                "best_of",
                "min_tokens",
            )
        ),
        ({"prompt": [True]}, "prompt is a list of 1; give a string"),
        ({"logit_bias": {"5": True}}, "logit_bias is invalid; give an object with token ids"),
        ({"repeat_penalty": True, "mirostat": False}, "Unsupported: repeat_penalty .*, mirostat;"),
    ],
)
def test_an_unsupported_completion_is_a_400(served: Served, asked: dict[str, Any], message: str) -> None:
    with pytest.raises(openai.BadRequestError, match=message) as caught:
        served.client.post("/completions", body={"model": OWN, "prompt": "x", **asked}, cast_to=object)
    assert caught.value.type == "invalid_request_error"
    assert caught.value.param is None or caught.value.param in [*asked, "prompt"]
    assert (caught.value.code == "context_length_exceeded") == ("length is 128" in message)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"tools": [{"type": "function"}]}, r"tools\.0\.function is missing; add it"),
        ({"top_logprobs": 2}, "needs logprobs"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "Only text content"),
        ({"messages": [{"role": "robot", "content": "x"}]}, r"messages\.0\.role"),
        ({"messages": ["x"]}, r"messages\.0 is \"x\"; give an object\."),
        ({"messages": [{"role": "user", "content": 5}]}, r"messages\.0\.content is 5; give text, or a list of parts"),
        (
            {"messages": [{"role": "assistant", "tool_calls": [{"id": "1"}]}, *TALK]},
            r"tool_calls\.0\.function is missing",
        ),
        ({"functions": [{"name": "f", "parameters": {}}]}, "Unsupported: functions;"),
        ({"modalities": ["audio"]}, "modalities"),
        ({"repeat_penalty": 5.0}, r"repeat_penalty \(did you mean repetition_penalty\?\)"),
        ({"reasoning_effort": "low"}, "Unsupported: reasoning_effort;"),
        ({"continue_final_message": True}, "needs an answer to continue as the last message"),
        ({"add_generation_prompt": False}, "can be false only for an answer to continue"),
        ({"stream_options": {"include_usge": True}}, r"stream_options\.include_usge \(did you mean include_usage\?\)"),
        ({"messages": [{"role": "user", "content": "x", "nme": "y"}]}, r"messages\.0\.nme \(did you mean name\?\)"),
        ({"messages": None}, "messages is missing; add it"),
        ({"max_tokens": 5, "max_completion_tokens": 3}, "max_tokens is 5, but max_completion_tokens 3; give one"),
        ({"messages": [{"role": "user"}]}, r"messages\.0\.content is missing; add it"),
        (
            {"messages": [{"role": "user", "content": "x", "tool_calls": [{"function": {"name": "f"}}]}]},
            r"messages\.0\.tool_calls is only for the role assistant; remove it",
        ),
        ({"stream": "maybe"}, 'stream is "maybe"; give true or false'),
        ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, 'name is "a b"; give 1 to 64 letters'),
        ({"response_format": {"type": "text", "json_schema": {"schema": {}}}}, "a schema, but the type text"),
        ({"stop_token_ids": [5, True]}, r"stop_token_ids\.1 is true; give a number"),
        ({"logprobs": True, "top_logprobs": True}, "top_logprobs is true; give a number"),
    ],
)
def test_an_unsupported_chat_is_a_400(served: Served, asked: dict[str, Any], message: str) -> None:
    with pytest.raises(openai.BadRequestError, match=message):
        served.client.post("/chat/completions", body={"model": OWN, "messages": TALK, **asked}, cast_to=object)


def test_a_null_field_has_its_default(served: Served) -> None:
    nulls = dict.fromkeys(("n", "stream", "stop", "seed", "temperature", "user", "logit_bias", "stream_options"))
    more = dict.fromkeys(("echo", "suffix", "best_of", "logprobs", "prompt", "grammar"))
    given = {"model": OWN, "prompt": PROMPT, "seed": 5}
    plain = served.client.completions.create(**given).choices  # type: ignore[call-overload]
    null = served.client.post("/completions", body={**nulls, **given, "max_tokens": None}, cast_to=Completion)
    assert null.choices == plain and null.usage is not None and null.usage.completion_tokens <= 16
    assert served.client.post("/completions", body={**nulls, **more, "model": OWN}, cast_to=Completion).choices
    said = {"role": "user", "content": "Hi", "name": None, "tool_calls": None}
    asked = {**nulls, "model": OWN, "messages": [said], "max_tokens": 4, "tools": None, "response_format": None}
    assert len(served.client.post("/chat/completions", body=asked, cast_to=ChatCompletion).choices) == 1


def test_fields_that_change_nothing_are_ignored(served: Served) -> None:
    given: dict[str, Any] = {
        "user": "me",
        "store": True,
        "metadata": {"a": "b"},
        "modalities": ["text"],
        "functions": [],
        "repeat_penalty": 1.0,
        "echo": False,
        "chat_template_kwargs": {},
    }
    said = [{**one, "annotations": [], "refusal": None, "tool_calls": []} for one in TALK]
    answers = [
        served.client.post(
            "/chat/completions",
            body={"model": OWN, "messages": messages, "temperature": 0, "max_tokens": 9, **more},
            cast_to=ChatCompletion,
        )
        for messages, more in ((TALK, {}), (said, given))
    ]
    assert answers[0].choices == answers[1].choices


def test_a_missing_content_type_is_named(served: Served) -> None:
    body = json.dumps({"model": OWN, "prompt": "x"}).encode()
    for headers in ({}, {"Content-Type": "text/plain"}):
        answer = httpx.post(f"{served.url}/v1/completions", content=body, headers=headers)
        assert answer.status_code == 415 and "Content-Type" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("route", "body", "message"),
    [
        ("completions", '{"model": ', "The body is not valid JSON: Expecting value, at character 10."),
        ("completions", "", "The body is not a JSON object; send one."),
        ("completions", "[]", "The body is not a JSON object; send one."),
        ("completions", "[" * 100_000, "The body is nested too deeply; send a flatter one."),
        ("completions", f'{{"n": {"9" * 5000}}}', "The body has a number of too many digits; shorten it."),
        (
            "completions",
            b'{"prompt": "\xe9"}'.decode("latin-1"),
            "The body is not UTF-8 at byte 35; send JSON in UTF-8.",
        ),
        ("completions", r'{"prompt": "cut \ud83d"}', SURROGATE),
        ("completions", r'{"stop": "cut \ud83d"}', "stop has an unpaired surrogate; send valid Unicode."),
        ("completions", '{"temperature": NaN}', "temperature is NaN; give a number."),
        (
            "chat/completions",
            r'{"messages": [{"role": "user", "content": "cut \ud83d"}]}',
            SURROGATE,
        ),
    ],
)
def test_a_malformed_body_is_refused(served: Served, route: str, body: str, message: str) -> None:
    content = body.replace("{", f'{{"model": "{OWN}", ', 1) if body.endswith("}") else body
    headers = {"Content-Type": "application/json"}
    answer = httpx.post(f"{served.url}/v1/{route}", content=content.encode("latin-1"), headers=headers)
    assert answer.status_code == 400
    assert answer.json()["error"]["message"] == message


def test_a_compressed_body_is_refused(served: Served) -> None:
    content = gzip.compress(json.dumps({"model": OWN, "prompt": "x"}).encode())
    headers = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
    answer = httpx.post(f"{served.url}/v1/completions", content=content, headers=headers)
    assert answer.status_code == 415 and "send the body uncompressed" in answer.json()["error"]["message"]


def test_a_body_in_another_encoding_of_unicode_is_read(served: Served) -> None:
    content = json.dumps({"model": OWN, "prompt": "é", "max_tokens": 1, "temperature": 0}, ensure_ascii=False)
    texts = {
        httpx.post(
            f"{served.url}/v1/completions",
            content=content.encode(encoding),
            headers={"Content-Type": "application/json"},
        ).json()["choices"][0]["text"]
        for encoding in ("utf-8", "utf-8-sig", "utf-16")
    }
    assert len(texts) == 1


def test_a_huge_body_is_refused(served: Served) -> None:
    body = json.dumps({"model": OWN, "prompt": "x" * 4_000_000})
    answer = httpx.post(f"{served.url}/v1/completions", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 413 and "shorten it" in answer.json()["error"]["message"]
