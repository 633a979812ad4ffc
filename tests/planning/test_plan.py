"""The plan: its arithmetic, earlier runs beside the prediction, and the command line."""

import json
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from homegrown.cli.main import cli
from homegrown.config.pipelines import load_any, load_recipe
from homegrown.config.recipe import Recipe
from homegrown.model.config import ModelConfig
from homegrown.planning import plan as module
from homegrown.planning.compute import config_of
from homegrown.planning.gpus import find
from homegrown.planning.machine import Machine
from homegrown.planning.memory import LATER_BYTES, PROCESS_BYTES
from homegrown.planning.plan import Plan, make_plan
from homegrown.planning.probe import Probed, slice_of, work
from homegrown.planning.render_plan import print_plan
from homegrown.planning.target import gpus_as_target, this_machine_as_target
from homegrown.store import runs
from homegrown.store.artifacts import Store
from homegrown.store.manifest import Order
from homegrown.training.pretraining import pretrain
from homegrown.util.progress import Outcome

STORE = Store(Path("artifacts"))
LAPTOP = Machine("a processor", 4, ("AVX2",), 8 * 2**30, ())


def on_gpus(recipe: Recipe, store: Store, name: str, count: int, **options: Any) -> Plan:
    return make_plan(recipe, store, gpus_as_target(find(name), count, recipe, None), **options)


def probed(recipe: Recipe, **changes: Any) -> Probed:
    values = {
        "model": recipe.model,
        "training": recipe.training,
        "device": "a processor",
        "kind": "cpu",
        "precision": "float32",
        "micro_batch_size": 4,
        "compiled": False,
        "steps": 5,
        "step_seconds": 0.5,
        "busy_seconds": 0.5,
        "tokens_per_second": 2048.0,
        "model_flops_utilisation": 0.4,
        "peak_flops": 1e11,
        "seconds_to_first_step": 4.0,
        "busy_seconds_to_first_step": 4.0,
        "peak_memory_bytes": 10**9,
        "base_memory_bytes": 4 * 10**8,
        "watts": None,
    }
    return Probed.model_validate(values | changes)


def test_the_guides_figures_are_set_beside_the_true_ones(store: Store) -> None:
    plan = on_gpus(load_recipe("large"), store, "h100", 8)
    assert plan.guide_parameters == 1.3e9
    assert plan.parameters == pytest.approx(2.21e9, rel=0.01)
    assert on_gpus(load_recipe("tiny"), store, "h100", 1).guide_parameters is None


def test_time_on_gpus_is_that_of_six_n_d_and_attention(store: Store) -> None:
    """6 N D operations (Kaplan et al. 2020) at the assumed share of the peak, and a tenth more for attention."""
    recipe = load_recipe("large", ["training.optimizer=adamw"])  # Muon's own products are no model FLOPs
    plan = on_gpus(recipe, store, "h100", 8, utilisation=0.5)
    assert plan.cost is not None
    by_rule = 6 * plan.parameters * plan.tokens / (8 * 989e12 * 0.5)
    assert 1.05 < plan.cost.seconds / by_rule < 1.25
    assert plan.cost.model_flops_utilisation == pytest.approx(0.5, rel=0.02)
    assert plan.cost.kilowatt_hours == pytest.approx(8 * 0.7 * plan.cost.seconds / 3600)
    twice = on_gpus(recipe, store, "h100", 16, utilisation=0.5)
    assert twice.cost is not None
    assert plan.cost.tokens_per_second == pytest.approx(twice.cost.tokens_per_second / 2, rel=0.02)


