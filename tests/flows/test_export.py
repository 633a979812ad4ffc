"""The flow `export`: a cached artifact with lineage and a model card, found by name or key, and copied out whole."""

import errno
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch
import yaml
from click.testing import CliRunner
from gguf import GGUFReader
from huggingface_hub import ModelCard
from prefect import get_client
from prefect.client.schemas.filters import FlowRunFilter
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

from flows.export import export
from homegrown.cli.main import cli
from homegrown.model import weights
from homegrown.model.config import ModelConfig
from homegrown.model.transformer import Transformer
from homegrown.store import lookup, runs
from homegrown.store.artifacts import Store
from homegrown.store.garbage import garbage
from homegrown.store.manifest import Artifact, Order
from homegrown.tokenizer.encoding import SPLIT_PATTERN
from homegrown.tokenizer.special import SPECIAL_TOKENS
from homegrown.util.errors import UserError
from homegrown.util.files import write_parquet
from homegrown.util.progress import Outcome
from tests.flows.small import small_recipe

PRETRAINED = {"parameters": 30_000, "validation_bits_per_byte": 2.125}


def write_model(out: Path, family: str) -> None:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: number for number, token in enumerate([*SPECIAL_TOKENS, *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.add_special_tokens(list(SPECIAL_TOKENS))
    split = pre_tokenizers.Split(Regex(SPLIT_PATTERN), behavior="isolated")
    bytes_of = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, bytes_of])
    tokenizer.decoder = decoders.ByteLevel()
    settings = small_recipe(Path("data")).model.model_copy(update={"family": family, "layers": 1, "kv_heads": 2})
    torch.manual_seed(2)
    model = Transformer(ModelConfig.from_settings(settings, len(vocabulary), 0.0))
    model.initialize()
    weights.save(model, out / "model")
    tokenizer.save(str(out / "model" / "tokenizer.json"))


@pytest.fixture
def grow(store: Store, tmp_path: Path) -> Callable[..., dict[str, Artifact]]:
    """A chain of artifacts as a run of `tiny` leaves it, of a corpus that nobody read, a model that nobody trained."""

    def make_all(family: str = "modern") -> dict[str, Artifact]:
        recipe = small_recipe(tmp_path / "secret place" / "notes").model_dump(mode="json")
        made: dict[str, Artifact] = {}

        def make(stage: str, section: str, inputs: list[str], counts: tuple[int, int], **metrics: Any) -> None:
            settings = {"settings": recipe[section], "seed": 1}
            if stage == "pretrain":
                settings["model"] = recipe["model"]
            order = Order(stage, f"code of {stage}", settings, {one: made[one].manifest.key for one in inputs})

            def build(out: Path) -> Outcome:
                if stage == "pretrain":
                    write_model(out, family)
                elif stage == "evaluate":
                    table = pa.table({"variant": ["original", "int8"], "bits_per_byte": [2.25, 2.5]})
                    write_parquet(out / "results" / "part-00000.parquet", table)
                else:
                    (out / "something").write_text(stage)
                return Outcome(*counts, metrics=metrics)

            made[stage], _ = store.make(order, store.slot(stage, order.key), build)

        make("ingest", "ingest", [], (1234, 1230), quarantined=4)
        make("dedup", "dedup", ["ingest"], (1230, 1111), exact_duplicates=19, near_duplicates=100)
        make("filter", "filter", ["dedup"], (1111, 999), dropped_min_characters=112)
        make("shard", "shard", ["filter"], (999, 998), dropped_contaminated=1)
        make("tokenizer", "tokenizer", ["shard"], (900, 263))
        tokens = {"train_tokens": 54_321, "validation_tokens": 543, "test_tokens": 210}
        make("pack", "pack", ["shard", "tokenizer"], (998, 998), **tokens)
        make("pretrain", "training", ["pack", "tokenizer"], (54_321, 54_321), **PRETRAINED)
        make("evaluate", "evaluation", ["pretrain", "pack", "tokenizer"], (1, 2))
        return made

    return make_all


