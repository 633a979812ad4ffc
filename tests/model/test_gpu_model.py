"""Generation on a GPU compared with the CPU; skipped without a GPU."""

import pytest
import torch

from homegrown.inference.engine import Engine, Request
from homegrown.inference.generation import generate
from homegrown.inference.sampling import Sampling

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")

PROMPTS = [[5, 9, 2], [100, 3, 77, 8, 8, 1, 40], [11], [50, 60]]


@pytest.mark.parametrize("family", ["modern", "classic"])
def test_greedy_tokens_equal_the_cpu(make_model, family: str) -> None:
    expected = generate(make_model(family), PROMPTS, max_tokens=30)
    assert generate(make_model(family).cuda(), PROMPTS, max_tokens=30) == expected


def test_sampled_tokens_equal_the_cpu(make_model) -> None:
    sampling = Sampling(temperature=0.8, top_p=0.95)
    expected = generate(make_model("modern"), PROMPTS, max_tokens=12, sampling=sampling, seed=4)
    found = generate(make_model("modern").cuda(), PROMPTS, max_tokens=12, sampling=sampling, seed=4)
    assert found == expected


def test_prompts_in_chunks_beside_running_sequences(make_model) -> None:
    alone = generate(make_model("modern"), PROMPTS, max_tokens=9)
    engine = Engine(make_model("modern").cuda(), rows=2, prefill_chunk=3)
    waiting, places, written = list(enumerate(PROMPTS)), {}, {}
    while waiting or places:
        while waiting and engine.free:
            number, prompt = waiting.pop(0)
            places[engine.add(Request(prompt_ids=prompt, max_tokens=9))] = number
        for sequence, token in engine.step().items():
            number = places[sequence]
            written.setdefault(number, []).append(token.id)
            if len(written[number]) == 9:
                del places[sequence]
    assert [written[number] for number in range(len(PROMPTS))] == alone
