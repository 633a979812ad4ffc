"""When a run is compiled, and that a compiled model computes the same."""

import shutil
from functools import partialmethod

import pytest
import torch
from torch import nn

from homegrown.config.model import ModelSettings
from homegrown.model.config import ModelConfig
from homegrown.model.transformer import Transformer
from homegrown.training.compilation import LEAST_FLOPS, compile_model, compiles


def test_auto_compiles_long_runs_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    tokens = int(LEAST_FLOPS / 1e6)
    assert compiles("auto", "cpu", 1_000_000, tokens)
    assert not compiles("auto", "cpu", 1_000_000, tokens - 1)
    assert compiles("always", "cpu", 1, 1)
    assert not compiles("never", "cuda", 1_000_000, 10**15)


def test_auto_does_without_a_compiler_where_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert not compiles("auto", "cpu", 1_000_000, 10**15)
    assert not compiles("auto", "cuda", 1_000_000, 10**15)


def test_compiled_blocks_have_the_loss_and_gradients_of_eager_ones(
    model_settings: ModelSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Traced and differentiated, but not translated to C++, which takes half a minute.
    monkeypatch.setattr(nn.Module, "compile", partialmethod(nn.Module.compile, backend="aot_eager"))
    torch.manual_seed(1)
    plain = Transformer(ModelConfig.from_settings(model_settings, 300, 0.0))
    plain.initialize()
    compiled = Transformer(plain.config)
    compiled.load_state_dict(plain.state_dict())
    compile_model(compiled)
    assert compiled.state_dict().keys() == plain.state_dict().keys()
    tokens = torch.randint(300, (2, 17), generator=torch.Generator().manual_seed(1))
    losses = []
    for model in (plain, compiled):
        losses.append(model.loss(tokens[:, :-1], tokens[:, 1:]))
        losses[-1].backward()
    torch.testing.assert_close(losses[0], losses[1])
    for mine, its in zip(plain.parameters(), compiled.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, its.grad, rtol=1e-4, atol=1e-5)
