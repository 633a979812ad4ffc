"""Rows that hold several documents, compared with each document alone."""

import pytest
import torch
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

from homegrown.data.rows import NO_TARGET
from homegrown.model import documents, transformer
from homegrown.model.loss import IGNORED

both = pytest.mark.parametrize("family", ["modern", "classic"])

LENGTHS = [[20, 1, 27], [48], [5, 5, 5, 30]]
"""Lengths of the documents in three rows of 48; the last row ends in padding."""


@pytest.fixture
def starts() -> torch.Tensor:
    rows = torch.zeros(3, 48, dtype=torch.int64)
    for row, lengths in zip(rows, LENGTHS, strict=True):
        place = 0
        for length in lengths:
            row[place : place + length] = place
            place += length
        row[place:] = place
    return rows


@pytest.fixture
def targets(tokens: torch.Tensor) -> torch.Tensor:
    targets = tokens.flip(1)
    for row, lengths in zip(targets, LENGTHS, strict=True):
        row[sum(lengths) :] = IGNORED
    return targets


@both
def test_loss_and_gradient_are_those_of_each_document_alone(make_model, tokens, targets, starts, family: str) -> None:
    model = make_model(family).double()
    model.loss(tokens, targets, starts).backward()
    together = [parameter.grad.clone() for parameter in model.parameters()]
    model.zero_grad()
    alone = torch.zeros(())
    for row, lengths in enumerate(LENGTHS):
        place = 0
        for length in lengths:
            piece = slice(place, place + length)
            alone = alone + model.loss(tokens[row, None, piece], targets[row, None, piece])
            place += length
    alone.backward()
    torch.testing.assert_close(model.loss(tokens, targets, starts), alone, rtol=1e-6, atol=0)
    for ours, theirs in zip(together, model.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs.grad, rtol=1e-3, atol=1e-4)  # the loss computes in float32


@both
def test_one_document_in_a_row_equals_no_mask(make_model, tokens, family: str) -> None:
    model = make_model(family)
    with torch.no_grad():
        masked = model.hidden_states(tokens, starts=torch.zeros_like(tokens))
        torch.testing.assert_close(masked, model.hidden_states(tokens))


@both
def test_tokens_of_other_documents_have_no_effect(make_model, tokens, starts, family: str) -> None:
    model = make_model(family)
    other = tokens.clone()
    other[0, :20] = (other[0, :20] + 1) % 200
    with torch.no_grad():
        before, after = (model.hidden_states(rows, starts=starts) for rows in (tokens, other))
        assert torch.equal(before[0, 20:], after[0, 20:])
        assert not torch.equal(model.hidden_states(tokens)[0, 20:], model.hidden_states(other)[0, 20:])


@both
def test_flex_attention_computes_the_same(
    make_model, tokens, targets, starts, family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its forward pass runs on a CPU too, uncompiled."""
    model = make_model(family)
    with torch.no_grad():
        expected = model.loss(tokens, targets, starts)
        blocks = create_block_mask(documents.within_document(starts), 3, None, 48, 48, device="cpu")
        monkeypatch.setattr(transformer, "document_mask", lambda starts, window: blocks)
        monkeypatch.setattr(documents, "_compiled", lambda: flex_attention)
        torch.testing.assert_close(model.loss(tokens, targets, starts), expected)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@both
def test_loss_and_gradient_on_a_gpu_equal_the_cpu(make_model, tokens, targets, starts, family: str) -> None:
    model = make_model(family)
    expected = model.loss(tokens, targets, starts)
    wanted = torch.autograd.grad(expected, list(model.parameters()))
    model.cuda()
    found = model.loss(tokens.cuda(), targets.cuda(), starts.cuda())
    torch.testing.assert_close(found.cpu(), expected, rtol=1e-4, atol=1e-3)
    for ours, theirs in zip(torch.autograd.grad(found, list(model.parameters())), wanted, strict=True):
        torch.testing.assert_close(ours.cpu(), theirs, rtol=1e-2, atol=1e-2)


def test_packing_uses_the_target_that_the_loss_ignores() -> None:
    assert NO_TARGET == IGNORED == torch.nn.CrossEntropyLoss().ignore_index
