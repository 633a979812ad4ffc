"""Tool calls through OpenAI's client, in both engines, against the chat template and jsonschema."""

import json
from collections.abc import Iterator
from typing import Any

import jsonschema
import openai
import pytest
from openai import OpenAI
from tokenizers import Tokenizer

from homegrown.serving.api import application
from homegrown.serving.messages import ChatMessage, conversation
from homegrown.serving.service import Model, Service
from homegrown.serving.tools import call_format, for_template
from homegrown.tokenizer.chat import Chat, Message
from homegrown.tokenizer.chat_files import ChatFiles
from tests.serving.conftest import OWN, Served, both
from tests.serving.running import running
from tests.serving.scripted import ScriptedEngine

WEATHER = {
    "type": "object",
    "properties": {"city": {"enum": ["Paris", "Rome"]}, "days": {"type": "integer", "minimum": 1, "maximum": 9}},
    "required": ["city", "days"],
    "additionalProperties": False,
}
TOOLS: list[Any] = [
    {"type": "function", "function": {"name": "weather", "description": "Forecast", "parameters": WEATHER}},
    {"type": "function", "function": {"name": "time", "parameters": None}},
]
ASKED: list[Any] = [{"role": "user", "content": "Rome?"}]


def talk(served: Served, name: str, **options: Any) -> Any:
    given = {"messages": ASKED, "tools": TOOLS, "temperature": 1.0, "seed": 3, "max_tokens": 900, **options}
    return served.client.chat.completions.create(model=name, **given)


@both
def test_a_named_tool_is_called_once_with_arguments_of_its_schema(served_long: Served, name: str) -> None:
    choice = talk(served_long, name, tool_choice={"type": "function", "function": {"name": "weather"}}).choices[0]
    assert (choice.finish_reason, choice.message.content) == ("tool_calls", None)
    (call,) = choice.message.tool_calls
    assert (call.type, call.function.name) == ("function", "weather")
    jsonschema.validate(json.loads(call.function.arguments), WEATHER)


@both
def test_a_required_call_is_streamed(served_long: Served, name: str) -> None:
    options = {"tool_choice": "required", "parallel_tool_calls": False, "n": 2}
    complete = [choice.message.tool_calls[0].function for choice in talk(served_long, name, **options).choices]
    found: list[dict[str, str]] = [{}, {}]
    reasons = {}
    for chunk in talk(served_long, name, stream=True, **options):
        for choice in chunk.choices:
            assert not choice.delta.content
            for call in choice.delta.tool_calls or ():
                assert call.index == 0
                if call.id:
                    found[choice.index] = {"name": call.function.name, "arguments": ""}
                found[choice.index]["arguments"] += call.function.arguments or ""
            reasons[choice.index] = choice.finish_reason or reasons.get(choice.index)
    assert found == [{"name": one.name, "arguments": one.arguments} for one in complete]
    assert reasons == {0: "tool_calls", 1: "tool_calls"}
    for one in complete:
        jsonschema.validate(json.loads(one.arguments), WEATHER if one.name == "weather" else {"maxProperties": 0})


@both
def test_several_calls_are_in_one_answer(served_long: Served, name: str) -> None:
    breaks = {served_long.tokenizer.token_to_id("Ċ"): 30}  # which precede another call
    calls = (
        talk(served_long, name, tool_choice="required", logit_bias=breaks, max_tokens=400).choices[0].message.tool_calls
    )
    assert len(calls) > 3 and len({call.id for call in calls}) == len(calls)
    for call in calls[:-1]:
        schema = WEATHER if call.function.name == "weather" else {"maxProperties": 0}
        jsonschema.validate(json.loads(call.function.arguments), schema)


def called(name: str, function: str = "weather") -> dict[str, Any]:
    call = {"id": name, "type": "function", "function": {"name": function, "arguments": "{}"}}
    return {"role": "assistant", "content": None, "tool_calls": [call]}


def answered(name: str | None) -> dict[str, Any]:
    return {"role": "tool", "content": "sunny", **({} if name is None else {"tool_call_id": name})}


def test_the_prompt_is_that_of_the_template(served_long: Served) -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Rome", "days": 1}'}}
    history: list[Any] = [
        *ASKED,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": "sunny"},
    ]
    parsed = {**call, "function": {"name": "weather", "arguments": {"city": "Rome", "days": 1}}}
    messages = [
        Message("user", "Rome?"),
        Message("assistant", "", tool_calls=(parsed,)),
        Message("tool", "sunny", name="weather", tool_call_id="c1"),
    ]
    tools = [TOOLS[0], {"type": "function", "function": {"name": "time"}}]
    for offered, choice in ((tools, "auto"), (None, "none")):
        expected = Chat(served_long.tokenizer).encode(messages, reply=True, tools=offered)
        answer = talk(served_long, OWN, messages=history, tool_choice=choice, max_tokens=1)
        assert answer.usage.prompt_tokens == len(expected)


