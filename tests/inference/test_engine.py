"""The engine beside `transformers`, step by step: compiled and plain, sequences that come and go, log-probabilities."""

import pytest
import torch

from homegrown.inference.compiled_step import CompiledStep
from homegrown.inference.engine import Engine, Request, Running
from homegrown.inference.generation import generate
from homegrown.inference.sampling import Sampling
from homegrown.model.cache import KVCache
from homegrown.model.transformer import Transformer
from homegrown.util.errors import UserError
from tests.model.test_modern import qwen3

PROMPTS = [[5, 9, 2], [100, 3, 77, 8, 8, 1, 40], [11], [50, 60]]


def run(engine: Engine) -> dict[Running, list[int]]:
    written: dict[Running, list[int]] = {}
    while news := engine.step():
        for one in news:
            written.setdefault(one.sequence, []).append(one.token)
    return written


@pytest.mark.parametrize("kv_heads", [1, 2, 4])
def test_greedy_is_that_of_transformers_token_for_token(make_model, kv_heads: int) -> None:
    model = make_model("modern", kv_heads=kv_heads)
    oracle = qwen3(model.config, model)
    for prompt, written in zip(PROMPTS, generate(model, PROMPTS, max_new_tokens=30), strict=True):
        theirs = oracle.generate(torch.tensor([prompt]), max_new_tokens=30, do_sample=False, pad_token_id=0)
        assert written == theirs[0, len(prompt) :].tolist()


@pytest.mark.parametrize(("dtype", "error"), [(torch.float32, 1e-5), (torch.bfloat16, 0.06)])
@pytest.mark.parametrize("batch", [1, 3, 6])
def test_the_compiled_step_computes_what_the_model_does(make_model, dtype, error: float, batch: int) -> None:
    """bfloat16 is computed in float32 from the same weights, so it is nearer the truth than PyTorch's."""
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


def test_what_the_compiled_step_does_not_serve(make_model) -> None:
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
def test_sequences_that_come_later_are_written_as_if_alone(make_model, family: str) -> None:
    model = make_model(family)
    alone = dict(enumerate(generate(model, PROMPTS, max_new_tokens=9)))
    engine = Engine(model, rows=2)
    waiting, running, written = list(enumerate(PROMPTS)), {}, {}
    while waiting or running:
        while waiting and engine.free:
            number, prompt = waiting.pop(0)
            running[engine.add(Request(prompt=prompt, max_new_tokens=9 - number))] = number
        for one in engine.step():
            written.setdefault(running[one.sequence], []).append(one.token)
            if one.finish:
                del running[one.sequence]
    assert written == {number: tokens[: 9 - number] for number, tokens in alone.items()}


LONG = [[(7 * row + 3 * place) % 211 for place in range(30 - 4 * row)] for row in range(4)]


@pytest.mark.parametrize("family", ["modern", "classic"])
@pytest.mark.parametrize("piece", [1, 7])
def test_prompts_read_in_pieces_have_the_tokens_of_those_read_at_once(make_model, family: str, piece: int) -> None:
    """They come one a step, so that some are read while others are written, and some that are written end meanwhile."""
    model = make_model(family)
    prompts = [[5, 9, 2], *LONG, [11]]
    requests = [Request(prompt=prompt, max_new_tokens=18 - 3 * row) for row, prompt in enumerate(prompts)]
    requests.append(Request(prompt=LONG[0], max_new_tokens=9, sampling=Sampling(temperature=1.0), seed=4))
    alone = [next(iter(run_one(model, request).values())) for request in requests]
    engine, written, running = Engine(model, rows=3, piece=piece), {}, {}
    waiting = list(enumerate(requests))
    while waiting or running:
        if waiting and engine.free:
            number, request = waiting.pop(0)
            running[engine.add(request)] = number
        for one in engine.step():
            written.setdefault(running[one.sequence], []).append(one.token)
            if one.finish:
                del running[one.sequence]
    assert [written[number] for number in range(len(requests))] == alone


def run_one(model: Transformer, request: Request) -> dict[Running, list[int]]:
    engine = Engine(model, rows=1)
    engine.add(request)
    return run(engine)


