"""The API through OpenAI's own client, with both engines, against the engine itself, torch and transformers."""

import asyncio
import gzip
import json
import shutil
import socket
import subprocess
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import torch
from openai import AsyncOpenAI
from openai.types import Completion
from openai.types.chat import ChatCompletion

from homegrown.export.huggingface import write_huggingface
from homegrown.inference.generation import generate
from homegrown.serving.api import application
from homegrown.tokenizer.chat import Chat, Message
from homegrown.util.guard import LOOPBACK
from tests.serving.conftest import CONTEXT, LLAMA, OWN, Served
from tests.serving.running import running, soon
from tests.waiting import wait_for

CLIENTS = 50

PROMPT = "The user"
SURROGATE = "The text has an unpaired surrogate; send valid Unicode."
TALK: list[Any] = [
    {"role": "developer", "content": "Be brief."},
    {"role": "user", "content": [{"type": "text", "text": "Wh"}, {"type": "text", "text": "y?"}]},
]
SAID = [Message("system", "Be brief."), Message("user", "Why?")]


both = pytest.mark.parametrize("name", [OWN, LLAMA])


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
def test_log_probabilities_are_the_models_own(served: Served, name: str) -> None:
    prompt = served.prompt(PROMPT)
    answer = served.client.completions.create(model=name, prompt=prompt, max_tokens=5, temperature=0, logprobs=2)
    found = answer.choices[0].logprobs
    assert found is not None and found.token_logprobs and found.top_logprobs and found.tokens and found.text_offset
    (generated,) = generate(served.model, [prompt], max_tokens=5)
    with torch.inference_mode():
        own = served.model(torch.tensor([[*prompt, *generated]])).log_softmax(-1)[0, len(prompt) - 1 : -1]
    assert found.token_logprobs == pytest.approx(
        [own[at, token].item() for at, token in enumerate(generated)], abs=1e-4
    )
    second = own.topk(2).values[:, 1].tolist()
    assert [min(top.values()) for top in found.top_logprobs] == pytest.approx(second, abs=1e-4)
    assert "".join(found.tokens) == answer.choices[0].text
    assert found.text_offset[1] == len(found.tokens[0])

    talk = served.client.chat.completions.create(
        model=name, messages=TALK, max_tokens=5, temperature=0, logprobs=True, top_logprobs=3
    )
    assert talk.choices[0].logprobs is not None
    content = talk.choices[0].logprobs.content or []
    assert b"".join(bytes(one.bytes or ()) for one in content).decode() == talk.choices[0].message.content
    assert [len(one.top_logprobs) for one in content] == [3] * 5
    assert all(one.logprob == one.top_logprobs[0].logprob for one in content)


def token_data(token: str) -> bytes:
    """Return the bytes of a token as OpenAI writes it."""
    return bytes.fromhex(token[6:].replace("\\x", "")) if token.startswith("bytes:\\x") else token.encode()


def scored(
    served: Served, choices: int, stream: bool, **asked: Any
) -> list[tuple[str, list[str], list[int], list[float], list[dict[str, float]]]]:
    """Return the text of each choice, and tokens, offsets, log-probabilities and top tokens."""
    found: Any = [("", [], [], [], []) for _ in range(choices)]
    answer = served.client.completions.create(**asked, n=choices, stream=stream)
    for piece in answer if stream else [answer]:
        for choice in piece.choices:
            text, tokens, offsets, own, top = found[choice.index]
            if given := choice.logprobs:
                tokens += given.tokens
                offsets += given.text_offset
                own += given.token_logprobs
                top += given.top_logprobs
            found[choice.index] = (text + choice.text, tokens, offsets, own, top)
    return found  # type: ignore[no-any-return]


@both
@pytest.mark.parametrize("stream", [False, True])
def test_tokens_and_offsets_index_a_text_of_any_bytes(served: Served, name: str, stream: bool) -> None:
    asked = {"model": name, "prompt": PROMPT, "max_tokens": 40, "temperature": 2, "seed": 1, "logprobs": 0}
    answers = scored(served, 8, stream, **asked)
    assert sum("\ufffd" in text for text, *_ in answers) > 4
    vocabulary = set(served.service.model(name).table)
    for text, of_text, found, *_ in answers:
        data = [token_data(token) for token in of_text]
        assert b"".join(data).decode(errors="replace") == text and set(data) <= vocabulary
        begun = [b"".join(data[:count]) + one[:1] for count, one in enumerate(data)]
        assert found == [
            len(one.decode(errors="replace")) - 1 if data[count] else found[count] for count, one in enumerate(begun)
        ]


