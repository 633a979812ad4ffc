"""The API key, the queue, and the answers while a model loads, after it fails, and when a client disconnects."""

import asyncio
import base64
import threading
from collections.abc import Callable, Iterator
from types import SimpleNamespace

import httpx
import openai
import pytest
from openai import OpenAI
from tokenizers import Tokenizer

from homegrown.inference import engine
from homegrown.inference.engine import Request
from homegrown.inference.streaming import Chunk
from homegrown.model.transformer import Transformer
from homegrown.serving import own_engine
from homegrown.serving.api import application
from homegrown.serving.own_engine import OwnEngine
from homegrown.serving.refusal import Refused
from homegrown.serving.service import Model, Service
from homegrown.tokenizer.chat import Chat
from tests.serving.running import Silent, running, soon
from tests.waiting import wait_for

KEY = "a-long-secret"
BODY = {"model": "silent", "prompt": "x", "max_tokens": 5}


@pytest.fixture
def silent(tokenizer: Tokenizer) -> Iterator[tuple[Silent, Service, str]]:
    """A server with a key, a queue of 1, and an engine that generates only what a test delivers."""
    service, engine = Service([Model("silent", 0), Model("late", 0)], queue=1, system="Be brief."), Silent()
    service.ready("silent", engine, Chat(tokenizer))
    with running(application(service, key=KEY, hosts=["127.0.0.1"])) as url:
        yield engine, service, url


def client(url: str, key: str = KEY) -> OpenAI:
    return OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0)


def test_the_key_is_required(silent: tuple[Silent, Service, str]) -> None:
    _, _, url = silent
    for wrong in ("wrong", KEY[:-1], KEY + "x"):
        with pytest.raises(openai.AuthenticationError, match="missing or wrong"):
            client(url, wrong).models.list()
    assert [one.id for one in client(url).models.list()] == ["silent", "late"]
    assert httpx.get(f"{url}/metrics").status_code == 401
    page = httpx.get(url)
    assert page.status_code == 401 and page.headers["www-authenticate"].startswith("Basic")
    assert page.text == "The API key is missing or wrong; send the key of the server."
    assert httpx.get(f"{url}/api/tags").json() == {"error": page.text}
    assert httpx.get(url, auth=("me", "wrong")).status_code == 401
    assert httpx.get(url, auth=("me", KEY)).status_code == 200
    assert httpx.get(f"{url}/health").status_code == 503


@pytest.mark.parametrize("key", ["Schlüssel-鍵", "\u00e9"])
def test_a_key_is_any_utf8(tokenizer: Tokenizer, key: str) -> None:
    with running(application(Service([Model("late", 0)], queue=1), key=key, hosts=["127.0.0.1"])) as url:

        def status(scheme: str, sent: bytes) -> int:
            headers = [(b"Authorization", scheme.encode() + b" " + sent)]
            return httpx.get(f"{url}/v1/models", headers=headers).status_code

        assert status("Bearer", key.encode()) == 200
        assert status("Basic", base64.b64encode(b"me:" + key.encode())) == 200
        for wrong in (key.encode()[:-1], b"\xff\xfe"):
            assert status("Bearer", wrong) == status("Basic", base64.b64encode(b"me:" + wrong)) == 401


def test_a_full_queue_is_a_429(silent: tuple[Silent, Service, str]) -> None:
    engine, service, url = silent
    streams = [client(url).completions.create(**BODY, stream=True) for _ in range(3)]
    soon(lambda: len(engine.requests) == 3)
    with pytest.raises(openai.RateLimitError, match=r"The queue of silent is full \(3 requests\)") as caught:
        client(url).completions.create(**BODY)
    assert caught.value.response.headers["retry-after"] == "1"
    assert service.lengths()["silent"] == (2, 1)
    metrics = httpx.get(f"{url}/metrics", auth=("", KEY)).text
    assert 'homegrown_queue_length{model="silent"} 1.0' in metrics
    engine.deliveries[0](Chunk("Yes", (), 1, "stop", 0.1))
    assert [piece.choices[0].text for piece in streams[0]] == ["Yes"]
    client(url).completions.create(**BODY, stream=True)


def test_a_request_beyond_the_queue_says_so(silent: tuple[Silent, Service, str]) -> None:
    _, _, url = silent
    with pytest.raises(openai.BadRequestError, match="4 choices exceed this server's 3 at a time; reduce them, or"):
        client(url).completions.create(**{**BODY, "prompt": ["x"] * 4})  # type: ignore[call-overload]


