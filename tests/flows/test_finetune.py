"""The flow `finetune`: from a model and conversations to a merged model that every reader of models takes."""

import base64
import json
import queue
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result

from flows.export import export
from flows.finetune import finetune
from homegrown.cli.main import cli
from homegrown.config.finetune_recipe import FinetuneRecipe
from homegrown.config.pipelines import load_finetuning
from homegrown.inference.engine import Request
from homegrown.inference.generation import generate
from homegrown.inference.streaming import Chunk
from homegrown.model import weights
from homegrown.serving import loading
from homegrown.store import lookup, runs
from homegrown.store.artifacts import Store
from homegrown.store.garbage import garbage
from homegrown.store.manifest import Artifact, Order
from homegrown.tokenizer.chat import load_chat
from homegrown.util.errors import UserError
from homegrown.util.progress import Outcome
from tests.cluster.conftest import bucket, s3_environment, s3_server  # noqa: F401
from tests.finetuning.conversations import training, write_base, write_conversations


def add_base(store: Store, family: str = "modern") -> Artifact:
    """Put a model that nobody trained into the store, as one that was pretrained."""

    def build(out: Path) -> Outcome:
        write_base(out / "model", family)
        return Outcome(1, 1, "tokens", {})

    order = Order("pretrain", "code", {}, {})
    return store.make(order, store.slot("pretrain", order.key), build)[0]


def recipe_for(tmp_path: Path, *changes: str) -> FinetuneRecipe:
    write_conversations(tmp_path / "data.jsonl")
    recipe = load_finetuning(
        "tiny",
        [
            f"instructions.files=[{json.dumps(str(tmp_path / 'data.jsonl'))}]",
            *(
                "finetuning.method=lora",
                "finetuning.rank=2",
                "evaluation.samples=2",
                "evaluation.answer_tokens=3",
                "evaluation.pattern=it",
                "compute.workers=1",
            ),
            *changes,
        ],
    )
    steps = training(max_steps=3, validate_every=3, checkpoint_every=3, sample_every=3, sample_tokens=1)
    return recipe.model_copy(update={"training": steps})


@pytest.mark.slow
@pytest.mark.usefixtures("trains_here")
def test_an_adapter_becomes_a_model_that_everything_reads(in_prefect: Store, tmp_path: Path) -> None:
    base = add_base(in_prefect)
    made = finetune(recipe=recipe_for(tmp_path))
    assert list(made) == ["instructions", "finetune", "merge", "answers"]
    adapter = in_prefect.resolve("finetune")
    assert adapter.manifest.inputs["base"] == base.manifest.key
    assert {"adapter/adapter_config.json", "adapter/adapter_model.safetensors"} <= set(adapter.manifest.files)
    assert not any(name.startswith("model/") for name in adapter.manifest.files)
    assert base.path in {one.path for one in in_prefect.lineage(in_prefect.resolve("answers"))}
    merged = lookup.find_model(in_prefect, "finetune@1")
    assert merged.name == "merge@1"
    results = pq.read_table(made["answers"].path / "results").to_pylist()
    assert [row["model"] for row in results] == ["base", "fine-tuned"]
    assert "<table>" in (made["answers"].path / "report.html").read_text()
    # Nothing is made again, and collecting garbage leaves the base of what a run reached.
    again = finetune(recipe=recipe_for(tmp_path), base="pretrain@1")
    assert {name: one.folder for name, one in again.items()} == {name: one.folder for name, one in made.items()}
    assert garbage(in_prefect, 1, []) == []
    records = runs.recorded(in_prefect)
    assert [run.recipe["name"] for run in records.values()] == ["finetune-tiny", "finetune-tiny"]
    exported = export("finetune@1", "hf")
    config = json.loads((exported.path / "config.json").read_text())
    assert config["model_type"] == "qwen3"
    runner, store = CliRunner(), ["--artifacts", str(in_prefect.root)]
    said = runner.invoke(cli, [*store, "generate", "finetune@1", "--prompt", "box", "--max-length", "1"])
    assert said.exit_code == 0, said.output
    assert runner.invoke(cli, [*store, "artifacts"]).exit_code == 0
    check_served(in_prefect, base, adapter, merged)
    in_prefect.delete(merged.path)
    with pytest.raises(UserError, match="adapter without its merged model"):
        lookup.find_model(in_prefect, "finetune@1")


