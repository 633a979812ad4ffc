"""Log-probabilities through OpenAI's client, with both engines, against torch and the text that they index."""

from typing import Any

import openai
import pytest
import torch

from homegrown.inference.generation import generate
from tests.serving.conftest import CONTEXT, LLAMA, OWN, PROMPT, TALK, Served, both


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