@pytest.mark.parametrize("stream", [True, False])
def test_a_disconnect_cancels_the_requests(silent: tuple[Silent, Service, str], stream: bool) -> None:
    engine, service, url = silent
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(
            f"{url}/v1/completions",
            json={**BODY, "n": 2, "stream": stream},
            headers={"Authorization": f"Bearer {KEY}"},
            timeout=httpx.Timeout(30, read=0.5),
        )
    soon(lambda: engine.cancelled == 2)
    assert service.lengths()["silent"] == (0, 0)


def test_n_choices_are_submitted_all_or_none(silent: tuple[Silent, Service, str]) -> None:
    engine, service, url = silent
    held = client(url).completions.create(**BODY, stream=True)  # a stream that nobody holds is closed, and cancelled
    with pytest.raises(openai.RateLimitError):
        client(url).completions.create(**BODY, n=3)
    assert len(engine.requests) == 1 and service.lengths()["silent"] == (1, 0)
    held.close()


def test_chunks_that_come_faster_than_they_are_sent_are_all_sent_in_order(silent: tuple[Silent, Service, str]) -> None:
    engine, _, url = silent
    stream = client(url).completions.create(**BODY, n=2, stream=True)
    soon(lambda: len(engine.deliveries) == 2)

    def deliver(index: int) -> None:
        for number in range(300):
            engine.deliveries[index](Chunk(f"{number} ", (), number + 1, None, 0.1))
        engine.deliveries[index](Chunk("\u00e9\n", (), 301, "length", 0.1) if index else Refused("Enough.", "stopping"))

    texts = ["", ""]
    other = threading.Thread(target=deliver, args=(1,))
    other.start()
    other.join()
    deliver(0)
    with pytest.raises(openai.APIError, match="Enough"):
        for piece in stream:
            texts[piece.choices[0].index] += piece.choices[0].text
    numbers = "".join(f"{number} " for number in range(300))
    assert texts == [numbers, f"{numbers}\u00e9\n"]


def test_the_servers_system_message_comes_first(silent: tuple[Silent, Service, str], tokenizer: Tokenizer) -> None:
    engine, _, url = silent
    user = {"role": "user", "content": "Why?"}
    for messages in ([user], [{"role": "system", "content": "Sing."}, user]):
        client(url).chat.completions.create(model="silent", messages=messages, stream=True)  # type: ignore[call-overload]
    soon(lambda: len(engine.requests) == 2)
    first, second = (tokenizer.decode(request.prompt_ids) for request in engine.requests)
    assert first == "system\nBe brief.\nuser\nWhy?\nassistant\n"
    assert second == "system\nSing.\nuser\nWhy?\nassistant\n"


def test_a_loading_model_is_a_503(silent: tuple[Silent, Service, str], tokenizer: Tokenizer) -> None:
    _, service, url = silent
    with pytest.raises(openai.InternalServerError, match="late is loading") as caught:
        client(url).completions.create(model="late", prompt="x")
    assert caught.value.status_code == 503 and caught.value.response.headers["retry-after"] == "1"
    assert httpx.get(f"{url}/health").json() == {"status": "loading", "models": {"silent": "ready", "late": "loading"}}
    service.ready("late", Silent(), Chat(tokenizer))
    assert httpx.get(f"{url}/health").json()["status"] == "ok"


def test_stopping_ends_the_requests(silent: tuple[Silent, Service, str]) -> None:
    engine, service, url = silent
    stream = client(url).completions.create(**BODY, stream=True)
    soon(lambda: len(engine.requests) == 1)
    engine.deliveries[0](Chunk("Yes", (), 1, None, 0.1))
    assert next(stream).choices[0].text == "Yes"
    asked = {"model": "silent", "messages": [{"role": "user", "content": "x"}]}
    with httpx.stream("POST", f"{url}/api/chat", json=asked, auth=("me", KEY)) as other:
        service.stop()
        assert other.read() == b'{"error":"The server was stopped."}\n'
    with pytest.raises(openai.APIError, match="The server was stopped"):
        next(stream)


