"""Adapters chosen per request: each row is generated as by its merged model alone."""

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from homegrown.config.finetune_recipe import FinetuneSettings
from homegrown.inference.engine import Engine, Request, Running
from homegrown.inference.generation import generate
from homegrown.model import lora
from homegrown.model.adapters import Adapters
from homegrown.model.transformer import Transformer
from homegrown.util.errors import UserError

Make = Callable[..., Transformer]
PROMPTS = [[5, 9, 2], [100, 3, 77, 8, 8, 1, 40], [11], [50, 60, 7]]
NEW = (7, 200)
"""Tokens whose rows an adapter trains."""


def trained(model: Transformer, folder: Path, seed: int, tokens: tuple[int, ...], rank: int) -> Transformer:
    """Write an adapter with random weights; return the model merged with it."""
    settings = FinetuneSettings(method="lora", rank=rank, alpha=2 * rank, targets=["q_proj", "o_proj", "down_proj"])
    adapted = copy.deepcopy(model)
    lora.attach(adapted, settings, tokens)
    generator = torch.Generator().manual_seed(seed)
    for parameter in adapted.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.3, generator=generator)
    lora.save(adapted, settings, folder)
    return lora.merge(copy.deepcopy(model), folder)


@pytest.mark.parametrize(("family", "tied"), [("modern", True), ("modern", False), ("classic", False)])
def test_each_row_is_as_by_its_merged_model(make_model: Make, tmp_path: Path, family: str, tied: bool) -> None:
    """The compiled step for one family, the forward pass for the other; prompts in chunks, and kept for later ones."""
    model = make_model(family, tied=tied)
    merged = {
        None: copy.deepcopy(model),
        "first": trained(model, tmp_path / "first", 1, NEW, rank=3),
        "second": trained(model, tmp_path / "second", 2, (), rank=5),
        "third": trained(model, tmp_path / "third", 3, NEW[1:], rank=1),
    }
    adapters = Adapters(model, {name: tmp_path / name for name in merged if name})
    engine = Engine(model, rows=4, prefill_chunk=3, prefix_bytes=2**20, adapters=adapters)
    for _ in range(2):  # the second time, with the kept beginnings of prompts
        rows: dict[Running, list[int]] = {}
        generated: dict[str | None, list[int]] = {name: [] for name in merged}
        for name, prompt in zip(merged, PROMPTS, strict=True):
            rows[engine.add(Request(prompt_ids=prompt, max_tokens=20, adapter=name))] = generated[name]
        while made := engine.step():
            for sequence, token in made.items():
                rows[sequence].append(token.id)
        for name, prompt in zip(merged, PROMPTS, strict=True):
            assert generated[name] == generate(merged[name], [prompt], max_tokens=20)[0], name
    assert len({tuple(tokens) for tokens in generated.values()}) == 4


def test_the_prompts_log_probabilities_are_those_of_the_adapter(make_model: Make, tmp_path: Path) -> None:
    model = make_model("modern")
    merged = trained(model, tmp_path / "one", 1, NEW, rank=2)
    engine = Engine(model, rows=2, adapters=Adapters(model, {"one": tmp_path / "one"}))
    prompt = [3, 7, 200, 9]
    one = engine.add(Request(prompt_ids=prompt, max_tokens=1, prompt_logprobs=True, top_logprobs=0, adapter="one"))
    engine.step()
    with torch.inference_mode():
        expected = torch.log_softmax(merged(torch.tensor([prompt]))[0].double(), -1)
    found = [value for value, _ in one.prompt_logprobs[1:]]
    assert found == pytest.approx([float(expected[place, token]) for place, token in enumerate(prompt[1:])], abs=1e-4)
    with torch.inference_mode():
        states = merged.hidden_states(torch.tensor([prompt]))[0]
        torch.testing.assert_close(engine.embed(prompt, "one"), states, atol=1e-4, rtol=1e-4)


def test_an_adapter_of_another_model_is_refused(make_model: Make, tmp_path: Path) -> None:
    trained(make_model("modern"), tmp_path / "one", 1, (), rank=2)
    with pytest.raises(UserError, match=r"belongs to another model \(matrix model.layers.0"):
        Adapters(make_model("modern", hidden=32), {"one": tmp_path / "one"})
    (tmp_path / "one" / lora.WEIGHTS).write_bytes(b"nothing")
    with pytest.raises(UserError, match="damaged"):
        Adapters(make_model("modern"), {"one": tmp_path / "one"})