def states(state: Any) -> list[str]:
    with get_client(sync_client=True) as client:
        of_run = FlowRunFilter(id={"any_": [state.state_details.flow_run_id]})
        return [str(one.state_name) for one in client.read_task_runs(flow_run_filter=of_run)]


@pytest.mark.slow
def test_an_export_is_an_artifact_with_lineage_and_a_card(
    in_prefect: Store, grow: Callable[..., dict[str, Artifact]]
) -> None:
    made = grow()
    first = export("pretrain", "hf", return_state=True)
    artifact = in_prefect.resolve("export@1")
    assert states(first) == ["Completed"]
    assert artifact.manifest.inputs == {stage: made[stage].manifest.key for stage in ("pretrain", "evaluate")}
    assert artifact.manifest.settings["settings"] == {"format": "hf", "type": "f32"}
    assert {one.name for one in in_prefect.lineage(artifact)} == {one.name for one in made.values()}

    again = export("pretrain@1", "hf", "f32", return_state=True)
    assert (states(again), again.result()) == (["Cached"], first.result())
    assert export(made["pretrain"].manifest.key[:12], "hf", "bf16").folder.startswith("2-")
    assert {run.recipe["name"] for run in runs.recorded(in_prefect).values()} == {"export-hf"}
    freed = [item.path for item in garbage(in_prefect, keep_runs=2, keep=[])]
    assert not {in_prefect.resolve(f"export@{version}").path for version in (1, 2)} & set(freed)

    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(artifact.path).eval()
    tokens = AutoTokenizer.from_pretrained(artifact.path)("Return the", return_tensors="pt")["input_ids"]
    with torch.inference_mode():
        ours = weights.load(made["pretrain"].path / "model")(tokens)
        torch.testing.assert_close(model(tokens).logits, ours, atol=1e-4, rtol=0)
    the_card(ModelCard.load(artifact.path / "README.md"), made)


def the_card(card: ModelCard, made: dict[str, Artifact]) -> None:
    assert (card.data.library_name, card.data.pipeline_tag) == ("transformers", "text-generation")
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in card.text.splitlines() if "|" in line]
    assert ["ingest", "1,234", "1,230", "quarantined 4"] in rows
    assert ["dedup", "1,230", "1,111", "exact_duplicates 19, near_duplicates 100"] in rows
    assert ["filter", "1,111", "999", "min_characters 112"] in rows
    assert ["shard", "999", "998", "contaminated 1"] in rows
    assert "54,321 train, 543 validation, 210 test" in card.text
    assert ["validation bits per byte", "2.125"] in rows
    assert ["int8", "2.5"] in rows
    assert [row[:2] for row in rows if row[0].startswith("pack@")] == [
        ["pack@1", f"`{made['pack'].manifest.key[:16]}`"]
    ]
    recipe = yaml.safe_load(card.text.split("```yaml\n")[1].split("```")[0])
    told = made["pretrain"].manifest.settings
    assert (recipe["model"], recipe["training"], recipe["seed"]) == (told["model"], told["settings"], 1)
    assert recipe["filter"] == made["filter"].manifest.settings["settings"]
    assert recipe["ingest"]["sources"][0]["path"] == "…/notes"
    assert "secret" not in card.text


