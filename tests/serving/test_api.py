"""The API through OpenAI's own client, with both engines, against the engine itself, torch and transformers."""

import asyncio
import warnings
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import torch
from openai import AsyncOpenAI

from homegrown.export.huggingface import write_huggingface
from homegrown.inference.generation import generate
from homegrown.serving.service import Model, Service
from homegrown.tokenizer.chat import Chat, Message
from tests.serving.conftest import CONTEXT, LLAMA, OWN, PROMPT, TALK, Served, both
from tests.serving.running import soon

CLIENTS = 50

SAID = [Message("system", "Be brief."), Message("user", "Why?")]


def test_the_models_are_listed(served: Served) -> None:
    assert [one.id for one in served.client.models.list()] == [OWN, LLAMA, "gpt-4o-mini", "org/model"]
    assert served.client.models.retrieve(LLAMA).created == 2
    with pytest.raises(openai.NotFoundError, match="is not served; use one of pretrain@1") as caught:
        served.client.models.retrieve("gpt-4")
    assert caught.value.code == "model_not_found"
    with pytest.raises(openai.NotFoundError):
        served.client.completions.create(model="gpt-4", prompt="x")


@both
def test_a_completion_is_the_engines_output(served: Served, name: str) -> None:
    prompt = served.prompt(PROMPT)
    expected = served.expected(prompt, 40)
    assert len(expected) > 40
    for given in (PROMPT, prompt):
        answer = served.client.completions.create(model=name, prompt=given, max_tokens=40, temperature=0)
        assert answer.choices[0].text == expected
        assert answer.choices[0].finish_reason == "length"
        assert answer.usage is not None
        assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (len(prompt), 40)
    echoed = served.client.completions.create(model=name, prompt=prompt[1:], max_tokens=1, temperature=0, echo=True)
    assert echoed.choices[0].text.startswith(PROMPT)


