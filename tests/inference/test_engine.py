"""The engine against `transformers`, step by step: compiled and plain, joining and leaving, log-probabilities."""

import pytest
import torch

from homegrown.inference.compiled_step import CompiledStep
from homegrown.inference.engine import Engine, GeneratedToken, Request, Running, allocate
from homegrown.inference.generation import generate
from homegrown.inference.prefixes import Prefixes
from homegrown.inference.sampling import Sampling
from homegrown.model.cache import KVCache
from homegrown.model.transformer import Transformer
from homegrown.util.errors import UserError
from tests.model.test_modern import qwen3

PROMPTS = [[5, 9, 2], [100, 3, 77, 8, 8, 1, 40], [11], [50, 60]]


def run(engine: Engine) -> dict[Running, list[int]]:
    generated: dict[Running, list[int]] = {}
    while tokens := engine.step():
        for sequence, token in tokens.items():
            generated.setdefault(sequence, []).append(token.id)
    return generated


@pytest.mark.parametrize("kv_heads", [1, 2, 4])
def test_greedy_is_that_of_transformers_token_for_token(make_model, kv_heads: int) -> None:
    model = make_model("modern", kv_heads=kv_heads)
    oracle = qwen3(model.config, model)
    for prompt, generated in zip(PROMPTS, generate(model, PROMPTS, max_tokens=30), strict=True):
        theirs = oracle.generate(torch.tensor([prompt]), max_new_tokens=30, do_sample=False, pad_token_id=0)
        assert generated == theirs[0, len(prompt) :].tolist()


@pytest.mark.parametrize(("dtype", "error"), [(torch.float32, 1e-5), (torch.bfloat16, 0.06)])
@pytest.mark.parametrize("batch", [1, 3, 9])
def test_the_compiled_step_computes_what_the_model_does(make_model, dtype, error: float, batch: int) -> None:
    """bfloat16 is computed in float32 from the same weights, so it is more exact than PyTorch's."""
    model = make_model("modern", tied=batch != 3).to(dtype)
    model.model.positions = model.model.position_table()
    exact = make_model("modern", tied=batch != 3)
    exact.load_state_dict({name: tensor.float() for name, tensor in model.state_dict().items()})
    assert CompiledStep.serves(model)
    step, counts = CompiledStep(model), [9 - row for row in range(batch)]
    tokens = torch.randint(211, (batch, 12), generator=torch.Generator().manual_seed(6))
    ours = KVCache(model.config, batch + 1, 16, torch.device("cpu"), dtype).part(1, batch + 1)
    theirs = KVCache(model.config, batch, 16, torch.device("cpu"), torch.float32)
    with torch.inference_mode():
        model(tokens[:, :9], ours, counts)
        exact(tokens[:, :9], theirs, counts)
        for place in range(9, 12):
            expected = exact(tokens[:, place : place + 1], theirs)[:, -1]
            logits = step(tokens[:, place].tolist(), ours)
            assert (logits - expected).norm() <= error * expected.norm()
    assert ours.lengths.tolist() == theirs.lengths.tolist() == [count + 3 for count in counts]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_sequence_has_the_same_bits_in_every_batch(make_model, dtype) -> None:
    model = make_model("modern").to(dtype)
    step, tokens = CompiledStep(model), torch.arange(27).reshape(3, 9)

    def logits(rows: slice) -> torch.Tensor:
        chosen = tokens[:, rows]
        cache = KVCache(model.config, chosen.shape[1], 16, torch.device("cpu"), dtype)
        return torch.stack([step(place.tolist(), cache) for place in chosen], 1)

    together = logits(slice(9))
    for size in (1, 2, 5, 8):
        assert torch.equal(logits(slice(9 - size, 9)), together[-size:])


def test_models_that_the_compiled_step_does_not_serve(make_model) -> None:
    assert not CompiledStep.serves(make_model("classic"))
    mixed = make_model("modern")
    mixed.model.norm.bfloat16()
    assert not CompiledStep.serves(mixed)
    other = make_model("modern")
    other.model.layers[1].mlp.up_proj = torch.nn.Identity()
    assert not CompiledStep.serves(other)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert not CompiledStep.serves(make_model("modern"))


@pytest.mark.parametrize("family", ["modern", "classic"])
def test_sequences_that_join_later_are_the_same_as_alone(make_model, family: str) -> None:
    model = make_model(family)
    alone = dict(enumerate(generate(model, PROMPTS, max_tokens=9)))
    engine = Engine(model, rows=2)
    waiting, running, generated = list(enumerate(PROMPTS)), {}, {}
    while waiting or running:
        while waiting and engine.free:
            number, prompt = waiting.pop(0)
            running[engine.add(Request(prompt_ids=prompt, max_tokens=9 - number))] = number
        for sequence, token in engine.step().items():
            generated.setdefault(running[sequence], []).append(token.id)
            if token.finish_reason:
                del running[sequence]
    assert generated == {number: tokens[: 9 - number] for number, tokens in alone.items()}


