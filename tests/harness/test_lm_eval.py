"""lm-evaluation-harness on our weights, beside the same figures computed here."""

import json
import math
import random
import shutil
import statistics
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pyarrow as pa
import pytest
import torch
from click.testing import CliRunner, Result

from homegrown.cli.main import cli
from homegrown.config.model import ModelSettings
from homegrown.config.tokens import TokenizerSettings
from homegrown.export.huggingface import write_huggingface
from homegrown.harness.heldout_tasks import LAST_WORD, NEXT_PASSAGE, write_tasks
from homegrown.model import weights
from homegrown.model.config import ModelConfig
from homegrown.model.transformer import Transformer
from homegrown.serving.api import application
from homegrown.serving.loading import Limits, load, source
from homegrown.serving.service import Model, Service
from homegrown.store import runs
from homegrown.store.artifacts import Store
from homegrown.store.manifest import Artifact, Order
from homegrown.tokenizer import loading, special
from homegrown.tokenizer.train import train_tokenizer
from homegrown.util.files import read_parquet, write_parquet
from homegrown.util.progress import Outcome
from tasks.ui.panels import PAGE
from tests.serving.running import running

_WORDS = ["the", "river", "slowly", "turns", "around", "hills", "where", "larger", "stones", "lie", "naïve", "before"]


def _texts(seed: int, count: int) -> list[str]:
    dice = random.Random(seed)
    sentence = lambda: " ".join(dice.choices(_WORDS, k=9)).capitalize() + "."  # noqa: E731
    return [" ".join(sentence() for _ in range(14)) for _ in range(count)]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A store with a shard artifact and a model with random weights made from it."""
    store = Store(tmp_path_factory.mktemp("store"))

    def shards(out: Path) -> Outcome:
        for split, texts in {"train": _texts(1, 40), "test": [*_texts(2, 12), "Too short."]}.items():
            table = pa.table({"text": texts, "source": ["made-up"] * len(texts)})
            write_parquet(out / split / "part-00000.parquet", table)
        return Outcome(53, 53)

    shard = _make(store, Order("shard", "code", {}, {}), shards)

    def model(out: Path) -> Outcome:
        folder = out / "model"
        train_tokenizer(folder, shard.path, TokenizerSettings(vocabulary_size=300, sample_mb=1))
        for table in ("vocabulary", "sources", "languages"):
            (folder / table / "part-00000.parquet").unlink()
        settings = {"family": "modern", "hidden": 64, "layers": 1, "heads": 2, "kv_heads": 2, "feed_forward": 64}
        torch.manual_seed(3)
        made = Transformer(ModelConfig.from_settings(ModelSettings(**settings, context=512), 300, 0.0))
        made.initialize()
        with torch.no_grad():
            for parameter in made.parameters():
                parameter.mul_(3)  # so that choices differ clearly
        weights.save(made, folder)
        return Outcome(1, 1)

    _make(store, Order("pretrain", "code", {}, {"shard": shard.manifest.key}), model)
    return store


@pytest.fixture(autouse=True)
def _prefect(in_prefect: Store) -> None:
    """Run the command's flow against the session's server."""


def _make(store: Store, order: Order, build: object) -> Artifact:
    return store.make(order, store.slot(order.stage, order.key), build)[0]  # type: ignore[arg-type]


def _homegrown(store: Store, *arguments: str) -> Result:
    return CliRunner().invoke(cli, ["--artifacts", str(store.root), "lm-eval", *arguments])


def _ours(store: Store, tmp_path: Path) -> Iterator[tuple[str, list[float], int]]:
    """Yield, for each document of both tasks, the log-likelihoods of its choices and the right one's number."""
    folder = store.resolve("pretrain").path / "model"
    model, text = weights.load(folder), loading.load(folder)
    for configuration in write_tasks(store.resolve("shard").path, tmp_path, [LAST_WORD, NEXT_PASSAGE]):
        for line in Path(configuration["dataset_kwargs"]["data_files"]["test"]).read_text().splitlines():
            row = json.loads(line)
            context = [special.special_ids(text).bos, *text.encode(row["context"]).ids]
            found = []
            for choice in row.get("choices", [" " + row.get("word", "")]):
                tokens = torch.tensor([context + text.encode(choice).ids])
                costs = model(tokens)[0, len(context) - 1 : -1].log_softmax(-1)
                found.append(costs.gather(1, tokens[0, len(context) :, None]).sum().item())
            yield configuration["task"], found, row.get("answer", 0)


@pytest.mark.slow
def test_the_figures_are_those_of_our_own_model(store: Store, tmp_path: Path) -> None:
    said = _homegrown(store)
    assert said.exit_code == 0, said.output
    made = store.resolve("lm-eval")
    assert LAST_WORD in said.output and "…" not in said.output  # in the 80 columns of what is no terminal
    assert not any(word in said.output for word in ("bootstrapping", "arning", "it/s", "fatal"))
    rows = {(row["task"], row["metric"]): row for row in read_parquet(made.path / "results").to_pylist()}
    scores = {name: row["value"] for name, row in rows.items()}
    with torch.inference_mode():
        ours = list(_ours(store, tmp_path))
    words = [costs[0] for task, costs, _ in ours if task == LAST_WORD]
    right = [costs.index(max(costs)) == answer for task, costs, answer in ours if task == NEXT_PASSAGE]
    assert len(words) == len(right) == 12
    assert scores[LAST_WORD, "perplexity"] == pytest.approx(math.exp(-sum(words) / 12), rel=1e-4)
    perplexity = rows[LAST_WORD, "perplexity"]
    factor = math.exp(statistics.stdev(words) / math.sqrt(12))
    assert (perplexity["standard_error"], perplexity["standard_factor"]) == (None, pytest.approx(factor, rel=1e-4))
    assert f"×/÷ {factor:.2g}" in said.output
    assert scores[NEXT_PASSAGE, "acc"] == pytest.approx(sum(right) / 12)
    assert not (made.path / "work").exists()
    assert made.manifest.metrics[f"{NEXT_PASSAGE}_acc"] == scores[NEXT_PASSAGE, "acc"]
    assert {one.manifest.stage for one in store.inputs(made)} == {"pretrain", "shard"}
    page = json.loads((made.path / PAGE).read_text())
    assert f"| {NEXT_PASSAGE} | acc | {scores[NEXT_PASSAGE, 'acc']:.4f} |" in page["report"]
    assert len(page["rows"]) == len(scores)
    again = _homegrown(store)
    assert "lm-eval: cached" in again.output
    assert len([one for one in store.all() if one.manifest.stage == "lm-eval"]) == 1
    assert [run.recipe["name"] for run in runs.recorded(store).values()] == ["lm-eval", "lm-eval"]


