"""ONNX files in onnxruntime, compared with our generation."""

import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from homegrown.export.onnx import write_onnx
from homegrown.inference.generation import generate
from homegrown.model import weights
from homegrown.model.config import ModelConfig
from homegrown.tokenizer.chat import Chat
from homegrown.tokenizer.loading import load
from homegrown.util.errors import UserError
from tests.export.exportable import trained_tokenizer, write_model

PROMPTS = [[0, 30, 40, 50, 60], [0, 100], [0]]


class Runtime:
    """Greedy generation that uses only onnxruntime and the names of inputs."""

    def __init__(self, file: Path, config: ModelConfig):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
        self.past = [one.name for one in self.session.get_inputs() if one.name.startswith("past_key_values.")]
        self.empty = (config.kv_heads, 0, config.head_size)

    def step(
        self, ids: np.ndarray, seen: np.ndarray, positions: np.ndarray, past: dict[str, np.ndarray]
    ) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        outputs = ["logits", *[name.replace("past_key_values", "present") for name in self.past]]
        feed = {"input_ids": ids, "attention_mask": seen, "position_ids": positions}
        logits, *present = self.session.run(outputs, feed | past)
        return logits, dict(zip(self.past, present, strict=True))

    def prompt(self, prompts: Sequence[Sequence[int]]) -> tuple[np.ndarray, np.ndarray, np.ndarray, dict]:
        """Return ids padded on the left, the attention mask, positions, and an empty cache."""
        longest = max(map(len, prompts))
        ids, seen = np.zeros((2, len(prompts), longest), dtype=np.int64)
        for row, prompt in enumerate(prompts):
            ids[row, longest - len(prompt) :], seen[row, longest - len(prompt) :] = prompt, 1
        positions = np.maximum(seen.cumsum(1) - 1, 0)
        return ids, seen, positions, {name: np.zeros((len(prompts), *self.empty), np.float32) for name in self.past}

    def generate(self, prompts: Sequence[Sequence[int]], tokens: int) -> list[list[int]]:
        ids, seen, positions, past = self.prompt(prompts)
        written = []
        for _ in range(tokens):
            logits, past = self.step(ids, seen, positions, past)
            ids = logits[:, -1:].argmax(-1)
            written.append(ids[:, 0])
            seen = np.concatenate([seen, np.ones_like(ids)], 1)
            positions = positions[:, -1:] + 1
        return np.stack(written, 1).tolist()


@pytest.fixture(scope="module", params=["modern", "classic"])
def source(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp(request.param), trained_tokenizer(), family=request.param)


@pytest.fixture(scope="module")
def exported(source: Path) -> Path:
    return write_onnx(source, source / "onnx", int8=False)


@pytest.mark.slow
def test_greedy_tokens_are_the_same(source: Path, exported: Path) -> None:
    from transformers import AutoConfig

    model = weights.load(source)
    runtime = Runtime(exported, model.config)
    for prompts in (PROMPTS, PROMPTS[1:], PROMPTS[:1]):
        assert runtime.generate(prompts, 30) == generate(model, prompts, max_tokens=30)
    beside = ["chat_template.jinja", "special_tokens_map.json", "tokenizer_config.json"]
    beside += ["config.json", "generation_config.json"]
    shape = AutoConfig.from_pretrained(exported.parent.parent)
    cache = (shape.num_hidden_layers, getattr(shape, "num_key_value_heads", shape.num_attention_heads))
    assert cache == (model.config.layers, model.config.kv_heads)
    folder = exported.parent.parent
    found = {str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()}
    assert found == {"onnx/model.onnx", "tokenizer.json", *beside}
    ours, theirs = load(source), load(folder)
    assert theirs.encode("Return the", add_special_tokens=False).ids == ours.encode("Return the").ids
    assert theirs.encode("Return the").ids == [ours.token_to_id("<s>"), *ours.encode("Return the").ids]
    assert (folder / "chat_template.jinja").read_text() == Chat(ours).export_template