LONG = [[(7 * row + 3 * place) % 211 for place in range(30 - 4 * row)] for row in range(4)]


@pytest.mark.parametrize("family", ["modern", "classic"])
@pytest.mark.parametrize("chunk", [1, 7])
def test_chunked_prefill_gives_the_same_tokens(make_model, family: str, chunk: int) -> None:
    """One request joins per step, so that some are prefilled while others decode, and some end meanwhile."""
    model = make_model(family)
    prompts = [[5, 9, 2], *LONG, [11]]
    requests = [Request(prompt_ids=prompt, max_tokens=18 - 3 * row) for row, prompt in enumerate(prompts)]
    requests.append(Request(prompt_ids=LONG[0], max_tokens=9, sampling=Sampling(temperature=1.0), seed=4))
    alone = [next(iter(run_one(model, request).values())) for request in requests]
    engine, generated, running = Engine(model, rows=3, prefill_chunk=chunk), {}, {}
    waiting = list(enumerate(requests))
    while waiting or running:
        if waiting and engine.free:
            number, request = waiting.pop(0)
            running[engine.add(request)] = number
        for sequence, token in engine.step().items():
            generated.setdefault(running[sequence], []).append(token.id)
            if token.finish_reason:
                del running[sequence]
    assert [generated[number] for number in range(len(requests))] == alone


def run_one(model: Transformer, request: Request) -> dict[Running, list[int]]:
    engine = Engine(model, rows=1)
    engine.add(request)
    return run(engine)


@pytest.mark.parametrize("chunk", [4, 9, 16])
def test_between_two_tokens_of_a_sequence_at_most_one_chunk_is_prefilled(
    make_model, monkeypatch: pytest.MonkeyPatch, chunk: int
) -> None:
    """Counts the prompt tokens that the model computes, padding included."""
    model, computed = make_model("modern"), [0]
    forward = model.hidden_states

    def counted(tokens: torch.Tensor, *rest: object) -> torch.Tensor:
        computed[0] += tokens.numel()
        return forward(tokens, *rest)

    monkeypatch.setattr(model, "hidden_states", counted)
    engine = Engine(model, rows=8, prefill_chunk=chunk)
    first = engine.add(Request(prompt_ids=[5], max_tokens=40))
    engine.step()
    prompts = [*LONG, [11], [50, 60], [1, 2, 3]]
    sequences = [engine.add(Request(prompt_ids=prompt, max_tokens=3)) for prompt in prompts]
    computed[0], began, total = 0, set(), 0
    while len(began) < len(sequences):
        tokens = engine.step()
        assert first in tokens
        assert 0 < computed[0] <= chunk
        total, computed[0] = total + computed[0], 0
        began |= tokens.keys() - {first}
    assert total >= sum(map(len, prompts))


def test_a_sequence_removed_during_its_prefill_does_not_affect_others(make_model) -> None:
    model = make_model("modern")
    expected = generate(model, [LONG[1]], max_tokens=5)[0]
    engine = Engine(model, rows=2, prefill_chunk=5)
    short, long = (
        engine.add(Request(prompt_ids=[5], max_tokens=9)),
        engine.add(Request(prompt_ids=LONG[0], max_tokens=9)),
    )
    for _ in range(4):
        engine.step()
    assert 0 < long.prefilled < len(LONG[0])
    engine.remove(long)
    last = engine.add(Request(prompt_ids=LONG[1], max_tokens=5))
    engine.step()
    engine.remove(short)
    assert run(engine) == {last: expected}


def test_a_removed_sequence_frees_its_row_and_does_not_affect_others(make_model) -> None:
    model = make_model("modern")
    expected = generate(model, PROMPTS[:2], max_tokens=9)[1]
    engine = Engine(model, rows=2)
    first, second = (engine.add(Request(prompt_ids=prompt, max_tokens=9)) for prompt in PROMPTS[:2])
    with pytest.raises(RuntimeError, match="2 rows"):
        engine.add(Request(prompt_ids=[1], max_tokens=1))
    begun = [engine.step()[second].id]
    engine.remove(first)
    engine.remove(first)
    assert engine.free == 1
    assert begun + run(engine)[second] == expected


