"""Ollama's API through its own client, against OpenAI's on the same server."""

import json
from typing import Any

import httpx
import jsonschema
import ollama
import pytest

from homegrown.serving import ollama as ours
from tests.serving.conftest import LLAMA, OWN, Served, both

ASKED = [{"role": "user", "content": "Why?"}]
GREEDY = {"temperature": 0, "num_predict": 20}
TRIP = {
    "type": "object",
    "properties": {"city": {"enum": ["Paris", "Rome"]}, "days": {"type": "integer", "minimum": 1, "maximum": 9}},
    "required": ["city", "days"],
}


def client(served: Served) -> ollama.Client:
    return ollama.Client(host=served.url)


def openais(served: Served, name: str) -> Any:
    return served.client.chat.completions.create(model=name, messages=ASKED, temperature=0, max_tokens=20)  # type: ignore[arg-type]


@both
def test_a_chat_is_that_of_openais_api(served: Served, name: str) -> None:
    expected = openais(served, name)
    answer = client(served).chat(name, ASKED, options=GREEDY)
    assert answer.message.content == expected.choices[0].message.content
    assert (answer.model, answer.done, answer.done_reason) == (name, True, "length")
    assert (answer.prompt_eval_count, answer.eval_count) == (expected.usage.prompt_tokens, 20)
    parts = list(client(served).chat(name, ASKED, options=GREEDY, stream=True))
    assert "".join(part.message.content for part in parts) == answer.message.content
    assert [part.done for part in parts] == [False] * (len(parts) - 1) + [True]
    assert (parts[-1].prompt_eval_count, parts[-1].eval_count) == (expected.usage.prompt_tokens, 20)
    assert all((one.eval_duration or 0) > 0 and (one.prompt_eval_duration or 0) > 0 for one in (answer, parts[-1]))


@both
def test_generate_asks_or_continues(served: Served, name: str) -> None:
    asked = client(served).generate(name, "Why?", options=GREEDY)
    assert asked.response == openais(served, name).choices[0].message.content
    continued = client(served).generate(name, "The user", raw=True, options=GREEDY)
    assert continued.response == served.expected(served.prompt("The user"), 20)
    with pytest.raises(ollama.ResponseError, match="system is not supported with raw"):
        client(served).generate(name, "The user", raw=True, system="Be brief.")
    without_effect = {**GREEDY, "repeat_last_n": 64, "repeat_penalty": 1, "mirostat_tau": 5}
    assert client(served).generate(name, "Why?", options=without_effect).response == asked.response
    sampled = [client(served).generate(name, "Why?", options={"num_predict": 20, "seed": -1}) for _ in range(2)]
    assert sampled[0].response != sampled[1].response  # Ollama's -1 is no seed
    parts = list(client(served).generate(name, "The user", raw=True, options=GREEDY, stream=True))
    assert "".join(part.response for part in parts) == continued.response and parts[-1].done_reason == "length"
    full = client(served).generate(name, "The user", raw=True, options={"temperature": 0})
    assert full.eval_count == 128 - len(served.prompt("The user"))
    for keep, reason in (
        (None, "load"),
        ("5m", "load"),
        (-1, "load"),
        (0, "unload"),
        ("0s", "unload"),
        (0.0, "unload"),
    ):
        assert client(served).generate(name, keep_alive=keep).done_reason == reason
        assert client(served).chat(name, keep_alive=keep).done_reason == reason
    assert [one.model for one in client(served).ps().models] == [OWN, LLAMA]
    assert client(served).generate(name, "Why?", options=GREEDY, keep_alive=0).response == asked.response


def test_models_are_listed_and_shown(served: Served) -> None:
    assert [one.model for one in client(served).list().models] == [OWN, LLAMA, "gpt-4o-mini", "org/model"]
    assert [one.model for one in client(served).ps().models] == [OWN, LLAMA]
    shown = client(served).show(f"{OWN}:latest")
    assert shown.modelinfo is not None and shown.modelinfo["homegrown.context_length"] == 128
    assert shown.template is not None and "message" in shown.template
    older = httpx.post(f"{served.url}/api/show", json={"name": OWN})
    assert older.json()["template"] == shown.template
    assert httpx.get(f"{served.url}/api/version").json().keys() == {"version"}
    assert shown.capabilities == ["completion", "tools"]
    assert httpx.post(f"{served.url}/api/show", json={}).json() == {"error": "model is missing; add it."}
    assert ours.shown(served.service.model(OWN), 1, "", tools=False)["capabilities"] == ["completion"]