@pytest.mark.parametrize("text", ["naïve 😀👩‍🚀!", "漢字とかな", "e\u0301a\u0308\u0323 \ufe0f"])
def test_tokens_inside_a_character_have_equal_log_probabilities_in_both_engines(served: Served, text: str) -> None:
    asked = {"prompt": PROMPT, "max_tokens": 60, "temperature": 0, "logprobs": 3}
    asked |= {"extra_body": {"guided_choice": [text]}}
    (own,) = scored(served, 1, False, model=OWN, **asked)
    assert own[0] == text and len(own[1]) > len(text)
    for stream in (False, True):
        (found,) = scored(served, 1, stream, model=LLAMA, **asked)
        assert found[:3] == own[:3]
        assert found[3] == pytest.approx(own[3], abs=1e-4)
        assert [max(top.values()) for top in found[4]] == pytest.approx([max(top.values()) for top in own[4]], abs=1e-4)
    chats = [
        served.client.chat.completions.create(
            model=name,
            messages=TALK,
            temperature=0,
            logprobs=True,
            extra_body={"guided_choice": [text]},
        )
        .choices[0]
        .logprobs
        for name in (OWN, LLAMA)
    ]
    (first, second) = [[(one.token, one.bytes) for one in (chat and chat.content) or ()] for chat in chats]
    assert first == second and b"".join(bytes(data or ()) for _, data in second).decode() == text


@both
@pytest.mark.parametrize("stream", [False, True])
def test_tokens_end_where_a_stop_string_ends_the_text(served: Served, name: str, stream: bool) -> None:
    word = served.tokenizer.token_to_id("Ġassistant")
    asked = {"model": name, "prompt": PROMPT, "max_tokens": 9, "temperature": 0, "logprobs": 1}
    asked |= {"logit_bias": {str(word): 100}}

    def answer(stop: list[str]) -> tuple[str, list[str], list[int], list[tuple[str, str]]]:
        text, tokens, offsets, pieces = "", list[str](), list[int](), list[tuple[str, str]]()
        found = served.client.completions.create(**asked, stop=stop, stream=stream)  # type: ignore[call-overload]
        for piece in found if stream else [found]:
            (choice,) = piece.choices
            of_piece = choice.logprobs.tokens if choice.logprobs else []
            text, tokens, pieces = text + choice.text, tokens + of_piece, [*pieces, (choice.text, "".join(of_piece))]
            offsets += choice.logprobs.text_offset if choice.logprobs else []
        return text, tokens, offsets, pieces

    text, tokens, offsets, pieces = answer([" never"])
    assert (text, tokens, offsets) == (" assistant" * 9, [" assistant"] * 9, list(range(0, 90, 10)))
    assert all(text == of_piece for text, of_piece in pieces)
    text, tokens, offsets, pieces = answer(["tant assistant ass", "tan assi"])
    assert (text, tokens, offsets) == (" assis", [" assis"], [0])
    assert all(text == of_piece for text, of_piece in pieces)
    assert answer([" ass"])[:3] == ("", [], [])
    talk = served.client.chat.completions.create(
        model=name,
        messages=TALK,
        max_tokens=9,
        temperature=0,
        logprobs=True,
        stop="nt a",
        extra_body={"logit_bias": {str(word): 100}},
    )
    content = talk.choices[0].logprobs.content if talk.choices[0].logprobs else None
    assert (
        [bytes(one.bytes or ()).decode() for one in content or ()]
        == [one.token for one in content or ()]
        == [" assista"]
    )
    assert talk.choices[0].message.content == " assista"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("max_tokens", [0, 1])
