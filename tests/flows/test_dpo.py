"""The flow `dpo`: from a model and pairs of answers to a model that every reader of models takes, before and after."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey

from flows.export import export
from homegrown.cli.main import cli
from homegrown.comparison.history import history
from homegrown.rating.items import items_of, with_completions
from homegrown.store import lookup, runs
from homegrown.store.artifacts import Store
from tests.flows.test_finetune import add_base, recipe_for

SIZES = (
    *("finetuning.rank=2", "evaluation.samples=2", "evaluation.answer_tokens=3", "compute.workers=1"),
    *("training.max_steps=3", "training.warmup_steps=1", "training.batch_size=2", "training.validate_every=3"),
    *("training.checkpoint_every=3", "training.sample_every=3", "training.sample_tokens=1", "training.precision=fp32"),
)


def write_pairs(path: Path, count: int = 12) -> Path:
    pairs = [{"prompt": f"box {n}?", "chosen": "it is red", "rejected": f"grey {n}"} for n in range(count)]
    path.write_text("".join(json.dumps(pair) + "\n" for pair in [*pairs, {"prompt": "box?", "chosen": "red"}]))
    return path


@pytest.mark.slow
@pytest.mark.usefixtures("trains_here")
def test_a_fine_tuned_model_is_trained_on_preferences_and_is_a_model_like_others(
    in_prefect: Store, tmp_path: Path
) -> None:
    """By the command, on a model that was fine-tuned with a system message, which the result keeps."""
    from flows.finetune import finetune

    add_base(in_prefect)
    finetune(recipe=recipe_for(tmp_path, "instructions.system=Be kind."))
    pairs = write_pairs(tmp_path / "pairs.jsonl")
    runner, store = CliRunner(), ["--artifacts", str(in_prefect.root)]
    changes = [word for change in ("finetuning.method=lora", *SIZES) for word in ("--set", change)]
    command = [*store, "dpo", "tiny", "--data", str(pairs), *changes]
    done = runner.invoke(cli, command)
    assert done.exit_code == 0, done.output
    assert "win rate" in done.output and "homegrown chat dpo@1" in done.output
    [*_, record] = runs.recorded(in_prefect).values()
    assert list(record.keys) == ["preferences", "dpo", "merge", "win-rate"]
    base, trained = lookup.find_model(in_prefect, "finetune@1"), in_prefect.resolve("dpo@1")
    assert trained.manifest.inputs["base"] == base.manifest.key
    assert json.loads((lookup.find_model(in_prefect, "dpo@1").path / "model/chat.json").read_text())["system"] == (
        "Be kind."
    )
    assert in_prefect.resolve("preferences").manifest.metrics["skipped"] == 1
    skipped = runner.invoke(cli, [*store, "sql", "select position, reason from preferences.skipped"])
    assert "13" in skipped.output and "has no key 'rejected'" in skipped.output
    page = (in_prefect.resolve("win-rate").path / "report.html").read_text()
    assert "reward margin" in page and "it is red" in page
    assert [one.measured for one in history(in_prefect)] == ["answers", "win-rate"]
    pages = {"preferences-report", "dpo-report", "win-rate-report", "win-rate-table"}
    with get_client(sync_client=True) as client:
        # By key: a server shared with other tests answers with its first 200 pages only.
        posted = client.read_artifacts(artifact_filter=ArtifactFilter(key=ArtifactFilterKey(any_=sorted(pages))))
    assert {one.key for one in posted} == pages
    rated = items_of([with_completions(in_prefect, "dpo@1")], 8)
    assert {"win-rate@1/base", "win-rate@1/fine-tuned"} <= {system for item in rated for system in item.systems}
    # The same command again makes nothing; the model is exported, with its training on the card.
    assert runner.invoke(cli, command).exit_code == 0
    assert [one.manifest.stage for one in in_prefect.all()].count("dpo") == 1
    other = runner.invoke(cli, [*command, "--set", "evaluation.samples=1"]).output
    assert "win-rate: runs again, because it differs from win-rate@1: samples 2 → 1." in " ".join(other.split())
    card = (export("dpo@1", "hf").path / "README.md").read_text()
    assert "fine-tuned on conversations and then trained on preferences (DPO)" in card
    assert "Of preference optimization:" in card
    said = runner.invoke(cli, [*store, "generate", "dpo@1", "--prompt", "box", "--max-length", "1"])
    assert said.exit_code == 0, said.output


@pytest.mark.slow
@pytest.mark.usefixtures("trains_here")
def test_a_folder_is_a_base_and_variants_are_measured_on_pairs(in_prefect: Store, tmp_path: Path) -> None:
    """All weights, in rows of two answers that are longer than the context of the base."""
    from flows.dpo import dpo
    from homegrown.config.pipelines import load_dpo

    add_base(in_prefect, "classic")
    folder = export("pretrain", "hf").path
    pairs = write_pairs(tmp_path / "pairs.jsonl")
    changes = [f"preferences.files=[{json.dumps(str(pairs))}]", f"base={json.dumps(str(folder))}", *SIZES]
    made = dpo(recipe=load_dpo("tiny", [*changes, "quantization.variants=[int8]", "training.sequence_length=100"]))
    assert list(made) == ["base", "preferences", "dpo", "quantize", "win-rate"]
    assert lookup.find_model(in_prefect, "dpo").name == "dpo@1"