@pytest.mark.slow
def test_the_command_copies_it_out(in_prefect: Store, grow: Callable[..., dict[str, Artifact]], tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    grow("classic")

    def answer(*arguments: str) -> Any:
        return CliRunner().invoke(cli, ["--artifacts", str(in_prefect.root), "export", *arguments])

    out = tmp_path / "exported" / "model"
    done = answer("pretrain", "--to", "hf", "--out", str(out))
    assert done.exit_code == 0, done.output
    assert f"export@1 is in {out}" in " ".join(done.output.split())
    assert f"pipeline('text-generation', '{out}')" in done.output
    artifact = in_prefect.resolve("export")
    assert sorted(path.name for path in out.iterdir()) == sorted(artifact.manifest.files)
    assert AutoModelForCausalLM.from_pretrained(out).config.model_type == "opt"

    for arguments, sentence in {
        ("pretrain", "--to", "hf", "--out", str(out)): "exists and is not empty",
        ("pretrain@7", "--to", "hf"): "There is no version 7 of pretrain",
        ("evaluate", "--to", "hf"): "evaluate@1 has no model",
        ("--to", "hf", "--type", "q8_0"): "hf has the types f32, bf16, f16, not q8_0",
        ("--to", "hf", "--type", ""): "(given: '')",
    }.items():
        refused = answer(*arguments)
        assert refused.exit_code == 1
        assert sentence in refused.output.replace("\n", " ")
        assert "Traceback" not in refused.output


@pytest.mark.slow
def test_gguf_and_ollama_are_one_artifact(in_prefect: Store, grow: Callable[..., dict[str, Artifact]]) -> None:
    made = grow()
    first = export("pretrain", "ollama")
    assert export("pretrain", "gguf") == first
    artifact = in_prefect.resolve("export")
    assert set(artifact.manifest.files) == {"model-q8_0.gguf", "Modelfile"}
    assert artifact.manifest.inputs == {"pretrain": made["pretrain"].manifest.key}
    assert "FROM ./model-q8_0.gguf\n" in (artifact.path / "Modelfile").read_text()
    ours = weights.load(made["pretrain"].path / "model").config
    fields = GGUFReader(artifact.path / "model-q8_0.gguf").fields
    assert fields["general.architecture"].contents() == "qwen3"
    assert fields["qwen3.context_length"].contents() == ours.context


@pytest.mark.slow
def test_what_a_family_does_not_allow_is_one_sentence(
    in_prefect: Store, grow: Callable[..., dict[str, Artifact]]
) -> None:
    grow("classic")
    with pytest.raises(UserError, match=r"llama\.cpp has no architecture with sinusoidal positions") as caught:
        export("pretrain", "gguf")
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match=r"gguf has the types q8_0.*, not int8"):
        export("pretrain", "gguf", "int8")
    assert not [one for one in in_prefect.all() if one.manifest.stage == "export"]


def test_a_model_is_found_by_name_or_key(store: Store, grow: Callable[..., dict[str, Artifact]]) -> None:
    made = grow()
    key = made["pretrain"].manifest.key
    for name in ("pretrain", "pretrain@1", key, key[:8]):
        assert lookup.find_model(store, name) == made["pretrain"]
    with pytest.raises(UserError, match="filter@1 has no model"):
        lookup.find_model(store, made["filter"].manifest.key)
    with pytest.raises(UserError, match="no artifact whose key starts with 00000000"):
        lookup.find_model(store, "00000000")
    with (made["pretrain"].path / "model" / "model.safetensors").open("r+b") as file:
        file.write(b"damage")
    with pytest.raises(UserError, match=r"pretrain@1 is damaged \(model/model.safetensors"):
        lookup.find_model(store, "pretrain")


def test_a_copy_is_whole_or_not_there(
    grow: Callable[..., dict[str, Artifact]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, copy = grow()["pretrain"], shutil.copyfile

    def break_down(source: Path, target: Path) -> None:
        if source.name == "tokenizer.json":
            raise OSError(errno.EIO, "the disk is gone")
        copy(source, target)

    out = tmp_path / "out" / "copy"
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "copyfile", break_down)
        with pytest.raises(UserError, match="copy cannot be written"):
            lookup.copy_out(model, out)
    assert list(out.parent.iterdir()) == []

    out.mkdir()  # an empty folder is in nobody's way
    lookup.copy_out(model, out)
    found = {path.relative_to(out).as_posix(): path.stat().st_size for path in out.rglob("*") if path.is_file()}
    assert found == {name: facts.bytes for name, facts in model.manifest.files.items()}
    with pytest.raises(UserError, match="exists and is not empty"):
        lookup.copy_out(model, out)