@pytest.mark.parametrize("piece", [4, 9, 16])
def test_between_two_tokens_of_a_sequence_no_more_than_a_piece_is_read(
    make_model, monkeypatch: pytest.MonkeyPatch, piece: int
) -> None:
    """The tokens that the model computes for prompts, padding too, are counted where it computes them."""
    model, computed = make_model("modern"), [0]
    forward = model.hidden_states

    def counted(tokens: torch.Tensor, *rest: object) -> torch.Tensor:
        computed[0] += tokens.numel()
        return forward(tokens, *rest)

    monkeypatch.setattr(model, "hidden_states", counted)
    engine = Engine(model, rows=8, piece=piece)
    first = engine.add(Request(prompt=[5], max_new_tokens=40))
    engine.step()
    prompts = [*LONG, [11], [50, 60], [1, 2, 3]]
    sequences = [engine.add(Request(prompt=prompt, max_new_tokens=3)) for prompt in prompts]
    computed[0], began, total = 0, set(), 0
    while len(began) < len(sequences):
        news = engine.step()
        assert first in [one.sequence for one in news]
        assert 0 < computed[0] <= piece
        total, computed[0] = total + computed[0], 0
        began |= {one.sequence for one in news if one.sequence is not first}
    assert total >= sum(map(len, prompts))


def test_a_sequence_that_leaves_while_its_prompt_is_read_disturbs_nobody(make_model) -> None:
    model = make_model("modern")
    expected = generate(model, [LONG[1]], max_new_tokens=5)[0]
    engine = Engine(model, rows=2, piece=5)
    short, long = (
        engine.add(Request(prompt=[5], max_new_tokens=9)),
        engine.add(Request(prompt=LONG[0], max_new_tokens=9)),
    )
    for _ in range(4):
        engine.step()
    assert 0 < long.read < len(LONG[0])
    engine.remove(long)
    last = engine.add(Request(prompt=LONG[1], max_new_tokens=5))
    engine.step()
    engine.remove(short)
    assert run(engine) == {last: expected}


def test_a_sequence_that_leaves_makes_room_and_disturbs_nobody(make_model) -> None:
    model = make_model("modern")
    expected = generate(model, PROMPTS[:2], max_new_tokens=9)[1]
    engine = Engine(model, rows=2)
    first, second = (engine.add(Request(prompt=prompt, max_new_tokens=9)) for prompt in PROMPTS[:2])
    with pytest.raises(RuntimeError, match="2 rows"):
        engine.add(Request(prompt=[1], max_new_tokens=1))
    begun = [one.token for one in engine.step() if one.sequence is second]
    engine.remove(first)
    engine.remove(first)
    assert engine.free == 1
    assert begun + run(engine)[second] == expected


@pytest.mark.parametrize(("stop", "finish"), [(True, "stop"), (False, "length")])
def test_the_last_token_says_why_it_is_the_last(make_model, stop: bool, finish: str) -> None:
    model = make_model("modern")
    (tokens,) = generate(model, [[4]], max_new_tokens=5)
    engine = Engine(model, rows=1)
    engine.add(Request(prompt=[4], max_new_tokens=5, stop_ids={tokens[4]} if stop else frozenset()))
    found = [one for _ in range(5) for one in engine.step()]
    assert [one.finish for one in found] == [None] * 4 + [finish]
    assert engine.step() == []


def test_log_probabilities_are_those_of_the_model(make_model) -> None:
    model = make_model("modern")
    engine = Engine(model, rows=2)
    sampling = Sampling(temperature=3.0, repetition_penalty=2.0, top_k=50)
    asked = engine.add(Request(prompt=[5, 9], max_new_tokens=6, sampling=sampling, seed=1, likeliest=3))
    engine.add(Request(prompt=[7], max_new_tokens=6))
    tokens = [5, 9]
    while news := engine.step():
        for one in news:
            if one.sequence is not asked:
                assert one.probabilities is None
                continue
            with torch.no_grad():
                expected = model(torch.tensor([tokens]))[0, -1].log_softmax(0)
            assert one.probabilities is not None
            assert one.probabilities.chosen == pytest.approx(expected[one.token].item(), abs=1e-4)
            values, ids = expected.topk(3)
            assert [token for token, _ in one.probabilities.likeliest] == ids.tolist()
            assert [value for _, value in one.probabilities.likeliest] == pytest.approx(values.tolist(), abs=1e-4)
            tokens.append(one.token)
    assert len(tokens) == 8


def test_a_prompt_that_leaves_no_room_is_refused(make_model) -> None:
    with pytest.raises(UserError, match="no room in a context of 48"):
        Engine(make_model("modern"), rows=1).add(Request(prompt=[1] * 48, max_new_tokens=1))