def test_echo_has_the_log_probabilities_of_the_prompt(served: Served, stream: bool, max_tokens: int) -> None:
    prompts = [served.prompt("The user, naïve " * 9), served.prompt("Why?")]
    assert len(prompts[0]) + max_tokens > CONTEXT - 16
    asked = {"model": OWN, "prompt": prompts, "max_tokens": max_tokens, "temperature": 0, "echo": True, "logprobs": 2}
    answer = served.client.completions.create(**asked, stream=stream)  # type: ignore[call-overload]
    texts, found = ["", ""], [dict[str, list[Any]](), dict[str, list[Any]]()]
    for piece in answer if stream else [answer]:
        for choice in piece.choices:
            texts[choice.index] += choice.text
            for key, values in (choice.logprobs.model_dump() if choice.logprobs else {}).items():
                found[choice.index].setdefault(key, []).extend(values)
    for prompt, text, of_text in zip(prompts, texts, found, strict=True):
        (generated,) = generate(served.model, [prompt], max_tokens=max_tokens) if max_tokens else ([],)
        with torch.inference_mode():
            own = served.model(torch.tensor([[*prompt, *generated]])).log_softmax(-1)[0]
        expected = [own[at, token].item() for at, token in enumerate([*prompt, *generated][1:])]
        assert text == served.tokenizer.decode([*prompt, *generated])
        assert of_text["token_logprobs"][0] is None and of_text["top_logprobs"][0] is None
        assert of_text["token_logprobs"][1:] == pytest.approx(expected, abs=1e-4)
        best = [max(top.values()) for top in of_text["top_logprobs"][1:]]
        assert best == pytest.approx(own.max(-1).values[: len(best)].tolist(), abs=1e-4)
        data = [token_data(token) for token in of_text["tokens"]]
        assert b"".join(data).decode() == text
        assert of_text["text_offset"][-1] == len(text) - len(of_text["tokens"][-1])
    if not stream:
        assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (sum(map(len, prompts)), 2 * max_tokens)
        with pytest.raises(openai.BadRequestError, match="does not support echo with logprobs; serve with"):
            served.client.completions.create(**{**asked, "model": LLAMA})  # type: ignore[call-overload]
        assert served.service.lengths()[LLAMA] == (0, 0)


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
    for field, value in (("min_tokens", 2), ("stop_token_ids", [5])):
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


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"suffix": "x"}, "suffix is not supported"),
        ({"best_of": 3}, "best_of is not supported"),
        ({"logit_bias": {"5": 101}}, "logit_bias: Give an object with token ids as names and numbers from -100 to 100"),
        ({"logit_bias": {"275": 1}}, "logit_bias has the unknown token 275; those of pretrain@1 are 0 to 274"),
        ({"stop_token_ids": [-1]}, "stop_token_ids has the unknown token -1"),
        ({"temperature": 3}, "temperature: Input should be less than or equal to 2"),
        ({"top_p": 0}, "top_p: Input should be greater than 0"),
        ({"n": 65}, "n: Input should be less than or equal to 64"),
        ({"n": 33, "prompt": ["a", "b"]}, "exceed 64 choices"),
        ({"prompt": ["a"] * 65}, "400 - prompt: Give a string, token ids, or a list of 1 to 64 of"),
        ({"prompt": 5}, "400 - prompt: Give a string, token ids, or a list of 1 to 64 of either"),
        ({"max_tokens": -1}, "max_tokens: Input should be greater than or equal to 0"),
        ({"stop": ["x"] * 17}, "400 - stop: Give a string or at most 16 strings, each of 1 to 256"),
        ({"prompt": []}, "prompt: Give a string"),
        ({"guided_choice": []}, "guided_choice: List should have at least 1 item"),
        ({"temprature": 0}, r"temprature \(did you mean temperature\?\)"),
        ({"best_off": 1, "ignore_eos": True}, r"Unsupported: best_off \(did you mean best_of\?\), ignore_eos;"),
        ({"prompt": [5, 280]}, "those of pretrain@1 are 0 to 274"),
        (
            {"prompt": "x", "max_tokens": CONTEXT},
            "length is 128 tokens, but the prompt has 2 and the completion up to 128; reduce one",
        ),
        ({"prompt": [9] * CONTEXT}, "length is 128 tokens, but the prompt has 128; shorten it"),
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
        ({"tools": [{"type": "function"}]}, r"tools\.0\.function: Field required"),
        ({"top_logprobs": 2}, "needs logprobs"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "Only text content"),
        ({"messages": [{"role": "robot", "content": "x"}]}, r"messages\.0\.role"),
        ({"messages": ["x"]}, r"messages\.0: Give an object\."),
        ({"messages": [{"role": "user", "content": 5}]}, r"messages\.0\.content: Give text, or a list of parts"),
        ({"messages": [{"role": "assistant", "tool_calls": [{"id": "1"}]}, *TALK]}, r"tool_calls\.0\.function: Field"),
        ({"functions": [{"name": "f", "parameters": {}}]}, "Unsupported: functions;"),
        ({"modalities": ["audio"]}, "modalities"),
        ({"repeat_penalty": 5.0}, r"repeat_penalty \(did you mean repetition_penalty\?\)"),
        ({"reasoning_effort": "low"}, "Unsupported: reasoning_effort;"),
        ({"continue_final_message": True}, "needs an answer to continue as the last message"),
        ({"add_generation_prompt": False}, "can be false only for an answer to continue"),
        ({"stream_options": {"include_usge": True}}, "did you mean include_usage"),
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