def test_a_message_of_a_tool_has_the_name_of_the_call_before_it() -> None:
    sent = [called("c1"), answered("c1"), called("c1", "time"), answered("c1"), answered(None), answered("")]
    messages = conversation([ChatMessage.model_validate(one) for one in sent])
    assert [message.name for message in messages if message.role == "tool"] == ["weather", "time", None, None]


def test_the_format_of_calls_is_read_from_the_template(tokenizer: Tokenizer) -> None:
    ours = call_format(Chat(tokenizer))
    assert ours.trigger == "<tool_call>" and ours.before.endswith('{"name": "') and ours.between == '", "arguments": '
    llama = (
        "{% if tools %}{{ tools | tojson }}{% endif %}{% for m in messages %}[{{ m.role }}]"
        "{% if m.tool_calls %}{% if m.tool_calls | length > 1 %}{{ raise_exception('one call') }}{% endif %}"
        '{{ \'{"name": "\' + m.tool_calls[0].function.name + \'", "parameters": \' }}'
        "{{ m.tool_calls[0].function.arguments | tojson }}{{ '}' }}{% else %}{{ m.content }}{% endif %}</s>"
        "{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}"
    )
    one = call_format(Chat(tokenizer, ChatFiles(template=llama)))
    assert (one.trigger, one.between, one.after, one.joint) == ('{"name": "', '", "parameters": ', "}", None)
    numbers = llama.replace("{{ '{", "<f>{{ '{").replace("arguments | tojson", "arguments | length")
    with pytest.raises(Exception, match="as JSON"):
        call_format(Chat(tokenizer, ChatFiles(template=numbers)))


WITHOUT_TOOLS = (
    "{% for m in messages %}{% if m.role not in roles %}{{ raise_exception('The role ' + m.role + ' is unknown.') }}"
    "{% endif %}[{{ m.role }}]{{ m.content }}{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}"
)
ROLES = "{% set roles = ['system', 'user', 'assistant'] %}"
CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Rome", "days": 1}}\n</tool_call>'


@pytest.mark.parametrize(
    ("roles", "start"),
    [
        (ROLES, "[system]Be brief.\n\n{tools}[user]Rome?"),
        (ROLES.replace("'system', ", ""), "[user]{tools}\n\nRome?"),
    ],
)
def test_a_template_without_tools_has_them_as_text(tokenizer: Tokenizer, roles: str, start: str) -> None:
    call = {"type": "function", "function": {"name": "weather", "arguments": {"city": "Rome", "days": 1}}}
    history = [
        Message("system", "Be brief."),
        Message("user", "Rome?"),
        Message("assistant", "I will look.", tool_calls=(call,)),
        Message("tool", "sunny"),
        Message("tool", "dry"),
    ]
    chat = Chat(tokenizer, ChatFiles(template=roles + WITHOUT_TOOLS))
    messages, tools = for_template(chat, history["system" not in roles :], TOOLS)
    text = chat.render(messages, reply=True, tools=tools)
    introduction = text[text.index("Functions") : text.index("\n{")]
    described = "\n".join([introduction, *map(json.dumps, TOOLS)])
    results = "<tool_response>\nsunny\n</tool_response>\n<tool_response>\ndry\n</tool_response>"
    rest = f"[assistant]I will look.\n{CALL}[user]{results}[assistant]"
    assert text == start.replace("{tools}", described) + rest
    assert for_template(chat, history[:2], None) == (history[:2], None)


def test_a_model_without_tools_in_its_template_calls_them(tokenizer: Tokenizer) -> None:
    service = Service([Model("m", 0)], queue=8)
    engine = ScriptedEngine("m", tokenizer, f"I will look.\n{CALL}", context=600)
    service.ready("m", engine, Chat(tokenizer, ChatFiles(template=ROLES + WITHOUT_TOOLS)))
    with running(application(service, key=None, hosts=["127.0.0.1"])) as url:
        client = OpenAI(base_url=f"{url}/v1", api_key="any", max_retries=0)
        message = client.chat.completions.create(model="m", messages=ASKED, tools=TOOLS).choices[0].message
        many = [{"type": "function", "function": {"name": f"tool_{number}"}} for number in range(99)]
        with pytest.raises(openai.BadRequestError, match=r"Of these, \d+ are the tools; offer fewer"):
            client.chat.completions.create(model="m", messages=ASKED, tools=many)  # type: ignore[arg-type]
    assert message.content == "I will look." and message.tool_calls is not None
    assert [one.function.name for one in message.tool_calls if one.type == "function"] == ["weather"]


@pytest.fixture
def scripted(tokenizer: Tokenizer) -> Iterator[tuple[ScriptedEngine, OpenAI]]:
    """A model that writes what a test says, whatever it is asked."""
    service = Service([Model("m", 0)], queue=8)
    engine = ScriptedEngine("m", tokenizer, "", context=4096)
    service.ready("m", engine, Chat(tokenizer))
    with running(application(service, key=None, hosts=["127.0.0.1"])) as url:
        yield engine, OpenAI(base_url=f"{url}/v1", api_key="any", max_retries=0)