@pytest.mark.parametrize(("stop", "finish_reason"), [(True, "stop"), (False, "length")])
def test_the_last_token_has_the_finish_reason(make_model, stop: bool, finish_reason: str) -> None:
    model = make_model("modern")
    (tokens,) = generate(model, [[4]], max_tokens=5)
    engine = Engine(model, rows=1)
    engine.add(Request(prompt_ids=[4], max_tokens=5, stop_ids={tokens[4]} if stop else frozenset()))
    found = [token for _ in range(5) for token in engine.step().values()]
    assert [token.finish_reason for token in found] == [None] * 4 + [finish_reason]
    assert engine.step() == {}


def test_log_probabilities_are_those_of_the_model(make_model) -> None:
    model = make_model("modern")
    engine = Engine(model, rows=2)
    sampling = Sampling(temperature=3.0, repetition_penalty=2.0, top_k=50)
    asked = engine.add(Request(prompt_ids=[5, 9], max_tokens=6, sampling=sampling, seed=1, top_logprobs=3))
    engine.add(Request(prompt_ids=[7], max_tokens=6))
    tokens = [5, 9]
    while generated := engine.step():
        for sequence, token in generated.items():
            if sequence is not asked:
                assert (token.logprob, token.top_logprobs) == (None, ())
                continue
            with torch.no_grad():
                expected = model(torch.tensor([tokens]))[0, -1].log_softmax(0)
            assert token.logprob == pytest.approx(expected[token.id].item(), abs=1e-4)
            values, ids = expected.topk(3)
            assert [one for one, _ in token.top_logprobs] == ids.tolist()
            assert [value for _, value in token.top_logprobs] == pytest.approx(values.tolist(), abs=1e-4)
            tokens.append(token.id)
    assert len(tokens) == 8


def test_a_prompt_that_fills_the_context_is_refused(make_model) -> None:
    with pytest.raises(UserError, match="fills the context of 48"):
        Engine(make_model("modern"), rows=1).add(Request(prompt_ids=[1] * 48, max_tokens=1))


@pytest.mark.parametrize("family", ["modern", "classic"])
def test_prompts_share_the_cache_of_their_beginning_to_the_last_bit(
    make_model, monkeypatch: pytest.MonkeyPatch, family: str
) -> None:
    model, computed = make_model(family), [0]
    forward = model.hidden_states

    def counted(tokens: torch.Tensor, *rest: object) -> torch.Tensor:
        computed[0] += tokens.numel()
        return forward(tokens, *rest)

    monkeypatch.setattr(model, "hidden_states", counted)
    begun = LONG[0][:13]
    prompts = [LONG[0], [*begun, 5, 6, 7], LONG[0][:8], [*begun[:3], 0, *begun[4:]], LONG[0], LONG[0][:12]]
    shared, engine = [12, 4, 0, 28, 8], Engine(model, rows=2, prefill_chunk=4, prefix_bytes=10**9)
    for number, prompt in enumerate(prompts):
        request = Request(prompt_ids=prompt, max_tokens=6, top_logprobs=3)
        alone = Engine(model, rows=2, prefill_chunk=4)
        alone.add(request)
        expected = tokens_of(alone)
        before = computed[0]
        engine.add(request)
        assert tokens_of(engine) == expected  # with their log-probabilities
        steps = len(prompt) - ([0, *shared][number])
        assert computed[0] - before - (6 - 1) * (family == "classic") == steps
    scored = Request(prompt_ids=LONG[0], max_tokens=1, top_logprobs=0, prompt_logprobs=True)
    sequence = engine.add(scored)
    engine.step()
    assert len(sequence.prompt_logprobs) == len(LONG[0])


def tokens_of(engine: Engine) -> list[GeneratedToken]:
    found = []
    while generated := engine.step():
        found += generated.values()
    return found


def test_the_memory_of_shared_beginnings_is_bounded(make_model) -> None:
    model = make_model("modern")
    cache = allocate(model, 1, 40)
    row = cache.keys[:, 0, :, :4].nbytes * 2
    prefixes = Prefixes(4, 3 * row)
    for start in range(5):
        tokens = list(range(start, start + 8))
        prefixes.keep(tokens[:4], cache)
        prefixes.keep(tokens, cache)
    assert [prefixes.restore([*range(start, start + 8), 9], cache) for start in range(5)] == [0, 0, 0, 0, 8]
    prefixes.keep([50, 51, 52, 53], cache)
    prefixes.keep([60, 61, 62, 63], cache)
    # The first chunk of a prompt is dropped after the later ones.
    assert prefixes.restore([*range(4, 12), 9], cache) == 4
