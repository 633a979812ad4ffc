"""`/v1/responses` and `/v1/embeddings` through OpenAI's client, against chats and `transformers`."""

import json
from pathlib import Path
from typing import Any

import jsonschema
import openai
import pytest
import torch

from homegrown.export.huggingface import write_huggingface
from tests.serving.conftest import LLAMA, OWN, Served

COLOR = {
    "type": "object",
    "properties": {"color": {"enum": ["red", "blue"]}},
    "required": ["color"],
    "additionalProperties": False,
}


@pytest.mark.parametrize("name", [OWN, LLAMA])
def test_a_response_is_the_answer_of_a_chat(served: Served, name: str) -> None:
    messages: list[Any] = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why?"}]
    expected = served.client.chat.completions.create(model=name, messages=messages, temperature=0, max_tokens=30)
    given: dict[str, Any] = {"model": name, "temperature": 0, "max_output_tokens": 30, "store": False}
    parts = [{"role": "user", "content": [{"type": "input_text", "text": "Why?"}]}]
    for asked in ({"input": "Why?", "instructions": "Be brief."}, {"input": parts, "instructions": "Be brief."}):
        answer = served.client.responses.create(**given, **asked)
        assert answer.output_text == expected.choices[0].message.content
        assert answer.usage is not None and expected.usage is not None
        assert (answer.usage.input_tokens, answer.usage.output_tokens) == (expected.usage.prompt_tokens, 30)
        assert answer.status == "incomplete"
        assert answer.incomplete_details is not None and answer.incomplete_details.reason == "max_output_tokens"
    with served.client.responses.stream(**given, input="Why?", instructions="Be brief.") as stream:
        events = list(stream)
    deltas = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    assert deltas == expected.choices[0].message.content
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert events[-1].type == "response.incomplete"


def test_a_response_fits_a_schema(served: Served) -> None:
    form: Any = {"format": {"type": "json_schema", "name": "color", "schema": COLOR, "strict": True}}
    returned: Any = {"metadata": {"a": "b"}}
    unused: Any = {"tools": [], "tool_choice": "none", "parallel_tool_calls": False, "reasoning": {"effort": None}}
    answer = served.client.responses.create(model=OWN, input="x", text=form, **unused, **returned)
    jsonschema.validate(json.loads(answer.output_text), COLOR)
    assert (answer.text.format.to_dict(), answer.metadata) == (form["format"], returned["metadata"])  # type: ignore[union-attr]
    assert answer.status == "completed"
    with served.client.responses.stream(model=OWN, input="x", text=form) as stream:
        assert json.loads(stream.get_final_response().output_text).keys() == {"color"}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"tools": [{"type": "web_search"}]}, "Unsupported: tools"),
        ({"reasoning": {"effort": "low"}}, "Unsupported: reasoning"),
        ({"text": {"verbosity": "low"}}, r"Unsupported: text\.verbosity"),
        ({"input": []}, "input is an empty list; give a string, or a list of messages"),
        ({"text": {"format": {"type": "json_schema"}}}, "text.format has no schema; add it"),
        ({"previous_response_id": "resp_1"}, "Unsupported: previous_response_id"),
        ({"input": [{"type": "function_call_output", "output": "x"}]}, "of type function_call_output"),
        ({"input": [{"role": "user", "content": [{"type": "input_image"}]}]}, "Only text content"),
        ({"input": [{"role": "user", "content": [{"type": "input_text", "text": 5}]}]}, "a part without text; add it"),
        ({"input": [{"role": "user", "content": "x", "name": "y"}]}, "Unsupported: name of a message of input"),
        ({"input": [{"content": "x"}]}, "input has a message without a role; add it"),
        ({"text": {"format": {"type": "json_object", "shema": {}}}}, r"text\.format\.shema \(did you mean schema\?\)"),
        ({"input": [{"role": "tool", "content": "x"}]}, "input has an unknown role"),
        ({"input": [{"role": "user", "content": 5}]}, "input has a message without text"),
        ({"max_output_tokens": 10**6}, "the completion up to 1000000; reduce one"),
        ({"temperature": 5}, "temperature is 5; give at most 2"),
    ],
)
def test_what_a_response_cannot_have_is_a_400(served: Served, given: Any, message: str) -> None:
    with pytest.raises(openai.BadRequestError, match=message):
        served.client.responses.create(**{"model": OWN, "input": "x", **given})


def test_the_field_at_fault_is_that_of_the_request(served: Served) -> None:
    form = {"type": "json_schema", "name": "x", "schema": {"not": {}}}
    for given, field in (({"text": {"format": form}}, "text.format"), ({"input": "x" * 200}, "input")):
        with pytest.raises(openai.BadRequestError) as caught:
            served.client.responses.create(**{"model": OWN, "input": "x", **given})  # type: ignore[call-overload]
        assert caught.value.param == field


def test_an_embedding_is_the_mean_of_the_last_hidden_states(served: Served, tmp_path: Path) -> None:
    from transformers import AutoModel

    write_huggingface(served.store.resolve("pretrain").path / "model", tmp_path, "float32", "")
    theirs = AutoModel.from_pretrained(tmp_path)
    texts = ["The user", "Why is it so?"]
    answer = served.client.embeddings.create(model=OWN, input=texts)
    plain = served.client.embeddings.create(model=OWN, input=texts, encoding_format="float")
    prompts = [served.prompt(text) for text in texts]
    assert answer.usage.prompt_tokens == sum(map(len, prompts))
    for prompt, one, other in zip(prompts, answer.data, plain.data, strict=True):
        with torch.no_grad():
            mean = theirs(torch.tensor([prompt])).last_hidden_state[0].mean(0)
        expected = mean / mean.norm()
        torch.testing.assert_close(torch.tensor(one.embedding), expected, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(torch.tensor(other.embedding), expected, atol=1e-5, rtol=1e-4)
    with pytest.raises(openai.BadRequestError, match=r"llama\.cpp does not support embeddings here"):
        served.client.embeddings.create(model=LLAMA, input="x")
    with pytest.raises(openai.BadRequestError, match="maximum context length is 128 tokens"):
        served.client.embeddings.create(model=OWN, input=[9] * 129)
    for input in ("", ["x", ""], [], [[]]):
        with pytest.raises(openai.BadRequestError, match=r"input is .*; give a text, token ids, or a list of 1 to 64"):
            served.client.embeddings.create(model=OWN, input=input)
    with pytest.raises(openai.BadRequestError, match="input has the unknown token 9999"):
        served.client.embeddings.create(model=OWN, input=[9999])
    with pytest.raises(openai.BadRequestError, match="Unsupported: dimensions"):
        served.client.embeddings.create(model=OWN, input="x", dimensions=5)