def test_a_missing_content_type_is_named(served: Served) -> None:
    body = json.dumps({"model": OWN, "prompt": "x"}).encode()
    for headers in ({}, {"Content-Type": "text/plain"}):
        answer = httpx.post(f"{served.url}/v1/completions", content=body, headers=headers)
        assert answer.status_code == 415 and "Content-Type" in answer.json()["error"]["message"]


def test_an_alias_is_another_name(served: Served) -> None:
    for name in ("gpt-4o-mini", "org/model", "typed"):
        assert served.client.completions.create(model=name, prompt="x", max_tokens=1).model == OWN
        assert served.client.models.retrieve(name).id == name


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


def test_other_hosts_and_origins_get_nothing(served: Served) -> None:
    address = f"{served.url}/v1/models"
    answer = httpx.get(address, headers={"Origin": served.url})
    assert answer.status_code == 200 and "access-control-allow-origin" not in answer.headers
    port = served.url.rpartition(":")[2]
    host = "The host name evil.example is refused; allow it with --allow-host evil.example."
    origin = "Requests from pages of app://evil are refused; allow them with --allow-origin app://evil."
    for headers, status, message in (
        ({"Host": "evil.example"}, 400, host),
        ({"Host": f"evil.example:{port}"}, 400, host),
        ({"Host": "<b>"}, 400, "The header Host names no host; send the address of the server."),
        ({"Origin": "app://evil"}, 403, origin),
        ({"Origin": "null"}, 403, "Requests from pages without an origin are refused; open the page from a server."),
    ):
        openai_error = {"error": {"message": message, "type": "invalid_request_error", "param": None, "code": None}}
        found = [httpx.get(f"{served.url}{path}", headers=headers) for path in ("/", "/v1/models", "/api/tags")]
        assert [one.status_code for one in found] == [status] * 3
        assert (found[0].text, found[1].json(), found[2].json()) == (message, openai_error, {"error": message})


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:80", "[::1]", "[::1]:8080", "127.0.0.1:1"])
def test_this_machine_has_several_names(served: Served, host: str) -> None:
    with running(application(served.service, key=None, hosts=LOOPBACK)) as url:
        assert httpx.get(f"{url}/health", headers={"Host": host}).status_code == 200


def test_a_proxy_and_a_page_of_another_origin_can_be_allowed(served: Served) -> None:
    origins = ["https://llm.example.org", "app://obsidian.md", "chrome-extension://abc"]
    app = application(served.service, key="secret", hosts=["127.0.0.1", "llm.example.org"], origins=origins)
    with running(app) as url:
        body, key = {"model": OWN, "prompt": "x", "max_tokens": 1}, {"Authorization": "Bearer secret"}

        def status(**headers: str) -> int:
            return httpx.post(f"{url}/v1/completions", json=body, headers={**key, **headers}).status_code

        assert status(Host="llm.example.org", Origin="https://llm.example.org") == 200
        assert status(Host="llm.example.org:8443", Origin="https://llm.example.org:8443") == 200
        assert [status(Origin=origin) for origin in origins] == [200] * 3
        assert status(Host="evil.example") == 400
        assert status(Origin="https://evil.example") == status(Origin="null") == 403
        answer = httpx.get(f"{url}/v1/models", headers={**key, "Origin": origins[1]})
        assert answer.headers["access-control-allow-origin"] == origins[1]
        asked = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
        preflight = httpx.options(f"{url}/v1/completions", headers={"Origin": origins[1], **asked})
        assert preflight.status_code == 200 and preflight.headers["access-control-allow-origin"] == origins[1]
        assert "authorization" in preflight.headers["access-control-allow-headers"].lower()
        assert (
            httpx.options(f"{url}/v1/completions", headers={"Origin": "https://evil.example", **asked}).status_code
            == 403
        )