def test_embeddings_are_those_of_openais_api(served: Served) -> None:
    texts = ["The user", "Why?"]
    expected = served.client.embeddings.create(model=OWN, input=texts, encoding_format="float")
    found = client(served).embed(OWN, texts)
    assert [list(one) for one in found.embeddings] == [one.embedding for one in expected.data]
    assert found.prompt_eval_count == expected.usage.prompt_tokens
    # LangChain sends the options of its chats.
    assert client(served).embed(OWN, texts[0], options={"num_ctx": 8}).embeddings == found.embeddings[:1]
    long = "user " * 200
    assert client(served).embed(OWN, long).prompt_eval_count == 128
    for given, message in (
        ({"input": long, "truncate": False}, "maximum context"),
        ({"input": ""}, 'input is ""; give a text'),
    ):
        answer = httpx.post(f"{served.url}/api/embed", json={"model": OWN, **given})
        assert answer.status_code == 400 and message in answer.json()["error"]


@both
def test_formats_and_tools(served_long: Served, name: str) -> None:
    options = {"temperature": 1, "seed": 4, "num_predict": 500}
    for format in (TRIP, "json"):
        answer = client(served_long).chat(name, ASKED, options=options, format=format)  # type: ignore[arg-type]
        assert (answer.message.content or "").startswith("{")
        if format == TRIP:
            jsonschema.validate(json.loads(answer.message.content or ""), TRIP)
    tools = [{"type": "function", "function": {"name": "trip", "description": "A trip", "parameters": TRIP}}]
    call = {"function": {"name": "trip", "arguments": {"city": "Rome", "days": 1}}}
    history = [
        *ASKED,
        {"role": "assistant", "tool_calls": [call]},
        {"role": "tool", "tool_name": "trip", "content": "x"},
    ]
    with_tools = client(served_long).chat(name, history, tools=tools, options=options)
    without = client(served_long).chat(name, history, options=options)
    assert (with_tools.prompt_eval_count or 0) > (without.prompt_eval_count or 0) > 0
    named = [
        history[0],
        {"role": "assistant", "tool_calls": [{"id": "a", **call}]},
        {**history[2], "tool_call_id": "a"},
    ]
    body = {"model": name, "messages": named, "stream": False, "options": options}
    found = httpx.post(f"{served_long.url}/api/chat", json=body).json()
    assert found["prompt_eval_count"] == without.prompt_eval_count


@pytest.mark.parametrize(
    ("given", "status", "message"),
    [
        ({"model": "none"}, 404, "is not served"),
        ({"think": True}, 400, "Unsupported: think"),
        ({"keep_alive": True}, 400, "keep_alive is true; give seconds, or a duration such as 5m"),
        ({"options": {"temperature": True}}, 400, "options.temperature is true; give a number"),
        ({"messages": [{"role": "tool", "tool_call_id": "x", "content": ""}]}, 400, "No earlier answer has a call x"),
        ({"options": {"repeat_penalty": 1e39}}, 400, "options.repeat_penalty is 1e+39; give at most"),
        ({"options": {"repeat_last_n": 4, "repeat_penalty": 1.1}}, 400, "options.repeat_last_n is 4, but penalties"),
        ({"options": {"temperature": 9}}, 400, "options.temperature is 9; give at most 2"),
        ({"options": {"num_predict": 0}}, 400, "options.num_predict is 0; give at least 1"),
        ({"options": {"repeat_penalty": 0}}, 400, "options.repeat_penalty is 0; give more than 0"),
        (
            {"messages": [{"role": "assistant", "tool_calls": ["x"]}]},
            400,
            'messages.0.tool_calls.0 is "x"; give an object',
        ),
        (
            {"messages": [{"role": "assistant", "tool_calls": [{}]}]},
            400,
            "messages.0.tool_calls.0.function is missing; add it",
        ),
        ({"messages": [{"role": "assistant", "tool_calls": 5}]}, 400, "messages.0.tool_calls is 5; give a list"),
        ({"format": "xml"}, 400, "format: Give json or a JSON schema"),
        ({"messages": [{"role": "robot", "content": "x"}]}, 400, "messages.0.role"),
        ({"format": {"type": "foo"}}, 400, "The schema is malformed at $.type"),
    ],
)
def test_a_mistake_is_an_error_of_ollamas_form(served: Served, given: Any, status: int, message: str) -> None:
    answer = httpx.post(f"{served.url}/api/chat", json={"model": OWN, "messages": ASKED, "stream": False, **given})
    assert answer.status_code == status
    assert message in answer.json()["error"]


def test_a_command_of_ollamas_documentation_names_no_type(served: Served) -> None:
    body = json.dumps({"model": OWN, "prompt": "x", "stream": False, "options": GREEDY}).encode()
    for headers in ({}, {"Content-Type": "application/x-www-form-urlencoded"}):  # the second is what curl -d sends
        answer = httpx.post(f"{served.url}/api/generate", content=body, headers=headers)
        assert answer.status_code == 200 and answer.json()["done_reason"] == "length", answer.text
    page = {"Content-Type": "text/plain", "Origin": "http://elsewhere.example"}  # which a browser sends unasked
    assert httpx.post(f"{served.url}/api/generate", content=body, headers=page).status_code == 403
