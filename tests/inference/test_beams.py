"""Beam search beside `transformers`' on the same weights."""

import pytest
import torch

from homegrown.inference.beams import beam_search
from homegrown.inference.generation import generate
from homegrown.util.errors import UserError
from tests.model.test_modern import qwen3

STOPS = {3, 17, 40, 41, 77, 90, 120, 150, 200}


@pytest.mark.parametrize("beams", [2, 5])
def test_beams_are_those_of_transformers(make_model, beams: int) -> None:
    model = make_model("modern", layers=1)
    with torch.no_grad():
        model.model.norm.weight.mul_(0.3)  # so that stop tokens are neither certain nor rare
    oracle = qwen3(model.config, model)
    for prompt in ([5, 9, 2], [100, 30], [8, 8, 8, 8]):
        theirs = oracle.generate(
            torch.tensor([prompt]),
            num_beams=beams,
            num_return_sequences=beams,
            max_new_tokens=12,
            eos_token_id=sorted(STOPS),
            pad_token_id=0,
            do_sample=False,
            return_dict_in_generate=True,
            output_scores=True,
        )
        ours = beam_search(model, prompt, beams=beams, max_tokens=12, stop_ids=STOPS)
        assert [beam.score for beam in ours] == pytest.approx(theirs.sequences_scores.tolist(), abs=1e-3)
        for beam, sequence in zip(ours, theirs.sequences[:, len(prompt) :].tolist(), strict=True):
            ends = [place for place, token in enumerate(sequence) if token in STOPS]
            assert beam.tokens == sequence[: ends[0] if ends else None]


def test_one_beam_is_greedy(make_model) -> None:
    for family in ("modern", "classic"):
        model = make_model(family)
        (beam,) = beam_search(model, [5, 9], beams=1, max_tokens=10)
        assert [beam.tokens] == generate(model, [[5, 9]], max_tokens=10)


def test_beams_end_with_the_context_and_too_many_are_refused(make_model) -> None:
    model = make_model("modern")
    assert [len(beam.tokens) for beam in beam_search(model, [1] * 45, beams=2, max_tokens=10)] == [3, 3]
    assert beam_search(model, [1] * 48, beams=2, max_tokens=10)[0].tokens == []
    with pytest.raises(UserError, match="between 1 and 105"):
        beam_search(model, [1], beams=106, max_tokens=1)