def test_a_failed_engine_is_reported(model: Transformer, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    def out_of_memory(_: engine.Engine) -> None:
        raise RuntimeError("CUDA out of memory")

    monkeypatch.setattr(engine.Engine, "step", out_of_memory)
    service = Service([Model("silent", 0)], queue=1)
    own = OwnEngine(model, Chat(tokenizer), rows=1, context=None, fail=lambda why: service.failed("silent", why))
    service.ready("silent", own, Chat(tokenizer))
    with running(application(service, key=None, hosts=["127.0.0.1"])) as url:
        with pytest.raises(openai.InternalServerError, match="see its log"):
            client(url).completions.create(**BODY)  # type: ignore[call-overload]
        health = httpx.get(f"{url}/health")
        assert health.status_code == 503 and health.json()["status"] == "failed"
        with pytest.raises(openai.InternalServerError, match="CUDA out of memory"):
            client(url).completions.create(**BODY)  # type: ignore[call-overload]
    service.close()


def test_a_failed_engine_takes_no_more_requests(
    model: Transformer, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def out_of_memory(_: engine.Engine) -> None:
        raise RuntimeError("CUDA out of memory")

    monkeypatch.setattr(engine.Engine, "step", out_of_memory)
    own = OwnEngine(model, Chat(tokenizer), rows=1, context=None, fail=print)
    delivered = list[object]()
    own.submit(Request(prompt_ids=[50], max_tokens=1), delivered.append)
    wait_for(lambda: delivered)
    assert isinstance(delivered[0], RuntimeError)
    with pytest.raises(Refused, match="CUDA out of memory"):
        own.submit(Request(prompt_ids=[50], max_tokens=1), delivered.append)
    own.close()


def test_a_request_that_cannot_be_computed_leaves_the_others(model: Transformer, tokenizer: Tokenizer) -> None:
    """An empty prompt, as of a chat template that renders a message without text as nothing."""
    own = OwnEngine(model, Chat(tokenizer), rows=1, context=None, fail=print)
    delivered, done = list[Chunk | Exception](), threading.Event()

    def last(chunk: Chunk | Exception) -> None:
        delivered.append(chunk)
        done.set()

    own.submit(Request(prompt_ids=[], max_tokens=1), delivered.append)
    own.submit(Request(prompt_ids=[50], max_tokens=1), last)
    done.wait()
    own.close()
    assert isinstance(delivered[0], Refused) and "The prompt is empty" in str(delivered[0])
    assert isinstance(delivered[1], Chunk) and delivered[1].finish_reason == "length"


def test_a_cancelled_request_leaves_the_queue_at_once(
    model: Transformer, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    busy, begun = threading.Event(), threading.Event()

    def step(_: engine.Engine) -> dict[object, object]:
        begun.set()
        busy.wait()
        return {}

    monkeypatch.setattr(engine.Engine, "step", step)
    own = OwnEngine(model, Chat(tokenizer), rows=1, context=None, fail=print)
    own.submit(Request(prompt_ids=[50], max_tokens=1), print)
    begun.wait()
    cancels = [own.submit(Request(prompt_ids=[50], max_tokens=1), print) for _ in range(3)]
    for cancel in cancels:
        cancel()
    assert not own._waiting
    busy.set()
    own.close()


def test_a_long_prompt_is_read_beside_other_requests(
    silent: tuple[Silent, Service, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, service, url = silent
    begun, free = threading.Event(), threading.Event()

    def slow(*given: object, **options: object) -> list[int]:
        begun.set()
        free.wait()
        return [50]

    monkeypatch.setattr(service, "encode", slow)
    asking = threading.Thread(target=lambda: client(url).completions.create(**BODY))  # type: ignore[call-overload]
    asking.start()
    begun.wait()
    assert httpx.get(f"{url}/health", timeout=30).status_code == 503  # one model is late
    free.set()
    soon(lambda: len(engine.requests) == 1)
    engine.deliveries[0](Chunk("Yes", (), 1, "stop", 0.1))
    asking.join()


def test_others_continue_while_a_long_prompt_is_prefilled(
    model: Transformer, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A prompt of 100 tokens comes with the first token of another request; in chunks of 8, it takes 13 steps."""
    monkeypatch.setattr(own_engine, "_CPU_CHUNK", 8)
    own = OwnEngine(model, Chat(tokenizer), rows=2, context=None, fail=print)
    long = [token + 20 for token in range(100)]
    generated, at_first, done = [0], list[int](), threading.Event()

    def late(chunk: object) -> None:
        at_first.append(generated[0])
        done.set()

    def early(chunk: object) -> None:
        generated[0] += 1
        if generated[0] == 1:
            own.submit(Request(prompt_ids=long, max_tokens=1), late)

    own.submit(Request(prompt_ids=[50, 60], max_tokens=60), early)
    done.wait()
    own.close()
    assert at_first[0] in (13, 14)  # the order within a step is not defined


def test_a_disconnect_ends_the_reading_of_a_prompt(
    model: Transformer, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A prompt of 100 tokens in chunks of 8, whose client goes after the third."""
    monkeypatch.setattr(own_engine, "_CPU_CHUNK", 8)
    own = OwnEngine(model, Chat(tokenizer), rows=1, context=None, fail=print)
    chunks, prefill, given = [0], own._engine._prefill, threading.Event()
    cancels = list[Callable[[], None]]()

    def counted() -> object:
        given.wait()
        chunks[0] += 1
        if chunks[0] == 3:
            cancels[0]()
        return prefill()

    monkeypatch.setattr(own._engine, "_prefill", counted)
    cancels.append(own.submit(Request(prompt_ids=[token + 20 for token in range(100)], max_tokens=1), print))
    given.set()
    soon(lambda: own.running() == 0 and not own._waiting and chunks[0] > 0)
    assert chunks[0] == 3
    done = threading.Event()
    own.submit(Request(prompt_ids=[50, 60], max_tokens=1), lambda chunk: done.set())
    done.wait()
    own.close()


def test_the_thread_of_an_idle_engine_ends_and_another_goes_on(
    model: Transformer, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thread that has computed keeps OpenMP's threads, which slow the other models'."""
    monkeypatch.setattr(own_engine, "_IDLE_SECONDS", 0.05)
    own = OwnEngine(model, Chat(tokenizer), rows=1, context=None, fail=print)
    texts = list[str]()
    for _ in range(2):
        chunks = list[Chunk]()
        own.submit(Request(prompt_ids=[50, 60], max_tokens=5), chunks.append)  # type: ignore[arg-type]
        wait_for(lambda: chunks and chunks[-1].finish_reason)  # noqa: B023
        texts.append("".join(chunk.text for chunk in chunks))
        assert len(own.embed([50, 60])) == model.config.hidden
        wait_for(lambda: own._thread is None)
    assert texts[0] == texts[1]
    own.close()


def test_the_time_of_another_model_does_not_count(
    model: Transformer, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a clock that only steps advance: 3 seconds per step of one model, 1 of the other."""
    now, done = [0.0], [threading.Event(), threading.Event()]
    monkeypatch.setattr(own_engine, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    engines = [OwnEngine(model, Chat(tokenizer), rows=1, context=None, fail=print) for _ in done]
    chunks: list[list[Chunk]] = [[], []]
    for number, (own, seconds) in enumerate(zip(engines, (3, 1), strict=True)):

        def step(make: Callable[[], object] = own._engine.step, seconds: int = seconds) -> object:
            now[0] += seconds
            return make()

        def deliver(chunk: object, number: int = number) -> None:
            assert isinstance(chunk, Chunk)
            chunks[number].append(chunk)
            if chunk.finish_reason:
                done[number].set()

        monkeypatch.setattr(own._engine, "step", step)
        own.submit(Request(prompt_ids=[50, 60], max_tokens=7), deliver)
    for own, ended in zip(engines, done, strict=True):
        ended.wait()
        own.close()
    for of_model, seconds in zip(chunks, (3, 1), strict=True):
        assert [chunk.seconds for chunk in of_model] == [seconds * chunk.completion_tokens for chunk in of_model]


@pytest.mark.parametrize(("streamed", "sizes"), [(True, [1, 1, 1, 1]), (False, [1, 3])])
def test_chunks_of_a_complete_response_wait_for_its_end(tokenizer: Tokenizer, streamed: bool, sizes: list[int]) -> None:
    silent, service = Silent(), Service([Model("silent", 0)], queue=0)
    service.ready("silent", silent, Chat(tokenizer))

    async def taken() -> list[int]:
        found = list[int]()
        with service.submit("silent", [Request(prompt_ids=[5])], streamed=streamed) as outputs:

            async def collect() -> None:
                async for ready in outputs:
                    found.append(len(ready))

            collecting = asyncio.ensure_future(collect())
            for number in range(4):
                silent.deliveries[0](Chunk("x", (), number + 1, "length" if number == 3 else None, 0.1))
                await asyncio.sleep(0.01)
            await collecting
        return found

    assert asyncio.run(taken()) == sizes
