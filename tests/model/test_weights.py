"""Models on disk."""

import json
from pathlib import Path

import pytest
import torch

from homegrown.model import weights
from homegrown.util.errors import UserError


@pytest.mark.parametrize("family", ["modern", "classic"])
def test_a_saved_model_computes_the_same(make_model, tokens, tmp_path: Path, family: str) -> None:
    model = make_model(family)
    weights.save(model, tmp_path)
    loaded = weights.load(tmp_path)
    assert loaded.config == model.config
    assert not loaded.training
    with torch.no_grad():
        assert torch.equal(loaded(tokens), model(tokens))


def test_a_model_loads_in_another_type(make_model, tokens, tmp_path: Path) -> None:
    model = make_model("modern")
    weights.save(model, tmp_path)
    loaded = weights.load(tmp_path, dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in loaded.parameters()} == {torch.bfloat16}
    with torch.no_grad():
        difference = (loaded(tokens).float() - model(tokens)).abs().mean()
    assert 0 < difference < 0.1 * model(tokens).std()


def truncate(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def pickle_instead(folder: Path) -> None:
    torch.save({"weight": torch.ones(2)}, folder / "model.safetensors")


def another_shape(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "feed_forward": 256}))


def one_layer_more(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "layers": 4}))


def foreign_config(folder: Path) -> None:
    (folder / "config.json").write_text('{"model_type": "llama", "hidden_size": 64}')


def binary_config(folder: Path) -> None:
    (folder / "config.json").write_bytes(b"\x80\x04\xff\x00")


def impossible_config(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "kv_heads": 0}))


def no_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def no_config(folder: Path) -> None:
    (folder / "config.json").unlink()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (truncate, "model.safetensors is damaged"),
        (pickle_instead, "model.safetensors is damaged"),
        (another_shape, "does not match its config.json"),
        (one_layer_more, "does not match its config.json"),
        (foreign_config, "not the configuration of a Homegrown model"),
        (binary_config, "config.json is damaged"),
        (impossible_config, "invalid sizes"),
        (no_weights, "model.safetensors is missing"),
        (no_config, "config.json is missing"),
    ],
)
def test_a_damaged_or_foreign_folder_is_one_message(make_model, tmp_path: Path, damage, message) -> None:
    weights.save(make_model("modern"), tmp_path)
    damage(tmp_path)
    with pytest.raises(UserError, match=message) as refusal:
        weights.load(tmp_path)
    assert "\n" not in str(refusal.value)
