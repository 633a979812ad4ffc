"""The stage `evaluate` on random weights and their variants."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest
from small_model import small_model

from homegrown.errors import UserError
from homegrown.evaluation.evaluate import evaluate
from homegrown.formats.quantize import quantize
from homegrown.model import weights
from homegrown.outcome import Outcome
from homegrown.recipe import EvaluationSettings, QuantizationSettings

SETTINGS = EvaluationSettings(perplexity_tokens=500, samples=20, prompt_tokens=20, continuation_tokens=12)


@pytest.fixture(scope="module")
def trained(stages: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    weights.save(small_model(), folder / "pretrain" / "model")
    (folder / "pretrain" / "model" / "tokenizer.json").write_bytes((stages / "tokenizer/tokenizer.json").read_bytes())
    settings = QuantizationSettings(variants=["int8", "nf4", "int8-dynamic"], validation_tokens=64)
    quantize(folder / "quantize", folder / "pretrain", stages / "pack", settings, device="cpu")
    return folder


def run(out: Path, stages: Path, trained: Path, settings: EvaluationSettings = SETTINGS) -> Outcome:
    return evaluate(
        out,
        trained / "pretrain",
        trained / "quantize",
        stages / "pack",
        stages / "tokenizer",
        settings,
        seed=1,
        device="cpu",
    )


def test_one_row_a_variant_and_one_continuation_a_document(stages: Path, trained: Path, tmp_path: Path) -> None:
    outcome = run(tmp_path, stages, trained)
    rows = pq.read_table(tmp_path / "results").to_pylist()
    assert [row["variant"] for row in rows] == ["original", "int8", "nf4", "int8-dynamic"]
    for row in rows:
        assert row["bits_per_byte"] == pytest.approx(rows[0]["bits_per_byte"], rel=0.01)
        assert row["tokens_per_second"] > 0
    assert rows[0]["disk_megabytes"] > rows[1]["disk_megabytes"] > rows[2]["disk_megabytes"]
    assert outcome.rows_out == 4
    assert outcome.metrics["bits_per_byte"] == rows[0]["bits_per_byte"]
    assert (outcome.metrics["documents_continued"], outcome.metrics["documents_asked"]) == (8, 20)
    texts = pq.read_table(tmp_path / "continuations").to_pylist()
    assert len(texts) == 4 * 8
    assert {text["prompt"] for text in texts[:8]} == {text["prompt"] for text in texts[8:16]}
    mean = sum(text["rouge_l"] for text in texts[:8]) / 8
    assert rows[0]["rouge_l"] == pytest.approx(mean)
    sample = (tmp_path / "sample.txt").read_text()
    assert sample.strip()
    assert sample.strip() in (tmp_path / "report.md").read_text()
    assert "8 test documents (20 were asked for" in (tmp_path / "report.html").read_text()


def test_all_but_the_speed_is_the_same_again(stages: Path, trained: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        run(tmp_path / name, stages, trained)
    tables = [pq.read_table(tmp_path / name / "results").drop(["tokens_per_second"]) for name in ("one", "two")]
    assert tables[0] == tables[1]
    for file in ("sample.txt", "continuations/part-00000.parquet"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


def test_documents_too_short_is_one_sentence(stages: Path, trained: Path, tmp_path: Path) -> None:
    settings = SETTINGS.model_copy(update={"prompt_tokens": 5000})
    with pytest.raises(UserError, match=r"evaluation\.prompt_tokens"):
        run(tmp_path, stages, trained, settings)