@pytest.mark.slow
@pytest.mark.skipif(not (shutil.which("nginx") and shutil.which("openssl")), reason="nginx or openssl is not installed")
def test_nginx_with_tls_passes_the_page_and_the_api(served: Served, tmp_path: Path) -> None:
    """The configuration of docs/serving.md, and one that replaces the Host header."""
    certificate = ["-keyout", "key.pem", "-out", "cert.pem", "-days", "2", "-subj", "/CN=llm.example.org"]
    subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", *certificate], cwd=tmp_path, check=True)
    app = application(
        served.service, key=None, hosts=["127.0.0.1", "llm.example.org"], origins=["https://other.example.org"]
    )
    ports = []
    for _ in range(2):
        with socket.create_server(("127.0.0.1", 0)) as free:
            ports.append(free.getsockname()[1])
    with running(app) as url:
        kept = "proxy_set_header Host $http_host; proxy_set_header X-Forwarded-Proto $scheme; proxy_buffering off;"
        servers = "".join(
            f"server {{ listen 127.0.0.1:{port} ssl; location / {{ proxy_pass {url}; {headers} }} }}"
            for port, headers in zip(ports, (kept, ""), strict=True)
        )
        paths = " ".join(f"{name}_temp_path {tmp_path}/{name};" for name in ("proxy", "fastcgi", "uwsgi", "scgi"))
        (tmp_path / "nginx.conf").write_text(
            f"daemon off; pid {tmp_path}/pid; error_log {tmp_path}/log; events {{}} http {{ access_log off; {paths}"
            f"client_body_temp_path {tmp_path}/body; ssl_certificate {tmp_path}/cert.pem;"
            f"ssl_certificate_key {tmp_path}/key.pem; {servers} }}"
        )
        proxy = subprocess.Popen(["nginx", "-p", str(tmp_path), "-c", "nginx.conf", "-e", str(tmp_path / "log")])
        try:
            for port, host in zip(ports, ("llm.example.org", "other.example.org"), strict=True):
                headers = {"Host": host, "Origin": f"https://{host}"}
                get = partial(httpx.get, verify=False, headers=headers)
                address = f"https://127.0.0.1:{port}"
                wait_for(lambda get=get, address=address: _status(get, f"{address}/") == 200)
                assert get(f"{address}/v1/models").json()["data"][0]["id"] == OWN
                assert get(f"{address}/page/models").json()["models"][0]["name"] == OWN
                evil = httpx.get(
                    f"{address}/v1/models", verify=False, headers={**headers, "Origin": "https://evil.example"}
                )
                assert evil.status_code == 403
        finally:
            proxy.terminate()
            proxy.wait()


def _status(get: Callable[[str], httpx.Response], address: str) -> int | None:
    try:
        return get(address).status_code
    except httpx.TransportError:
        return None


def test_a_huge_body_is_refused(served: Served) -> None:
    body = json.dumps({"model": OWN, "prompt": "x" * 4_000_000})
    answer = httpx.post(f"{served.url}/v1/completions", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 413 and "shorten it" in answer.json()["error"]["message"]


@both
def test_a_disconnect_frees_the_row(served: Served, name: str) -> None:
    body = {"model": name, "prompt": "x", "max_tokens": CONTEXT - 10, "stream": True, "n": 16}
    with httpx.stream("POST", f"{served.url}/v1/completions", json=body) as answer:
        next(answer.iter_lines())
    soon(lambda: served.service.lengths()[name] == (0, 0))
    expected = served.expected(served.prompt(PROMPT), 5)
    after = served.client.completions.create(model=name, prompt=PROMPT, max_tokens=5, temperature=0)
    assert after.choices[0].text == expected
