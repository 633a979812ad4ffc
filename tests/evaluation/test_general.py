"""The base beside the trained weights: on the same held-out text, and on the general text."""

import math
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from homegrown.config.evaluation import EvaluationSettings
from homegrown.evaluation import general
from homegrown.evaluation.evaluate import evaluate
from homegrown.evaluation.evaluation_report import gains
from homegrown.evaluation.general import Passage, passages, prepare_general
from homegrown.evaluation.results import Report
from homegrown.model import weights
from homegrown.model.transformer import Transformer
from homegrown.tokenizer.loading import load
from homegrown.tokenizer.special import special_ids
from homegrown.util.errors import UserError
from homegrown.util.progress import Outcome
from tests.evaluation.conftest import write_stages
from tests.evaluation.small_model import CONTEXT, small_model

SETTINGS = EvaluationSettings(perplexity_tokens=None, samples=2, prompt_tokens=20, continuation_tokens=12)


def other_model() -> Transformer:
    model = small_model()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.5)
    return model


def save(folder: Path, model: Transformer, stages: Path) -> Path:
    weights.save(model, folder / "model")
    (folder / "model" / "tokenizer.json").write_bytes((stages / "tokenizer/tokenizer.json").read_bytes())
    return folder


@pytest.fixture(scope="module")
def models(stages: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    made = {"trained": small_model(), "base": other_model()}
    return {name: save(folder / name, model, stages) for name, model in made.items()}


def run(out: Path, stages: Path, trained: Path, base: Path | None) -> Outcome:
    return evaluate(
        out,
        trained,
        out / "no variants",
        stages / "pack",
        stages / "shard",
        stages / "tokenizer",
        SETTINGS,
        base=base,
        seed=1,
        device="cpu",
    )


def directly(model: Transformer, tokens: list[int]) -> float:
    """Return the nats of a passage, token by token: each from all previous tokens of its window."""
    nats, first, stride = 0.0, 0, CONTEXT // 2
    with torch.inference_mode():
        for place in range(1, len(tokens)):
            if place - first > CONTEXT:
                first += stride
            logits = model(torch.tensor([tokens[first:place]]))[0, -1].float()
            nats -= float(torch.log_softmax(logits, 0)[tokens[place]])
    return nats


def test_a_base_is_measured_on_the_same_text_and_on_the_general_one(
    stages: Path, models: dict[str, Path], tmp_path: Path
) -> None:
    outcome = run(tmp_path, stages, models["trained"], models["base"])
    report = Report.read(tmp_path)
    original, base = report.results[:2]
    assert (original.kind, base.variant, base.kind) == ("weights", "base", "base")
    assert base.bits_per_byte is not None and original.bits_per_byte is not None and base.difference is not None
    assert base.difference == pytest.approx(base.bits_per_byte - original.bits_per_byte)
    alone = tmp_path / "alone"
    run(alone, stages, models["base"], None)  # the base by itself has the same figures
    assert Report.read(alone).results[0].bits_per_byte == pytest.approx(base.bits_per_byte)
    assert not Report.read(alone).general

    assert [(row.variant, row.passages) for row in report.general] == [("base", 36), ("original", 36)]
    first, second = report.general
    assert first.bytes == second.bytes == sum(len(passage.text.encode()) for passage in passages())
    assert first.difference is None and second.difference is not None
    assert second.difference == pytest.approx(second.bits_per_byte - first.bits_per_byte)
    assert outcome.metrics["base_general_bits_per_byte"] == first.bits_per_byte
    assert outcome.metrics["base_bits_per_byte"] == base.bits_per_byte
    learned, forgot = gains(report)
    fewer = "fewer" if original.bits_per_byte < base.bits_per_byte else "more"
    assert f"{abs(base.difference):.4f} bits per byte {fewer} than the base (95%:" in learned
    assert forgot.startswith("On general text, the trained weights need ") and "significant" in forgot
    for page in ("report.md", "report.html"):
        text = (tmp_path / page).read_text()
        assert "General text" in text and learned in text and f"{first.bits_per_byte:.4f}" in text


def test_the_costs_are_those_of_one_token_after_another(
    stages: Path, models: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    few = (Passage("a", passages()[0].text[:150]), Passage("b", "Größe und 語言."))
    monkeypatch.setattr(general, "passages", lambda: few)
    tokenizer, model = load(stages / "tokenizer"), weights.load(models["base"] / "model")
    made = prepare_general(tokenizer, stages / "pack", CONTEXT, CONTEXT // 2)
    assert made is not None and (made.kinds, made.left_out) == (["a", "b"], 0)
    costs = made.costs(model)
    for place, passage in enumerate(few):
        ids = tokenizer.encode(passage.text, add_special_tokens=False).ids
        assert costs.nats[place] == pytest.approx(directly(model, [special_ids(tokenizer).start, *ids]), rel=1e-4)
        assert costs.bytes[place] == len(passage.text.encode())
        assert costs.tokens[place] == len(ids)


def test_a_base_that_is_the_model_itself_is_not_significantly_different(
    stages: Path, models: dict[str, Path], tmp_path: Path
) -> None:
    run(tmp_path, stages, models["trained"], models["trained"])
    learned, forgot = gains(Report.read(tmp_path))
    assert "0.0000 bits per byte" in learned and learned.endswith(
        "; 10 documents are too few to call it significant (30)."
    )
    assert "0.0000 bits per byte" in forgot and forgot.endswith(": not significant.")


def test_a_gain_is_measured_in_bits_per_byte_by_document(stages: Path, models: dict[str, Path], tmp_path: Path) -> None:
    """The paired difference is that of the table of documents."""
    run(tmp_path, stages, models["trained"], models["base"])
    rows = pq.read_table(tmp_path / "documents").to_pylist()
    bits = {
        variant: sum(row["nats"] for row in rows if row["variant"] == variant)
        / math.log(2)
        / sum(row["bytes"] for row in rows if row["variant"] == variant)
        for variant in ("original", "base")
    }
    base = Report.read(tmp_path).results[1]
    assert base.difference == pytest.approx(bits["base"] - bits["original"])
    assert base.difference_low is not None and base.difference_high is not None
    assert base.difference_low < base.difference < base.difference_high


def test_what_is_training_data_is_left_out_and_counted(tmp_path: Path, models: dict[str, Path]) -> None:
    texts = [passage.text for passage in passages()]
    known = [
        "An introduction. " + texts[3] + " An end.",
        texts[7],
        texts[9][: len(texts[9]) // 3],
    ]  # a third is not much
    stages = write_stages(tmp_path, {"train": [60] * 5, "validation": [60], "test": [80] * 3}, {"train": known})
    made = prepare_general(load(stages / "tokenizer"), stages / "pack", CONTEXT, CONTEXT // 2)
    assert made is not None and (len(made.kinds), made.left_out) == (34, 2)
    assert {passages()[place].kind for place in (3, 7)} & set(made.kinds) == set()
    everything = write_stages(tmp_path / "all", {"train": [60], "validation": [60], "test": [80]}, {"train": texts})
    assert prepare_general(load(everything / "tokenizer"), everything / "pack", CONTEXT, CONTEXT // 2) is None


def test_the_text_is_fixed_and_of_many_kinds(monkeypatch: pytest.MonkeyPatch) -> None:
    found = passages()
    assert len(found) == len({passage.text for passage in found}) == 36
    assert all(850 <= len(passage.text) <= 1400 and passage.text == passage.text.strip() for passage in found)
    kinds = Counter(passage.kind.partition(",")[0] for passage in found)
    assert len(kinds) == 26 and kinds["novel"] == 8 and kinds["poem"] == 4
    assert np.mean([len(passage.text) for passage in found]) == pytest.approx(1000, rel=0.05)
    passages.cache_clear()
    monkeypatch.setattr(general, "DIGEST", "0" * 64)
    with pytest.raises(UserError, match=r"general\.jsonl is missing or damaged; install Homegrown again"):
        passages()