@both
def test_a_completion_is_that_of_transformers(served: Served, name: str, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    write_huggingface(served.store.resolve("pretrain").path / "model", tmp_path, "float32", "")
    theirs, tokenizer = AutoModelForCausalLM.from_pretrained(tmp_path), AutoTokenizer.from_pretrained(tmp_path)
    given = tokenizer(PROMPT, return_tensors="pt")
    written = theirs.generate(**given, max_new_tokens=40, do_sample=False)[0, given["input_ids"].shape[1] :]
    answer = served.client.completions.create(model=name, prompt=PROMPT, max_tokens=40, temperature=0)
    assert answer.choices[0].text == tokenizer.decode(written, skip_special_tokens=True)


@both
def test_a_chat_follows_the_template(served: Served, name: str) -> None:
    prompt = Chat(served.tokenizer).encode(SAID, reply=True)
    answer = served.client.chat.completions.create(
        model=name, messages=TALK, max_completion_tokens=30, temperature=0, user="me", store=False, tool_choice="none"
    )
    assert answer.choices[0].message.content == served.expected(prompt, 30)
    assert answer.choices[0].message.role == "assistant"
    assert answer.usage is not None and answer.usage.prompt_tokens == len(prompt)
    whole = served.client.chat.completions.create(model=name, messages=TALK, temperature=0)
    assert whole.usage is not None and whole.usage.total_tokens == CONTEXT


@both
def test_a_stream_is_the_same_in_chunks(served: Served, name: str) -> None:
    text = served.expected(served.prompt(PROMPT), 30)
    pieces = list(
        served.client.completions.create(
            model=name,
            prompt=PROMPT,
            max_tokens=30,
            temperature=0,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    assert "".join(piece.choices[0].text for piece in pieces[:-1]) == text
    assert len(pieces) > 20
    assert [piece.choices[0].finish_reason for piece in pieces[:-1]] == [None] * (len(pieces) - 2) + ["length"]
    assert pieces[-1].choices == [] and pieces[-1].usage is not None and pieces[-1].usage.completion_tokens == 30
    talk = list(
        served.client.chat.completions.create(model=name, messages=TALK, max_tokens=30, temperature=0, stream=True)
    )
    assert talk[0].choices[0].delta.role == "assistant"
    expected = served.expected(Chat(served.tokenizer).encode(SAID, reply=True), 30)
    assert "".join(piece.choices[0].delta.content or "" for piece in talk) == expected
    assert talk[-1].choices[0].finish_reason == "length" and talk[-1].usage is None
    body = {"model": name, "prompt": PROMPT, "stream": True}
    assert httpx.post(f"{served.url}/v1/completions", json=body).text.endswith("data: [DONE]\n\n")


@both
def test_a_stop_string_ends_the_text_and_is_not_in_it(served: Served, name: str) -> None:
    text = served.expected(served.prompt(PROMPT), 40)
    stop = text[20:24]
    for given in (stop, ["never to be seen", stop]):
        answer = served.client.completions.create(model=name, prompt=PROMPT, max_tokens=40, temperature=0, stop=given)
        assert answer.choices[0].text == text[: text.index(stop)]
        assert answer.choices[0].finish_reason == "stop"


@both
def test_the_end_of_a_document_ends_the_text(served: Served, name: str) -> None:
    answer = served.client.completions.create(
        model=name, prompt=PROMPT, max_tokens=CONTEXT - 20, temperature=2, n=16, seed=1
    )
    ended = [choice for choice in answer.choices if choice.finish_reason == "stop"]
    assert ended and not any("</s>" in choice.text or "<|im_end|>" in choice.text for choice in answer.choices)


@both
def test_max_tokens_0_generates_nothing(served: Served, name: str) -> None:
    answer = served.client.completions.create(model=name, prompt=[[9] * CONTEXT], max_tokens=0)
    assert (answer.choices[0].text, answer.choices[0].finish_reason) == ("", "length")


@both
def test_logit_bias_changes_the_choice(served: Served, name: str) -> None:
    prompt = served.prompt(PROMPT)
    (greedy,) = generate(served.model, [prompt], max_tokens=5)
    with torch.inference_mode():
        second = served.model(torch.tensor([prompt]))[0, -1].topk(2).indices[1].item()
    asked = {"model": name, "prompt": PROMPT, "max_tokens": 1, "temperature": 0}
    banned = served.client.completions.create(**asked, logit_bias={str(greedy[0]): -100})  # type: ignore[call-overload]
    assert banned.choices[0].text == served.tokenizer.decode([second])
    forced = served.client.completions.create(**asked, logit_bias={"50": 100})  # type: ignore[call-overload]
    assert forced.choices[0].text == served.tokenizer.decode([50])
    neutral = served.client.completions.create(**asked, logit_bias={})  # type: ignore[call-overload]
    assert neutral.choices[0].text == served.tokenizer.decode(greedy[:1])


def test_min_tokens_and_stop_token_ids(served: Served) -> None:
    text = served.expected(served.prompt(PROMPT), 20)
    (ids,) = generate(served.model, [served.prompt(PROMPT)], max_tokens=20)
    asked = {"model": OWN, "prompt": PROMPT, "max_tokens": 20, "temperature": 0}

    def answer(stop: Any = None, **more: Any) -> tuple[str, str]:
        (choice,) = served.client.completions.create(**asked, stop=stop, extra_body=more).choices  # type: ignore[call-overload]
        return choice.text, choice.finish_reason

    last = ids.index(ids[8])
    assert answer(stop_token_ids=[ids[8]]) == (served.tokenizer.decode(ids[:last]), "stop")
    assert answer(stop=text[2]) == (text[: text.index(text[2])], "stop")
    waited = answer(stop=text[2], min_tokens=3)
    assert waited[0].startswith(text[:3])
    assert len(answer(stop_token_ids=[ids[0]])[0]) == 0
    # A banned stop token gives way to another one, so the text is no longer the greedy one.
    longer = served.client.completions.create(**asked, extra_body={"stop_token_ids": [ids[0]], "min_tokens": 6})  # type: ignore[call-overload]
    assert longer.usage.completion_tokens >= 6 and served.tokenizer.decode([ids[0]]) not in longer.choices[0].text[:6]
    for field, value in (("min_tokens", 2), ("stop_token_ids", [5]), ("stop", "\ufffd")):
        with pytest.raises(openai.BadRequestError, match=f"llama.cpp does not support {field}"):
            served.client.completions.create(model=LLAMA, prompt="x", extra_body={field: value})


@both
def test_a_last_message_of_the_assistant_is_continued(served: Served, name: str) -> None:
    talk = [*TALK, {"role": "assistant", "content": "It is <|im_end|> b"}]
    chat = Chat(served.tokenizer)
    begun = chat.encode(SAID, reply=True) + served.tokenizer.encode("It is <|im_end|> b", add_special_tokens=False).ids
    assert served.tokenizer.token_to_id("<|im_end|>") not in begun[-8:]
    asked = {"model": name, "messages": talk, "max_tokens": 12, "temperature": 0}
    for fields in ({}, {"continue_final_message": True, "add_generation_prompt": False}):
        answer = served.client.chat.completions.create(**asked, extra_body=fields)  # type: ignore[call-overload]
        assert answer.choices[0].message.content == served.expected(begun, 12)
        assert answer.usage.prompt_tokens == len(begun)
    for fields in ({"continue_final_message": False}, {"add_generation_prompt": True}):
        turn = chat.encode([*SAID, Message("assistant", "It is <|im_end|> b")], reply=True)
        answer = served.client.chat.completions.create(**asked, extra_body=fields)  # type: ignore[call-overload]
        assert answer.usage.prompt_tokens == len(turn)


def test_tokenize_and_detokenize(served: Served) -> None:
    def post(path: str, **body: Any) -> dict[str, Any]:
        return httpx.post(f"{served.url}/{path}", json=body).json()  # type: ignore[no-any-return]

    text = "The user: naïve 🌱"
    found = post("tokenize", model=OWN, prompt=text)
    assert found == {"count": len(served.prompt(text)), "max_model_len": CONTEXT, "tokens": served.prompt(text)}
    assert post("tokenize", prompt=text, add_special_tokens=False)["tokens"] == served.prompt(text)[1:]
    assert post("detokenize", model=OWN, tokens=found["tokens"]) == {"prompt": text}
    assert post("tokenize", messages=TALK)["tokens"] == Chat(served.tokenizer).encode(SAID, reply=True)
    assert "unknown token 9999" in post("detokenize", tokens=[9999])["error"]["message"]
    assert "either prompt or messages" in post("tokenize")["error"]["message"]


@both
def test_a_seed_repeats_the_output(served: Served, name: str) -> None:
    def texts(**asked: Any) -> list[str]:
        answer = served.client.completions.create(
            model=name, prompt=PROMPT, max_tokens=20, extra_body={"top_k": 50, "min_p": 0.01}, **asked
        )
        return [choice.text for choice in answer.choices]

    assert texts(seed=4) == texts(seed=4) != texts(seed=5)
    assert texts(seed=4, n=3) == texts(seed=4, n=3)
    assert len(set(texts(seed=4, n=3))) == 3
    assert texts() != texts()
    several = served.client.completions.create(model=name, prompt=[PROMPT, "An"], max_tokens=9, temperature=0, n=2)
    first, second = (served.expected(served.prompt(text), 9) for text in (PROMPT, "An"))
    assert [choice.text for choice in several.choices] == [first, first, second, second]


@both
def test_a_temperature_of_nearly_nothing_is_greedy(served: Served, name: str) -> None:
    texts = [
        served.client.completions.create(model=name, prompt=PROMPT, max_tokens=8, temperature=value, seed=3)
        for value in (0, 1e-40)
    ]
    assert texts[0].choices[0].text == texts[1].choices[0].text


@both
def test_many_prompts_are_one_request(served: Served, name: str) -> None:
    """LangChain sends 20 prompts a request."""
    prompts = [f"user {number}" for number in range(32)]
    answer = served.client.completions.create(model=name, prompt=prompts[:20], max_tokens=2, temperature=0)
    assert [one.text for one in answer.choices] == [served.expected(served.prompt(one), 2) for one in prompts[:20]]
    assert len(served.client.completions.create(model=name, prompt=prompts, max_tokens=1, n=2).choices) == 64


def test_head_and_other_methods(served: Served) -> None:
    for path in ("health", "metrics", "v1/models", f"v1/models/{OWN}"):
        found, head = httpx.get(f"{served.url}/{path}"), httpx.head(f"{served.url}/{path}")
        assert (head.status_code, head.content) == (200, b"")
        assert head.headers["content-type"] == found.headers["content-type"]
        refused = httpx.post(f"{served.url}/{path}", json={})
        assert (refused.status_code, refused.headers["allow"]) == (405, "GET, HEAD")
    page = httpx.post(f"{served.url}/")
    assert (page.status_code, httpx.head(f"{served.url}/").status_code) == (405, 200)
    assert page.json()["error"]["message"] == "/ does not take POST; use GET, HEAD."
    refused = httpx.get(f"{served.url}/v1/chat/completions")
    assert (refused.status_code, refused.headers["allow"]) == (405, "POST")
    assert refused.json()["error"]["message"] == "/v1/chat/completions does not take GET; use POST."
    for method in ("GET", "POST"):
        missing = httpx.request(method, f"{served.url}/v1/audio/speech")
        assert missing.status_code == 404
        assert missing.json()["error"]["message"] == "The path /v1/audio/speech does not exist; see /openapi.json."
    without_v1 = httpx.post(f"{served.url}/chat/completions", json={}).json()["error"]["message"]
    assert without_v1 == "The path /chat/completions does not exist; OpenAI's API has /v1/chat/completions."
    with pytest.raises(openai.NotFoundError, match="/v1/moderations does not exist"):
        served.client.moderations.create(model=OWN, input="x")


def test_an_alias_is_another_name(served: Served) -> None:
    for name in ("gpt-4o-mini", "org/model", "typed"):
        assert served.client.completions.create(model=name, prompt="x", max_tokens=1).model == OWN
        assert served.client.models.retrieve(name).id == name
    service = Service([Model("m", 0), Model("m:q8_0", 0)], queue=0, aliases={"a": "m", "b:latest": "m:q8_0"})
    found = [service.model(name).name for name in ("m:latest", "a", "a:latest", "b", "b:latest", "m:q8_0:latest")]
    assert found == ["m", "m", "m", "m:q8_0", "m:q8_0", "m:q8_0"]


def test_openapi_json_describes_each_route_once(served: Served) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        paths = httpx.get(f"{served.url}/openapi.json").json()["paths"]
    assert paths["/v1/models"].keys() == {"get"} and "/v1/chat/completions" in paths


@both
def test_fifty_clients_each_get_their_own_answer(served: Served, name: str) -> None:
    def asked(number: int) -> dict[str, Any]:
        sampling = {"temperature": 0} if number % 2 else {"temperature": 1, "seed": number}
        return {"model": name, "prompt": f"user {number}", "max_tokens": 10 + number % 20, **sampling}

    async def one(client: AsyncOpenAI, number: int) -> str:
        if number % 3:
            return (await client.completions.create(**asked(number))).choices[0].text
        stream = await client.completions.create(**asked(number), stream=True)
        return "".join([piece.choices[0].text async for piece in stream])

    async def all_at_once() -> list[str]:
        async with AsyncOpenAI(base_url=f"{served.url}/v1", api_key="any", max_retries=0) as client:
            return await asyncio.gather(*[one(client, number) for number in range(CLIENTS)])

    alone = [served.client.completions.create(**asked(number)).choices[0].text for number in range(CLIENTS)]
    assert asyncio.run(all_at_once()) == alone
    assert served.service.lengths()[name] == (0, 0)


def test_the_metrics_count_requests_and_tokens(served: Served) -> None:
    served.client.completions.create(model=OWN, prompt="x", max_tokens=3, temperature=0)
    with pytest.raises(openai.BadRequestError):
        served.client.completions.create(model=OWN, prompt="x", max_tokens=-1)
    text = httpx.get(f"{served.url}/metrics").text
    assert f'homegrown_running_rows{{model="{OWN}"}} 0.0' in text
    assert 'homegrown_requests_total{route="/v1/completions",status="400"}' in text
    for name in ("prompt_tokens_total", "generated_tokens_total", "time_to_first_token_seconds_count"):
        assert f'homegrown_{name}{{model="{OWN}"}}' in text


def test_health_is_ok(served: Served) -> None:
    assert httpx.get(f"{served.url}/health").json()["status"] == "ok"


@both
def test_a_disconnect_frees_the_row(served: Served, name: str) -> None:
    body = {"model": name, "prompt": "x", "max_tokens": CONTEXT - 10, "stream": True, "n": 16}
    with httpx.stream("POST", f"{served.url}/v1/completions", json=body) as answer:
        next(answer.iter_lines())
    soon(lambda: served.service.lengths()[name] == (0, 0))
    expected = served.expected(served.prompt(PROMPT), 5)
    after = served.client.completions.create(model=name, prompt=PROMPT, max_tokens=5, temperature=0)
    assert after.choices[0].text == expected