@pytest.fixture(scope="module")
def transformers_js(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not (shutil.which("node") and shutil.which("npm")):
        pytest.skip("node or npm is not installed")
    folder = tmp_path_factory.mktemp("node")
    # Without the scripts, one of which downloads CUDA.
    install = ["npm", "install", "--ignore-scripts", "--no-audit", "--no-fund", "--prefer-offline"]
    if subprocess.run([*install, "@huggingface/transformers@4"], cwd=folder, check=False).returncode:
        pytest.skip("the package registry does not answer")
    (folder / "run.mjs").write_text(_RUN_JS)
    return folder


_RUN_JS = """
import { env, AutoTokenizer, AutoModelForCausalLM } from "@huggingface/transformers";
const [parent, name, ...prompts] = process.argv.slice(2);
env.localModelPath = parent;
env.allowRemoteModels = false;
const tokenizer = await AutoTokenizer.from_pretrained(name);
const model = await AutoModelForCausalLM.from_pretrained(name, { dtype: "fp32" });
const found = [];
for (const prompt of prompts) {
  const output = await model.generate({ ...tokenizer(prompt), max_new_tokens: 20, do_sample: false });
  found.push(output.tolist()[0].map(Number));
}
console.log(JSON.stringify(found));
"""


@pytest.mark.slow
def test_transformers_js_loads_the_folder(source: Path, exported: Path, transformers_js: Path) -> None:
    text, model = load(source), weights.load(source)
    folder, prompts = exported.parent.parent, ["Return the", "naïve"]
    command = ["node", "run.mjs", f"{folder.parent}/", folder.name, *prompts]
    ran = subprocess.run(command, cwd=transformers_js, check=True, capture_output=True, text=True)
    ids = [[0, *text.encode(prompt, add_special_tokens=False).ids] for prompt in prompts]
    stops = Chat(text).stop_ids
    expected = [
        [*prompt, *more] for prompt, more in zip(ids, generate(model, ids, max_tokens=20, stop_ids=stops), strict=True)
    ]
    found = json.loads(ran.stdout.splitlines()[-1])
    assert [one[: len(ours)] for one, ours in zip(found, expected, strict=True)] == expected
    assert all(one[len(ours) :] in ([], *([stop] for stop in stops)) for one, ours in zip(found, expected, strict=True))


@pytest.mark.slow
def test_logits_are_the_same_in_one_pass_and_in_parts(source: Path, exported: Path) -> None:
    model = weights.load(source)
    runtime = Runtime(exported, model.config)
    tokens = list(range(10, 30))
    with torch.inference_mode():
        expected = model(torch.tensor([tokens])).numpy()
    ids, seen, positions, past = runtime.prompt([tokens])
    at_once, _ = runtime.step(ids, seen, positions, past)
    first, past = runtime.step(ids[:, :8], seen[:, :8], positions[:, :8], past)
    second, _ = runtime.step(ids[:, 8:], seen, positions[:, 8:], past)
    np.testing.assert_allclose(at_once, expected, atol=2e-4)
    np.testing.assert_allclose(np.concatenate([first, second], 1), expected, atol=2e-4)


@pytest.mark.slow
def test_names_and_sizes_are_the_usual_ones(source: Path, exported: Path) -> None:
    config = weights.load_config(source / "config.json")
    session = Runtime(exported, config).session
    found = {one.name: (one.type, one.shape) for one in (*session.get_inputs(), *session.get_outputs())}
    batch, new, past = "batch_size", "sequence_length", "past_sequence_length"
    assert found["input_ids"] == found["position_ids"] == ("tensor(int64)", [batch, new])
    assert found["attention_mask"][1][0] == batch
    assert found["logits"] == ("tensor(float)", [batch, new, config.vocabulary_size])
    for layer in range(config.layers):
        for part in ("key", "value"):
            kept = ("tensor(float)", [batch, config.kv_heads, past, config.head_size])
            assert found[f"past_key_values.{layer}.{part}"] == kept
            assert found[f"present.{layer}.{part}"][1][1::2] == [config.kv_heads, config.head_size]
    assert len(found) == 4 + 4 * config.layers


@pytest.mark.slow
def test_int8_is_small_and_near(source: Path, exported: Path) -> None:
    file = write_onnx(source, source / "onnx8", int8=True)
    config = weights.load_config(source / "config.json")
    matrices = config.parameter_count() - config.vocabulary_size * config.hidden * (1 if config.tied else 2)
    table = 2 * config.context * config.head_size if config.family == "modern" else config.context * config.hidden
    output = embedding = config.vocabulary_size * config.hidden
    stored = sum(len(tensor.raw_data) for tensor in onnx.load(file).graph.initializer)
    assert stored < 1.2 * (matrices + output + 4 * (embedding + table))
    original, small = Runtime(exported, config), Runtime(file, config)
    inputs = original.prompt([list(range(10, 60))])
    expected, found = original.step(*inputs)[0], small.step(*inputs)[0]
    error = np.linalg.norm(found - expected) / np.linalg.norm(expected - expected.mean(-1, keepdims=True))
    assert 0 < error < 0.06


def test_a_missing_library_is_one_message_before_any_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(UserError, match=r"needs onnxscript.*pip install 'homegrown\[onnx\]'"):
        write_onnx(tmp_path / "none", tmp_path / "out", int8=False)
    assert not list(tmp_path.iterdir())
