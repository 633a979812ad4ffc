"""Output that fits a schema or a grammar, in both engines, against jsonschema, json and re."""

import json
import re
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated, Any, Literal

import jsonschema
import openai
import pytest
from pydantic import BaseModel, Field, TypeAdapter

from homegrown.inference.grammar import json_grammar
from homegrown.serving import llama_engine
from tests.serving.conftest import LLAMA, OWN, Served, both

COLOR = {
    "type": "object",
    "properties": {"color": {"enum": ["red", "blue"]}, "count": {"type": "integer", "minimum": 0, "maximum": 99}},
    "required": ["color", "count"],
}
PERSON = {
    "type": "object",
    "properties": {
        "tags": {"type": "array", "items": {"enum": ["a", "b"]}, "minItems": 1, "maxItems": 2},
        "zip": {"type": "string", "pattern": "^[0-9]{5}$"},
        "child": {"anyOf": [{"$ref": "#/$defs/C"}, {"type": "null"}]},
    },
    "required": ["tags", "zip", "child"],
    "$defs": {"C": {"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"]}},
}


def formatted(schema: Any) -> Any:
    return {"type": "json_schema", "json_schema": {"name": "a", "schema": schema, "strict": True}}


def talk(served: Served, name: str, **options: Any) -> Any:
    given = {"temperature": 1.0, "seed": 1, "max_tokens": 110, **options}
    return served.client.chat.completions.create(model=name, messages=[{"role": "user", "content": "x"}], **given)


@both
@pytest.mark.parametrize("schema", [COLOR, PERSON])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_an_answer_fits_its_schema(served: Served, name: str, schema: Any, temperature: float) -> None:
    answer = talk(served, name, response_format=formatted(schema), temperature=temperature).choices[0]
    jsonschema.validate(json.loads(answer.message.content), schema)
    assert answer.finish_reason == "stop"
    assert set(json.loads(answer.message.content)) <= set(schema["properties"])  # closed unless it says otherwise


class Cat(BaseModel):
    kind: Literal["cat"]
    lives: Annotated[int, Field(ge=1, le=9)]


class Dog(BaseModel):
    kind: Literal["dog"]
    loud: bool


@both
def test_a_union_of_pydantic_gives_one_of_its_models(served: Served, name: str) -> None:
    union: TypeAdapter[Any] = TypeAdapter(Annotated[Cat | Dog, Field(discriminator="kind")])
    form = formatted({"type": "object", "properties": {"pet": union.json_schema()}, "required": ["pet"]})
    definitions = form["json_schema"]["schema"]["properties"]["pet"].pop("$defs")
    form["json_schema"]["schema"]["$defs"] = definitions
    answers = [
        json.loads(talk(served, name, response_format=form, seed=seed).choices[0].message.content) for seed in (1, 2)
    ]
    assert all(isinstance(union.validate_python(answer["pet"]), Cat | Dog) for answer in answers)


@both
def test_json_mode_gives_an_object(served: Served, name: str) -> None:
    # A random model may write a string forever; it must at least begin as an object of JSON.
    text = talk(served, name, response_format={"type": "json_object"}).choices[0].message.content
    assert re.match(r'\{("|\})', text)


@both
@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"grammar": 'root ::= "<" word ("," word)? ">"\nword ::= [a-c] [x-z]'}, r"<[a-c][x-z](,[a-c][x-z])?>"),
        ({"guided_grammar": 'start: "(" /[0-9]{2,4}/ ")"'}, r"\([0-9]{2,4}\)"),
        ({"guided_regex": r"(\d{3}-){2}é[/x]?"}, r"(\d{3}-){2}é[/x]?"),
        ({"guided_choice": ["yes", 'no "']}, 'yes|no "'),
        ({"guided_choice": [f"a{number}" for number in range(3000)]}, r"a\d{1,4}"),
        ({"guided_choice": ["", "b"]}, "b?"),
        ({"guided_json": COLOR}, r'\{"color": .*'),
        ({"guided_json": json.dumps(COLOR)}, r'\{"color": .*'),
        ({"json_schema": COLOR}, r'\{"color": .*'),
        ({"structured_outputs": {"json": COLOR}}, r'\{"color": .*'),
        ({"structured_outputs": {"regex": "[ab]{4}"}}, "[ab]{4}"),
        ({"structured_outputs": {"choice": ["maybe"]}}, "maybe"),
        ({"structured_outputs": {"grammar": 'root ::= "k"'}}, "k"),
    ],
)
def test_grammars_of_every_kind_and_name(served: Served, name: str, options: Any, expected: str) -> None:
    answer = talk(served, name, extra_body=options).choices[0]
    assert re.fullmatch(expected, answer.message.content, re.DOTALL)
    completion = served.client.completions.create(
        model=name, prompt="The user", max_tokens=90, temperature=1, seed=2, extra_body=options
    )
    assert re.fullmatch(expected, completion.choices[0].text, re.DOTALL)