def check_served(store: Store, base: Artifact, adapter: Artifact, merged: Artifact) -> None:
    """One engine serves the base and the adapter on it, each as its own weights would."""
    source = loading.source("pretrain@1", base, base.path / "model", None)
    lora = loading.lora(store, adapter, source)
    limits = loading.Limits(rows=2, context=None, threads=1)
    served = loading.load(store, source, "homegrown", "cpu", limits, print, [lora])
    assert [name for name, _, _ in served] == ["pretrain@1", "finetune@1"]
    for (_, engine, _), one in zip(served, (base, merged), strict=True):
        chunks: queue.Queue[Chunk | Exception] = queue.Queue()
        engine.submit(Request(prompt_ids=[1, 2, 3], max_tokens=9), chunks.put)
        text = ""
        while True:
            chunk = chunks.get(timeout=60)
            assert isinstance(chunk, Chunk)
            text += chunk.text
            if chunk.finish_reason:
                break
        model, chat = weights.load(one.path / "model"), load_chat(one.path / "model")
        [expected] = generate(model, [[1, 2, 3]], max_tokens=9, stop_ids=chat.stop_ids)
        assert text == chat.tokenizer.decode([token for token in expected if token not in chat.stop_ids])
        assert engine.embed([1, 2, 3]) != []
    served[0][1].close()
    with pytest.raises(UserError, match=r"--lora merge@1 has no adapter"):
        loading.lora(store, merged, source)


@pytest.mark.slow
@pytest.mark.usefixtures("trains_here")
def test_all_weights_of_an_exported_model_learn(in_prefect: Store, tmp_path: Path) -> None:
    """A folder as base, `full`, a quantized variant; classic, because no step of it is compiled, which takes long."""
    add_base(in_prefect, "classic")
    folder = export("pretrain", "hf").path
    recipe = recipe_for(tmp_path, f"base={folder}", "finetuning.method=full", "quantization.variants=[int8]")
    made = finetune(recipe=recipe)
    assert list(made) == ["base", "instructions", "finetune", "quantize", "answers"]
    trained = lookup.find_model(in_prefect, "finetune")
    before, after = (weights.load(one.path / "model").state_dict() for one in (made["base"], trained))
    assert before.keys() == after.keys()
    # The same number added to all scores of a query changes nothing, so biases of keys have no gradient.
    assert not any(before[name].equal(after[name]) for name in before if "k_proj.bias" not in name)


@pytest.mark.slow
def test_conversations_of_a_store_are_learned_by_the_command_and_its_secret_is_kept_nowhere(
    in_prefect: Store,
    tmp_path: Path,
    bucket: str,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import s3fs

    secret = "a-secret-of-this-test"
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", secret)
    add_base(in_prefect, "classic")
    write_conversations(tmp_path / "data.jsonl")
    s3fs.S3FileSystem().put(str(tmp_path / "data.jsonl"), f"{bucket}/talks/data.jsonl")
    sizes = ("max_steps=2", "warmup_steps=1", "batch_size=2", "validate_every=2", "sample_tokens=1", "precision=fp32")
    changes = [*(f"training.{size}" for size in sizes), "evaluation.samples=1", "evaluation.answer_tokens=2"]
    arguments = [word for change in [*changes, "compute.workers=1"] for word in ("--set", change)]

    def learn(address: str, *more: str) -> Result:
        store = ["--artifacts", str(in_prefect.root)]
        return CliRunner().invoke(cli, [*store, "finetune", "tiny", "--data", address, *arguments, *more])

    done = learn(f"{bucket}/talks")
    assert done.exit_code == 0, done.output
    assert "homegrown chat finetune@1" in done.output
    held_out = pq.read_table(in_prefect.resolve("instructions").path / "held_out").to_pylist()
    assert {row["path"].removeprefix("s3://") for row in held_out} == {
        f"{bucket}/talks/data.jsonl".removeprefix("s3://")
    }
    kept = [path.read_bytes() for path in in_prefect.root.rglob("*") if path.is_file()]
    assert any(bucket.encode() in content for content in kept)
    forms = (secret.encode(), base64.b64encode(secret.encode()))
    assert not any(form in content for content in [*kept, done.output.encode()] for form in forms)
    # What is not there is told before a run begins.
    nothing = learn(f"{bucket}/nothing.jsonl")
    assert (nothing.exit_code, nothing.output.count("\n")) == (1, 1)
    assert f"no file or folder {bucket}/nothing.jsonl." in nothing.output
    assert len(runs.recorded(in_prefect)) == 1
    other = " ".join(learn(f"{bucket}/talks", "--set", "evaluation.answer_tokens=1").output.split())
    assert "answers: runs again, because it differs from answers@1: answer_tokens 2 → 1." in other


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["base=pretrain@7"], "no version 7 of pretrain"),
        (["base=./nowhere"], r"nowhere has no config\.json"),
        (["base=instructions"], "no artifact of stage 'instructions'"),
        (["finetuning.method=qlora", "base=narrow"], "no artifact of stage 'narrow'"),
    ],
)
def test_a_base_that_is_not_there_is_one_sentence(
    in_prefect: Store, tmp_path: Path, changes: list[str], message: str
) -> None:
    add_base(in_prefect)
    with pytest.raises(UserError, match=message) as refusal:
        finetune(recipe=recipe_for(tmp_path, *changes))
    assert "\n" not in str(refusal.value)
    assert in_prefect.outputs(in_prefect.resolve("pretrain")) == []