def test_this_machine_is_measured_and_its_power_assumed(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = load_recipe("tiny")
    monkeypatch.setattr(module, "probe", lambda *_, **__: probed(recipe))
    plan = make_plan(recipe, store, this_machine_as_target(LAPTOP, recipe, None))
    assert plan.cost is not None
    steps, settings = recipe.training.max_steps, recipe.training
    tokens_per_second = settings.batch_size * recipe.model.context / 0.5
    validations = -(-steps // settings.validate_every) * settings.validation_tokens / 3 / tokens_per_second
    assert plan.cost.seconds == pytest.approx(steps * 0.5 + validations)
    assert plan.cost.watts == 40
    assert "10 W per processor" in plan.cost.watts_source
    counted = probed(recipe, watts=31.0)
    monkeypatch.setattr(module, "probe", lambda *_, **__: counted)
    plan = make_plan(recipe, store, this_machine_as_target(LAPTOP, recipe, None))
    assert plan.cost is not None
    assert (plan.cost.watts, plan.cost.watts_source) == (31.0, "the processor's own counter")


def test_a_slice_is_scaled_by_its_operations(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = load_recipe("small", ["training.optimizer=adamw"])
    half = recipe.training.model_copy(update={"batch_size": recipe.training.batch_size // 2})
    monkeypatch.setattr(module, "probe", lambda *_, **__: probed(recipe, training=half))
    plan = make_plan(recipe, store, this_machine_as_target(LAPTOP, recipe, None))
    assert plan.cost is not None
    assert plan.cost.step_seconds == pytest.approx(2 * 0.5)
    assert "of a slice" in plan.cost.source


@pytest.mark.parametrize("name", ["tiny", "small", "large"])
def test_a_slice_is_as_small_as_it_must_be(name: str) -> None:
    recipe = load_recipe(name)
    config = config_of(recipe, STORE)

    def cut(flops_per_second: float) -> tuple[Any, Any]:
        return slice_of(
            recipe.model,
            recipe.training,
            config.vocabulary_size,
            1,
            flops_per_second=flops_per_second,
            step_seconds=2.0,
            layers=recipe.model.layers,
        )

    assert cut(1e30) == (recipe.model, recipe.training)
    assert cut(work(config, recipe.training, 1) / 0.5 * 1.001) == (recipe.model, recipe.training)
    model, training = cut(1e11)
    assert (model.hidden, model.feed_forward) == (recipe.model.hidden, recipe.model.feed_forward)
    assert training.batch_size % (1 if training.micro_batch_size == "auto" else training.micro_batch_size) == 0
    smallest, _ = cut(1.0)
    assert smallest.layers == 1


@pytest.fixture
def trained(store: Store, tmp_path: Path) -> tuple[Recipe, dict[str, Any]]:
    """A recipe that was really trained, as an artifact of a recorded run; and the summary of the training."""
    from homegrown.planning.synthetic import write_synthetic

    small = ["model.hidden=64", "model.layers=2", "model.heads=2", "model.kv_heads=1", "model.feed_forward=128"]
    steps = ["training.max_steps=12", "training.warmup_steps=2", "training.validation_tokens=512", "model.context=128"]
    steps += ["training.batch_size=4", "training.micro_batch_size=4"]
    recipe = load_recipe("tiny", [*small, *steps, "tokenizer.vocabulary_size=300", "training.sample_prompts=[]"])
    write_synthetic(tmp_path, 300, recipe.model.context, 32)

    def build(out: Path) -> Outcome:
        folders = (out, tmp_path / "packed", tmp_path / "tokenizer")
        return pretrain(*folders, recipe.model, recipe.training, seed=1, device="cpu", processes=1)

    order = Order("pretrain", "code", {}, {})
    artifact, _ = store.make(order, store.slot("pretrain", order.key), build)
    values = recipe.model_dump(mode="json")
    runs.record(store, "one", runs.RunRecord(recipe=values, started=datetime.now(UTC), keys={"pretrain": order.key}))
    return recipe, artifact.manifest.metrics


@pytest.mark.slow
@pytest.mark.usefixtures("trains_here")
def test_what_a_run_took_is_set_beside_what_is_predicted(
    store: Store, trained: tuple[Recipe, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, summary = trained
    plan = make_plan(recipe, store, this_machine_as_target(LAPTOP, recipe, None), measure=False)
    (past,) = plan.past
    assert past.artifact == "pretrain@1"
    assert (past.tokens_per_second, past.seconds) == (summary["tokens_per_second"], summary["seconds"])
    # The plan's memory is of the training alone, and a process holds PyTorch besides.
    assert past.peak_memory_bytes == pytest.approx(summary["peak_memory_megabytes"] * 1e6)
    assert plan.fits[0].memory.peak < past.peak_memory_bytes
    # The same training of other text is the same; another one is not.
    assert make_plan(recipe.model_copy(update={"seed": 2}), store, plan.target, measure=False).past == [past]
    longer = recipe.training.model_copy(update={"max_steps": 13})
    assert not make_plan(recipe.model_copy(update={"training": longer}), store, plan.target, measure=False).past
    monkeypatch.setattr("homegrown.config.pipelines.load_recipe", lambda *_: recipe)
    shown = CliRunner().invoke(cli, ["--artifacts", str(store.root), "plan", "tiny", "--no-measure"])
    assert "pretrain@1" in shown.output
    assert f"{past.tokens_per_second:,.0f}" in shown.output
    beside = ["--artifacts", str(store.root), "plan", "tiny", "--gpu", "h100"]
    assert "…" not in CliRunner().invoke(cli, beside, env={"COLUMNS": "80"}).output


def test_the_command_prints_a_table_and_json(store: Store) -> None:
    arguments = ["--artifacts", str(store.root), "plan", "large", "--gpu", "h100", "--count", "8"]
    shown = CliRunner().invoke(cli, arguments, env={"COLUMNS": "80"})
    assert shown.exit_code == 0
    said = " ".join(shown.output.split())
    assert "2,214,733,824 parameters; the guide's 1.3 B does not follow from its own table" in said
    # Nothing of the memory is cut off: each way's name, and whether it fits.
    head, verdict = shown.output.partition("Memory in GB")[2].split("\nrows ")
    assert (head.count("DDP"), head.count("FSDP2"), head.count("checkpointing")) == (2, 2, 2)
    assert verdict.count("fits") + verdict.count("too much") == 4
    told = json.loads(CliRunner().invoke(cli, [*arguments, "--json"]).output)
    assert told["parameters"] == 2_214_733_824
    assert told["cost"]["kilowatt_hours"] > 0


def test_the_command_says_what_follows_from_fewer_steps(store: Store, capfd: pytest.CaptureFixture[str]) -> None:
    arguments = ["--artifacts", str(store.root), "plan", "large", "--set", "training.max_steps=3", "--gpu", "h100"]
    shown = CliRunner().invoke(cli, [*arguments, "--json"])
    assert shown.stderr.startswith("training.warmup_steps is 0, not 1,000: at most a tenth of max_steps (3)")
    assert json.loads(shown.stdout)["steps"] == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--gpu", "h900"], "unknown GPU; choose one of"),
        (["--count", "8"], "need --gpu"),
        (["--gpu", "h100", "--mfu", "nan"], "--mfu is nan"),
        (["--watts", "inf"], "--watts is inf"),
        (["--gpu", "h100", "--count", "7"], "must divide training.batch_size"),
    ],
)
def test_mistakes_are_one_message(store: Store, arguments: list[str], message: str) -> None:
    shown = CliRunner().invoke(cli, ["--artifacts", str(store.root), "plan", "small", *arguments])
    assert shown.exit_code == 1
    assert message in shown.output
    assert len(shown.output.strip().splitlines()) == 1


def test_arithmetic_needs_no_pytorch() -> None:
    code = "import homegrown.planning.plan, homegrown.planning.doctor, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.fixture
def base(tmp_path: Path) -> str:
    """A folder of a Hugging Face model, of which a plan reads the configuration only."""
    config = {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "vocab_size": 512,
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "intermediate_size": 128,
        "max_position_embeddings": 1024,
        "rope_theta": 10000.0,
        "rms_norm_eps": 1e-5,
        "hidden_act": "silu",
        "tie_word_embeddings": True,
    }
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "config.json").write_text(json.dumps(config))
    (tmp_path / "base" / "tokenizer.json").write_text("{}")
    (tmp_path / "base" / "model.safetensors").write_bytes(b"")
    return str(tmp_path / "base")


def test_a_fine_tuning_has_its_rows_and_epochs(store: Store, base: str, tmp_path: Path) -> None:
    """100 conversations of 10 words, of which 5 are held out, in rows of 64 tokens."""
    said = {"prompt": "One two three four five.", "completion": "Six seven eight nine ten."}
    (tmp_path / "said.jsonl").write_text("".join(f"{json.dumps(said)}\n" for _ in range(100)))
    changes = [f"base={base}", f"instructions.files=[{tmp_path / 'said.jsonl'}]", "finetuning.method=lora"]
    recipe = load_any("finetune/tiny", [*changes, "training.sequence_length=64", "training.epochs=2"])
    plan = make_plan(recipe, store, this_machine_as_target(LAPTOP, recipe, None), measure=False)
    rows = -(-plan.text.tokens // 64)
    assert plan.text.tokens == pytest.approx(95 * (49 / 2.4 + 12), rel=0.3)
    assert plan.steps == -(-2 * rows // recipe.training.batch_size)
    assert (plan.sequence_length, plan.step_tokens) == (64, 64 * recipe.training.batch_size)
    assert plan.epochs == plan.steps * recipe.training.batch_size / rows
    assert plan.trained_parameters == 2 * 16 * (2 * (64 + 64) + 2 * (32 + 64) + 3 * (128 + 64))
    assert plan.compute_optimal_tokens is None
    every = load_any("finetune/tiny", [*changes, "training.sequence_length=64", "finetuning.method=full"])
    full = make_plan(every, store, this_machine_as_target(LAPTOP, every, None), measure=False)
    assert full.trained_parameters == full.parameters
    assert full.fits[0].memory.optimizer > 3 * plan.fits[0].memory.optimizer
    print_plan(plan)


def test_rows_are_as_long_as_the_longest_conversation(store: Store, base: str, tmp_path: Path) -> None:
    for words, length in ((1, 256), (200, None), (5000, 1024)):
        said = {"prompt": "A long question.", "completion": "several " * words}
        (tmp_path / "said.jsonl").write_text(json.dumps(said))
        recipe = load_any("finetune/tiny", [f"base={base}", f"instructions.files=[{tmp_path / 'said.jsonl'}]"])
        plan = make_plan(recipe, store, this_machine_as_target(LAPTOP, recipe, None), measure=False)
        assert plan.sequence_length == length or (length is None and 256 < plan.sequence_length < 1024)


def test_an_adapter_is_measured_as_one(store: Store, base: str) -> None:
    """Real steps of an adapter on a frozen model of the base's shape."""
    short = ["adaptation.context=64", "evaluation.prompt_tokens=8", "evaluation.continuation_tokens=8"]
    recipe = load_any("adapt/starter", [f"base={base}", "training.batch_size=4", *short])
    plan = make_plan(recipe, store, this_machine_as_target(LAPTOP, recipe, None))
    assert plan.adapter is not None
    assert plan.cost is not None
    assert plan.cost.seconds > 0
    assert plan.flops_per_token < ModelConfig.flops_per_token(config_of(recipe, store))


def test_the_memory_of_a_measured_training_is_what_was_measured(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = load_recipe("tiny", ["training.micro_batch_size=4", "training.compile=never"])
    target = this_machine_as_target(LAPTOP, recipe, None)
    alone = recipe.training.model_copy(update={"checkpoint_every": 10**9})
    monkeypatch.setattr(module, "probe", lambda *_, **__: probed(recipe, training=alone, peak_memory_bytes=10**9))
    plan = make_plan(recipe, store, target)
    # What the process held, what a run loads later, and the copy of its checkpoints, which the probe does not write.
    assert plan.memory_bytes == 10**9 + LATER_BYTES + plan.fits[0].memory.checkpoint
    unmeasured = make_plan(recipe, store, target, measure=False)
    assert unmeasured.memory_bytes == PROCESS_BYTES + plan.fits[0].memory.peak