@both
def test_streams_log_probabilities_and_several_choices(served: Served, name: str) -> None:
    options = {"response_format": formatted(COLOR), "logprobs": True, "top_logprobs": 2, "n": 3}
    complete = talk(served, name, **options)
    texts, tokens = [""] * 3, [""] * 3
    for chunk in talk(served, name, stream=True, **options):
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
            tokens[choice.index] += "".join(one.token for one in (choice.logprobs.content if choice.logprobs else ()))
    assert texts == tokens == [choice.message.content for choice in complete.choices]
    for text in texts:
        jsonschema.validate(json.loads(text), COLOR)
    assert len(set(texts)) > 1
    for choice in complete.choices:
        assert "".join(one.token for one in choice.logprobs.content) == choice.message.content
        assert all(one.logprob <= 0 for one in choice.logprobs.content)


@both
def test_a_stop_string_ends_the_output_first(served: Served, name: str) -> None:
    answer = talk(served, name, extra_body={"guided_regex": "aaXbb"}, stop=["Xb"]).choices[0]
    assert (answer.message.content, answer.finish_reason) == ("aa", "stop")


@both
def test_a_batch_can_have_different_grammars_and_none(served: Served, name: str) -> None:
    def one(number: int) -> str:
        options = [{"guided_regex": f"{number}[a-z]{{{number + 3}}}"}, {"guided_json": COLOR}, {}][number % 3]
        return str(talk(served, name, extra_body=options, seed=number, max_tokens=60).choices[0].message.content)

    with ThreadPoolExecutor(12) as threads:
        together = list(threads.map(one, range(12)))
    for number, text in enumerate(together):
        if number % 3 == 0:
            assert re.fullmatch(f"{number}[a-z]{{{number + 3}}}", text)
        elif number % 3 == 1:
            jsonschema.validate(json.loads(text), COLOR)
    assert together == [one(number) for number in range(12)]


def test_a_grammar_outranks_a_ban_but_follows_a_bias(served: Served) -> None:
    yes, no = (served.tokenizer.encode(text).ids[0] for text in "yn")
    bias = {str(no): 100}
    assert (
        talk(served, OWN, extra_body={"guided_choice": ["yes", "no"]}, logit_bias=bias, temperature=0)
        .choices[0]
        .message.content
        == "no"
    )
    bans = {str(yes): -100, str(no): -100}
    answer = talk(served, OWN, extra_body={"guided_choice": ["yes", "no"]}, logit_bias=bans).choices[0]
    assert answer.message.content in ("yes", "no")


def with_properties(*names: str) -> dict[str, Any]:
    return {"type": "object", "properties": {name: {"type": "null"} for name in names}, "required": list(names)}


@pytest.mark.parametrize(
    ("schema", "fitting", "other"),
    [
        ({**with_properties("a"), "allOf": [with_properties("b")]}, {"a": None, "b": None}, {"a": None}),
        ({**with_properties("a"), "anyOf": [with_properties("b")]}, {"a": None, "b": None}, {"a": None}),
        (
            {"$ref": "#/$defs/b", "$defs": {"b": with_properties("b")}, **with_properties("a")},
            {"b": None, "a": None},
            {"b": None},
        ),
        ({"propertyNames": {"type": "string"}, "additionalProperties": {"type": "null"}}, {"k": None}, {"k": 1}),
        ({"type": "array", "uniqueItems": False, "items": {"enum": ["a"]}}, ["a", "a"], ["b"]),
        ({"type": "string", "pattern": r"^\p{L}$"}, "é", "1"),
        ({"type": "string", "format": "password"}, "é", 1),
    ],
)
def test_schemas_as_generators_write_them(served: Served, schema: Any, fitting: Any, other: Any) -> None:
    for value, fits in ((fitting, True), (other, False)):
        check = served.service.grammar(OWN, json_grammar(schema)).check()
        assert (check.fits(json.dumps(value, ensure_ascii=False)) and check.complete) is fits


