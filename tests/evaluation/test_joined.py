"""An evaluation's page with what came later: figures of lm-eval and ratings, each with the model it belongs to."""

import re
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
from click.testing import CliRunner

from homegrown.cli.main import cli
from homegrown.evaluation.results import Report
from homegrown.rating.items import HUMAN, Item
from homegrown.rating.ratings import Answers
from homegrown.store.artifacts import RATINGS, Store
from homegrown.store.manifest import Artifact, Order
from homegrown.util.files import write_parquet
from homegrown.util.progress import Outcome
from tests.evaluation.test_report import report  # noqa: F401 (a fixture)


def _make(store: Store, order: Order, build: object) -> Artifact:
    return store.make(order, store.slot(order.stage, order.key), build)[0]  # type: ignore[arg-type]


def _evaluation(store: Store, report: Report, model: str) -> Artifact:  # noqa: F811
    original, *others = report.results
    renamed = replace(report, results=[replace(original, variant="original"), *others])

    def build(out: Path) -> Outcome:
        renamed.write(out)
        return Outcome(1, 1)

    return _make(store, Order("evaluate", "code", {}, {"pretrain": model}), build)


def _harness(store: Store, model: str, value: float) -> None:
    def build(out: Path) -> Outcome:
        row = {"task": "a_task", "metric": "acc", "value": value, "standard_error": 0.05, "documents": 80}
        write_parquet(out / "results" / "part-00000.parquet", pa.Table.from_pylist([row]))
        return Outcome(1, 1)

    _make(store, Order("lm-eval", "code", {}, {"pretrain": model}), build)


def _rows(store: Store, tmp_path: Path) -> dict[str, str]:
    """Return the first table's rows of the page by their first cell."""
    out = tmp_path / "page.html"
    printed = CliRunner().invoke(cli, ["--artifacts", str(store.root), "report", "evaluation", "--out", str(out)])
    assert printed.exit_code == 0, printed.output
    table = out.read_text().partition("</table>")[0]
    rows = [re.sub(r"<[^>]+>", " ", row) for row in re.findall(r"<tr>.*?</tr>", table, re.DOTALL)]
    return {row.split()[0]: " ".join(row.split()) for row in rows if row.split()}


def test_results_are_in_the_row_of_their_model(report: Report, tmp_path: Path) -> None:  # noqa: F811
    store = Store(tmp_path / "store")
    _evaluation(store, report, "a" * 64)
    _harness(store, "b" * 64, 0.9)
    assert "0.9000" not in str(_rows(store, tmp_path))  # of another model
    _harness(store, "a" * 64, 0.25)
    answers = Answers(store.root / RATINGS, "ann")
    answers.add(Item("1", "", "a", ("evaluate@1/original",)), {"coherence": 2})
    answers.add(Item("2", "", "b", (HUMAN,)), {"coherence": 5})
    rows = _rows(store, tmp_path)
    assert "0.2500 ± 0.0500, 80 documents" in rows["original"]
    assert rows["original"].endswith(" 2.00")
    assert rows["held-out"].endswith(" 5.00")
    assert "0.2500" not in rows["5-gram"]


def test_a_page_has_to_be_html_or_markdown(tmp_path: Path) -> None:
    printed = CliRunner().invoke(cli, ["--artifacts", str(tmp_path), "report", "evaluation", "--out", "page.pdf"])
    assert (printed.exit_code, printed.output.count("\n")) == (1, 1)
    assert "neither HTML nor Markdown" in printed.output
