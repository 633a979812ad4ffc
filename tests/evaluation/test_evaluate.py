"""The stage `evaluate` on random weights and their variants."""

import math
import re
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from homegrown.config.evaluation import EvaluationSettings
from homegrown.config.export import QuantizationSettings
from homegrown.evaluation.evaluate import evaluate
from homegrown.evaluation.results import Report
from homegrown.model import weights
from homegrown.quantization.quantize import quantize
from homegrown.util.errors import UserError
from homegrown.util.progress import Outcome
from tests.evaluation.small_model import small_model

SETTINGS = EvaluationSettings(perplexity_tokens=None, samples=20, prompt_tokens=20, continuation_tokens=12)


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
        stages / "shard",
        stages / "tokenizer",
        settings,
        seed=1,
        device="cpu",
    )


def test_one_row_a_model_and_one_continuation_a_document(stages: Path, trained: Path, tmp_path: Path) -> None:
    outcome = run(tmp_path, stages, trained)
    rows = pq.read_table(tmp_path / "results").to_pylist()
    train = sum(len(text.encode()) for text in pq.read_table(stages / "shard" / "train")["text"].to_pylist())
    by_kind = {
        kind: [row["variant"] for row in rows if row["kind"] == kind] for kind in ("weights", "baseline", "text")
    }
    assert by_kind == {
        "weights": ["original", "int8", "nf4", "int8-dynamic"],
        "baseline": ["unigram", "5-gram", "gzip", "xz", f"xz after {train / 1e3:.3g} kB"],
        "text": ["held-out text"],
    }
    for row in rows[:4]:
        assert row["bits_per_byte"] == pytest.approx(rows[0]["bits_per_byte"], rel=0.01)
        assert row["bits_per_byte_low"] < row["bits_per_byte"] < row["bits_per_byte_high"]
        assert row["rouge_lsum_low"] <= row["rouge_lsum"] <= row["rouge_lsum_high"]
        assert row["tokens_per_second"] > 0
    assert rows[5]["bits_per_byte"] < rows[4]["bits_per_byte"] < rows[0]["bits_per_byte"]  # random weights know nothing
    assert rows[4]["difference"] == pytest.approx(rows[4]["bits_per_byte"] - rows[0]["bits_per_byte"])
    assert rows[4]["difference_high"] < 0
    assert rows[0]["disk_megabytes"] > rows[1]["disk_megabytes"] > rows[2]["disk_megabytes"]
    assert (outcome.rows_in, outcome.rows_out, outcome.unit) == (4, 9, "models")
    assert outcome.metrics["bits_per_byte"] == rows[0]["bits_per_byte"]
    assert (outcome.metrics["documents_continued"], outcome.metrics["documents_asked"]) == (8, 20)
    texts = pq.read_table(tmp_path / "continuations").to_pylist()
    assert len(texts) == 4 * 8
    assert {text["prompt"] for text in texts[:8]} == {text["prompt"] for text in texts[8:16]}
    mean = sum(text["rouge_l"] for text in texts[:8]) / 8
    assert rows[0]["rouge_l"] == pytest.approx(mean)
    assert rows[0]["memorised_longest"] == max(text["memorised"] for text in texts[:8])
    assert rows[-1]["memorised_longest"] == max(text["reference_memorised"] for text in texts[:8]) > 1
    sample = (tmp_path / "sample.txt").read_text()
    assert sample.strip()
    assert sample.strip() in (tmp_path / "report.md").read_text()
    assert "8 test documents (20 were requested" in (tmp_path / "report.html").read_text()
    documents = pq.read_table(tmp_path / "documents").to_pylist()
    assert len(documents) == 6 * 10
    own = [row for row in documents if row["variant"] == "nf4"]
    bits = sum(row["nats"] for row in own) / math.log(2) / sum(row["bytes"] for row in own)
    assert rows[2]["bits_per_byte"] == pytest.approx(bits)
    sources = pq.read_table(tmp_path / "sources").to_pylist()
    assert {(row["variant"], row["source"]) for row in sources[:2]} == {("original", "even"), ("original", "odd")}
    even = [row for row in own if row["source"] == "even"]
    of_even = next(row for row in sources if (row["variant"], row["source"]) == ("nf4", "even"))
    assert of_even["bytes"] == sum(row["bytes"] for row in even)
    assert of_even["bits_per_byte"] * of_even["bytes"] * math.log(2) == pytest.approx(sum(row["nats"] for row in even))
    assert Report.read(tmp_path).facts.test_tokens == sum(row["tokens"] for row in own)


def test_all_but_the_speed_is_the_same_again(stages: Path, trained: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        run(tmp_path / name, stages, trained)
    tables = [pq.read_table(tmp_path / name / "results").drop(["tokens_per_second"]) for name in ("one", "two")]
    assert tables[0] == tables[1]
    for file in ("sample.txt", "continuations/part-00000.parquet"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


def test_documents_too_short_is_an_error(stages: Path, trained: Path, tmp_path: Path) -> None:
    settings = SETTINGS.model_copy(update={"prompt_tokens": 5000})
    with pytest.raises(UserError, match=r"evaluation\.prompt_tokens"):
        run(tmp_path, stages, trained, settings)


def test_one_document_has_no_interval_and_nothing_is_significant(
    one_document: Path, trained: Path, tmp_path: Path
) -> None:
    run(tmp_path, one_document, trained)
    rows = pq.read_table(tmp_path / "results").to_pylist()
    measured = [row for row in rows if row["kind"] == "weights"]
    assert measured and all(row["bits_per_byte"] and row["rouge_l"] is not None for row in measured)
    assert all(value is None for row in rows for name, value in row.items() if name.endswith(("_low", "_high")))
    assert [row["difference"] is None for row in measured] == [True, False, False, False]
    for page in ("report.md", "report.html"):
        text = (tmp_path / page).read_text()
        assert "Intervals: 1 test document, 1 completion. A single one has no interval. Fewer than 30" in text
        assert not re.search(r"\d \*", text)  # the mark of a significant difference