@pytest.mark.parametrize("stream", [False, True])
def test_auto_divides_text_and_calls(scripted: tuple[ScriptedEngine, OpenAI], stream: bool) -> None:
    engine, client = scripted
    call = '<tool_call>\n{"name": "weather", "arguments": {"city": "R}\\"", "days": 1}}\n</tool_call>'
    for text, content, count in (
        (f"I will look.\n{call}\n{call}", "I will look.", 2),
        (f"\n{call}", "", 1),
        ("No <tool here. \n", "No <tool here. \n", 0),
    ):
        engine.text = text
        given: Any = {"model": "m", "messages": ASKED, "tools": TOOLS, "stream": stream}
        answer = client.chat.completions.create(**given)
        if stream:
            said, calls, reason = "", list[str](), None
            for chunk in answer:
                delta = chunk.choices[0].delta
                said += delta.content or ""
                for part in delta.tool_calls or ():
                    calls += [""] if part.id else []
                    calls[part.index] += part.function.arguments or ""
                reason = chunk.choices[0].finish_reason or reason
        else:
            message, reason = answer.choices[0].message, answer.choices[0].finish_reason
            said, calls = message.content or "", [one.function.arguments for one in message.tool_calls or ()]
        assert (said, len(calls), reason) == (content, count, "tool_calls" if count else "stop")
        assert all(json.loads(one) == {"city": 'R}"', "days": 1} for one in calls)


@both
def test_a_required_call_that_max_tokens_cuts_is_not_text(served_long: Served, name: str) -> None:
    for max_tokens in range(1, 16, 2):
        options = {"tool_choice": "required", "max_tokens": max_tokens}
        choice = talk(served_long, name, **options).choices[0]
        chunks = list(talk(served_long, name, stream=True, **options))
        assert (choice.message.content or "", choice.finish_reason) == ("", "length")
        assert not any(chunk.choices[0].delta.content for chunk in chunks)


def test_a_stop_string_inside_arguments_is_not_a_complete_call(scripted: tuple[ScriptedEngine, OpenAI]) -> None:
    engine, client = scripted
    engine.text = '<tool_call>\n{"name": "weather", "arguments": {"city": "Rome"}}\n</tool_call>'
    given: Any = {"model": "m", "messages": ASKED, "tools": TOOLS}
    reasons = [client.chat.completions.create(**given, stop=stop).choices[0].finish_reason for stop in (None, "me")]
    assert reasons == ["tool_calls", "stop"]


def test_a_call_that_max_tokens_cuts_is_no_text(scripted: tuple[ScriptedEngine, OpenAI]) -> None:
    engine, client = scripted
    engine.text = 'I will look.\n<tool_call>\n{"name": "weather", "arguments": {"city": "Rome"}}\n</tool_call>'
    given: Any = {"model": "m", "messages": ASKED, "tools": TOOLS, "max_tokens": 32}
    choice = client.chat.completions.create(**given).choices[0]
    chunks = list(client.chat.completions.create(**given, stream=True))
    assert (choice.message.content, choice.message.tool_calls, choice.finish_reason) == ("I will look.", None, "length")
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "I will look."


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tool_choice": {"type": "function", "function": {"name": "x"}}}, "names x, which is not among the tools"),
        ({"tool_choice": "maybe"}, 'tool_choice is "maybe"; give none, auto, required, or the name of a tool'),
        ({"tools": [*TOOLS, TOOLS[0]]}, "Two tools have the same name"),
        ({"response_format": {"type": "json_object"}}, "not supported together with another grammar"),
        ({"tools": None, "tool_choice": "required"}, "there are no tools; add them"),
        (
            {
                "tools": [
                    {"type": "function", "function": {"name": "f", "parameters": {"properties": {"a": {"type": 1}}}}}
                ]
            },
            r"The tool f: The schema is malformed at \$\.properties\.a\.type",
        ),
        (
            {"tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "string"}}}]},
            r'tools\.0\.function\.parameters\.type is "string"; give object',
        ),
        ({"tools": [{"type": "web_search"}]}, r"tools\.0\.type"),
        ({"messages": [*ASKED, {"role": "assistant", "content": "I"}]}, "the beginning of an answer"),
        (
            {
                "messages": [
                    {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "["}}]},
                    *ASKED,
                ]
            },
            "The arguments of f are not an object of JSON",
        ),
        *(
            (
                {"messages": [{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": text}}]}]},
                "The body is nested too deeply",
            )
            for text in ('{"a":' * 100_000, '{"a":' * 1500 + "1" + "}" * 1500)
        ),
        (
            {"messages": [*ASKED, called("c1"), answered("c2")]},
            r"messages\.2\.tool_call_id: No earlier answer has a call c2; send its id",
        ),
        (
            {"messages": [answered("c1"), called("c1"), answered("c1"), *ASKED]},
            r"messages\.0\.tool_call_id",
        ),
    ],
)
def test_a_mistake_is_a_400(served_long: Served, options: Any, message: str) -> None:
    with pytest.raises(openai.BadRequestError, match=message):
        talk(served_long, OWN, **options)