@pytest.mark.parametrize("options", [{}, {"logprobs": True}])
def test_an_output_that_llama_cpp_lets_leave_the_grammar_is_an_error(
    served: Served, monkeypatch: pytest.MonkeyPatch, options: Any
) -> None:
    body = llama_engine._body
    monkeypatch.setattr(llama_engine, "_body", lambda *given: {**body(*given), "grammar": ""})
    early = {served.tokenizer.token_to_id("</s>"): 100}
    for given, bias in (("[0-9]{9}", {}), (r"(.|\n){300}", early)):
        with pytest.raises(openai.BadRequestError, match="did not enforce the grammar of the output; simplify it"):
            talk(served, LLAMA, extra_body={"guided_regex": given}, logit_bias=bias, **options)


DEEP: Any = {"type": "string"}
for _ in range(300):
    DEEP = {"type": "array", "items": DEEP}


@pytest.mark.parametrize(
    ("options", "field", "message"),
    [
        (
            {"guided_json": {"type": "object", "properties": {"a": {"type": "foo"}}}},
            "guided_json",
            r"\$\.properties\.a",
        ),
        (
            {"guided_json": {"properties": {"a": {"items": {"not": {}}}}}},
            "guided_json",
            r"\$\.properties\.a\.items: .*not",
        ),
        ({"guided_json": {"$ref": "#/x"}}, "guided_json", r"at \$: Pointer '/x' does not exist"),
        ({"guided_json": {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}}}, "guided_json", "no output"),
        ({"guided_json": DEEP}, "guided_json", "nested too deeply"),
        (
            {"guided_json": {"items": {"oneOf": [{"type": "integer"}, {"type": "number"}]}}},
            "guided_json",
            r"at \$\.items: oneOf is supported only where no value fits two of its parts; use anyOf",
        ),
        ({"guided_json": {"type": "string", "pattern": "("}}, "guided_json", r"at \$: .*unclosed group"),
        ({"guided_json": {"$schema": 5}}, "guided_json", r"at \$\['\$schema'\]: it is not a string"),
        (
            {"guided_json": {"items": {"type": "integer", "minimum": 10**30}}},
            "guided_json",
            r"at \$\.items: its numbers exceed 64 bits; reduce them",
        ),
        ({"guided_json": {"format": "foo"}}, "guided_json", "the format foo cannot be enforced; remove it"),
        ({"guided_json": {"if": {}, "then": {}}}, "guided_json", r"at \$: if, then cannot be enforced; remove it"),
        ({"guided_json": {"$ref": "http://x.org/a"}}, "guided_json", "http://x.org/a is outside the schema; move it"),
        ({"guided_json": "{"}, "guided_json", "guided_json is not JSON"),
        ({"guided_json": '{"items":' * 100_000}, "guided_json", "nested too deeply"),
        ({"guided_json": "null"}, "guided_json", "guided_json is not an object; give a JSON schema"),
        ({"grammar": 'start: <|im_end|> "a"'}, "grammar", "cannot be used: the library failed; simplify it"),
        ({"guided_json": [1]}, "guided_json", "give a JSON schema"),
        ({"guided_regex": "a("}, "guided_regex", "unclosed group"),
        ({"grammar": 'root ::= "a" x'}, "grammar", "The grammar cannot be used"),
        ({"grammar": "start: /a/ %bad"}, "grammar", "The grammar cannot be used"),
        ({"grammar": 'root ::= "a"', "guided_regex": "b"}, "grammar", r"several grammars \(grammar, guided_regex\)"),
        ({"guided_regex": "b", "min_tokens": 2}, "min_tokens", "min_tokens is not supported with a grammar"),
        ({"response_format": {"type": "json_schema"}}, "response_format", "has no json_schema; add it"),
        ({"response_format": {"type": "xml"}}, "response_format.type", "'text', 'json_object' or 'json_schema'"),
        ({"structured_outputs": {"regexp": "a"}}, "structured_outputs.regexp", r"regexp \(did you mean regex\?\)"),
    ],
)
def test_a_malformed_grammar_is_a_400_that_names_the_place(
    served: Served, options: Any, field: str, message: str
) -> None:
    for name in (OWN, LLAMA):
        with pytest.raises(openai.BadRequestError, match=message) as caught:
            talk(served, name, extra_body=options)
        assert caught.value.param == field