@pytest.mark.slow
def test_tasks_of_ones_own_and_what_is_not_there(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own.jsonl").write_text('{"q": "The river", "a": " turns"}\n')
    (tmp_path / "own.yaml").write_text(
        f"task: own\ndataset_path: json\ndataset_kwargs: {{data_files: {{test: {tmp_path}/own.jsonl}}}}\n"
        "test_split: test\noutput_type: loglikelihood\ndoc_to_text: '{{q}}'\ndoc_to_target: '{{a}}'\n"
        "metric_list: [{metric: acc}]\n"
    )

    def elsewhere(out: Path) -> Outcome:
        shutil.copytree(store.resolve("pretrain").path / "model", out / "model")
        return Outcome(1, 1)

    # A model that did not grow here has no text of ours that it was kept from.
    _make(store, Order("base", "code", {}, {}), elsewhere)
    own = _homegrown(store, "base@1", "--tasks", "own", "--include-path", str(tmp_path))
    assert (own.exit_code, "own" in own.output) == (0, True), own.output
    without = _homegrown(store, "base@1")
    assert (without.exit_code, without.output.count("\n")) == (1, 1) and "held-out text of base@1" in without.output
    from lm_eval.tasks import manager

    # The harness has thousands of files of tasks, which take a quarter of a minute to read: some are enough here.
    monkeypatch.setattr(manager, "__file__", str(Path(manager.__file__).parent / "arithmetic" / "manager.py"))
    refused = _homegrown(store, "--tasks", "no-such-task")
    assert refused.exit_code == 1
    assert "has no task no-such-task" in refused.output.splitlines()[-1], refused.output
    none = _homegrown(store, "--tasks", " , ")
    assert (none.exit_code, none.output.count("\n")) == (1, 1) and "--tasks names no task" in none.output


def test_passages_end_where_they_should(tmp_path: Path) -> None:
    texts = _texts(5, 6)
    write_parquet(tmp_path / "test" / "part-00000.parquet", pa.table({"text": texts}))
    write_tasks(tmp_path, tmp_path, [LAST_WORD, NEXT_PASSAGE])
    words = [json.loads(line) for line in (tmp_path / f"{LAST_WORD}.jsonl").read_text().splitlines()]
    assert all(text.startswith(f"{row['context']} {row['word']}.") for text, row in zip(texts, words, strict=True))
    choices = [json.loads(line) for line in (tmp_path / f"{NEXT_PASSAGE}.jsonl").read_text().splitlines()]
    for text, row in zip(texts, choices, strict=True):
        assert text.startswith(row["context"] + row["choices"][row["answer"]])
        assert len(set(row["choices"])) == 4


@pytest.mark.slow
def test_the_harness_finds_the_same_through_the_server(store: Store, tmp_path: Path) -> None:
    from lm_eval import simple_evaluate

    assert _homegrown(store).exit_code == 0
    measured = next(one for one in store.all() if f"{LAST_WORD}_perplexity" in one.manifest.metrics)
    found = read_parquet(measured.path / "results").to_pylist()
    in_process = {(row["task"], row["metric"]): row["value"] for row in found if row["value"] is not None}
    made = store.resolve("pretrain")
    write_huggingface(made.path / "model", tmp_path / "export", "float32", None)  # for its tokenizer
    tasks = write_tasks(store.resolve("shard").path, tmp_path, [LAST_WORD, NEXT_PASSAGE])
    service = Service([Model(made.name, 1)], queue=64)
    limits = Limits(rows=8, context=None, threads=1)
    wanted = source(made.name, made, made.path / "model", None)
    [(_, ready, chat)] = load(store, wanted, "homegrown", "cpu", limits, partial(service.failed, made.name))
    service.ready(made.name, ready, chat)
    try:
        with running(application(service, key=None, hosts=["127.0.0.1"])) as url:
            served = simple_evaluate(
                model="local-completions",
                model_args={
                    "model": made.name,
                    "base_url": f"{url}/v1/completions",
                    "tokenizer": str(tmp_path / "export"),
                    "add_bos_token": True,
                    "max_length": 512,
                },
                tasks=tasks,
                bootstrap_iters=0,
            )
    finally:
        service.close()
    assert served is not None
    through = {
        (task, name.partition(",")[0]): value
        for task, values in served["results"].items()
        for name, value in values.items()
        if isinstance(value, float) and "stderr" not in name
    }
    assert {LAST_WORD, NEXT_PASSAGE} == {task for task, _ in through}
    for name, value in through.items():
        assert value == pytest.approx(in_process[name], rel=1e-4), name
