"""Comparisons of runs as tables, JSON, report and chart, also after garbage collection."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from homegrown.cli.main import cli
from homegrown.comparison.compare import Comparison, Row, compare
from homegrown.comparison.tables import headlines, verdict, written
from homegrown.store import runs
from homegrown.store.artifacts import Store
from homegrown.store.differences import differing
from tests.comparison.runs import write_run
from tests.reporting.page import Page


def homegrown(store: Store, *arguments: str) -> Result:
    return CliRunner().invoke(cli, ["--artifacts", str(store.root), *arguments])


@pytest.fixture
def two(store: Store) -> Store:
    write_run(store, "one", rate=0.1, bits=2.0)
    write_run(store, "two", rate=0.2, bits=1.5, hours=2)
    return store


def compared(store: Store, *names: str) -> Comparison:
    return compare(store, runs.recorded(store), names)


def row(comparison: Comparison, metric: str, variant: str | None = None) -> Row:
    [found] = [one for one in comparison.rows if (one.metric, one.variant) == (metric, variant)]
    return found


def test_settings_that_differ_have_dotted_names() -> None:
    one = {"a": 1, "b": {"c": 2, "d": [1, 2]}, "s": [{"x": 1}, {"x": 2}], "n": None, "t": [{"x": 1}], "z": 1}
    two = {"a": 1, "b": {"c": 3, "d": [1]}, "s": [{"x": 1}, {"x": 5}], "n": {"q": 1}, "t": [], "z": True}
    assert differing([one, two]) == {
        "b.c": [2, 3],
        "b.d": [[1, 2], [1]],
        "s.1.x": [2, 5],
        "n": [None, {"q": 1}],
        "t": [[{"x": 1}], []],
        "z": [1, True],
    }
    assert differing([one, one, one]) == {}


def test_what_differs_why_and_what_it_did(two: Store) -> None:
    found = compared(two, "one", "two")
    assert found.settings == {"training.rate": [0.1, 0.2]}
    assert [(stage.name, stage.same, stage.why) for stage in found.stages] == [
        ("ingest", True, []),
        ("pretrain", False, ["rate"]),
        ("evaluate", False, ["other pretrain"]),
    ]
    assert [one.name if one else None for one in found.stages[1].artifacts] == ["pretrain@1", "pretrain@2"]
    bits = row(found, "bits_per_byte", "original")
    assert (bits.values, bits.differences, bits.percent) == ([2.0, 1.5], [-0.5], [-25.0])
    either_sign = replace(bits, values=[-0.5, 0.25])
    assert (either_sign.differences, either_sign.percent) == ([0.75], [None])
    assert written(-0.5) == "−0.5"
    assert row(found, "bits_per_byte", "int8<").values == [2.25, 1.75]
    assert row(found, "tokens out").values == [40, 40]
    words = row(found, "weights")
    assert (words.differences, words.percent) == ([None], [None])
    assert found.gone == []
    assert [one.metric for one in headlines(found)] == ["bits_per_byte", "bleu", "rouge_l"]
    assert [verdict(one, 1) for one in headlines(found)] == ["better", "", ""]  # no completions


def test_every_metric_is_in_the_json_and_what_differs_in_the_table(two: Store) -> None:
    printed = homegrown(two, "compare", "one", "two", "--json")
    found = json.loads(printed.output)
    assert [run["name"] for run in found["runs"]] == ["one", "two"]
    metrics = {(one["stage"], one["variant"], one["metric"]) for one in found["metrics"]}
    assert {
        ("ingest", None, "text_bytes"),
        ("evaluate", "int8<", "bleu"),
        ("evaluate", None, "seconds to make"),
    } <= metrics
    table = homegrown(two, "compare", "one", "two").output
    assert "training.rate" in table
    assert "−25%" in table
    assert "text bytes" not in table  # of a stage that both have in common


def test_the_first_of_several_is_the_base(two: Store) -> None:
    write_run(two, "three", rate=0.4, bits=3.0, hours=4)
    found = compared(two, "two", "one", "three")
    bits = row(found, "bits_per_byte", "original")
    assert bits.values == [1.5, 2.0, 3.0]
    assert bits.percent == pytest.approx([100 / 3, 100.0])
    assert [run.label for run in found.runs] == ["A rate=0.2", "B rate=0.1", "C rate=0.4"]
    assert "3 +100%" in homegrown(two, "compare", "two", "one", "three").output


def test_what_garbage_collection_took_is_named_and_the_rest_is_compared(two: Store, tmp_path: Path) -> None:
    two.delete(two.resolve("pretrain@1").path)
    found = compared(two, "one", "two")
    assert found.gone == ["pretrain of one"]
    assert found.stages[1].why == ["unknown: gone"]
    assert row(found, "bits_per_byte", "original").values == [2.0, 1.5]
    assert row(found, "validation_bits_per_byte").values == [None, 2.0]
    printed = homegrown(two, "compare", "one", "two", "--out", str(tmp_path / "page.html"))
    assert printed.exit_code == 0, printed.output
    assert "Deleted by garbage collection, so without metrics: pretrain of one." in printed.output


def test_runs_that_reached_different_stages(two: Store) -> None:
    runs.record(two, "short", runs.RunRecord(recipe={"name": "small"}, started=runs.recorded(two)["one"].started))
    found = compared(two, "one", "short")
    assert [stage.cell(1) for stage in found.stages] == ["not made"] * 3
    assert found.gone == []
    assert found.settings["name"] == ["tiny", "small"]
    assert homegrown(two, "compare", "one", "short").exit_code == 0


def test_the_page_is_whole_and_needs_nothing_from_elsewhere(two: Store, tmp_path: Path) -> None:
    printed = homegrown(two, "compare", "one", "two", "--out", str(tmp_path / "page.html"))
    assert printed.exit_code == 0, printed.output
    page = Page.of((tmp_path / "page.html").read_text())
    assert "int8<" in page.text
    assert len(page.sources) == 1
    assert page.sources[0].startswith("data:image/png;base64,")


def test_the_picture_is_a_png_and_nothing_to_draw_is_an_error(two: Store, tmp_path: Path) -> None:
    out = tmp_path / "picture.png"
    assert homegrown(two, "compare", "one", "two", "--out", str(out)).exit_code == 0
    assert out.read_bytes().startswith(b"\x89PNG")
    for name in ("x", "y"):
        runs.record(two, name, runs.RunRecord(recipe={"name": "tiny"}, started=runs.recorded(two)["one"].started))
    printed = homegrown(two, "compare", "x", "y", "--out", str(out))
    assert printed.exit_code == 1
    assert "no training curve" in printed.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("one",), "one is one run, one; name another to compare it with."),
        (("one", "@-2"), "is one run, one"),
        (("one", "two", "--out", "x.pdf"), "x.pdf is neither a page nor a picture"),
        (("one", "three"), "There is no run 'three'"),
    ],
)
def test_mistakes_are_errors_of_one_line(two: Store, arguments: tuple[str, ...], message: str) -> None:
    printed = homegrown(two, "compare", *arguments)
    assert printed.exit_code == 1
    assert message in printed.output


def test_a_path_that_cannot_be_written_is_refused_before_the_comparison(two: Store, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for out, message in {"": "it is empty", str(tmp_path / "file" / "x.html"): "file is not a folder"}.items():
        printed = homegrown(two, "compare", "one", "three", "--out", out)
        assert printed.exit_code == 2
        assert message in printed.output


def test_what_the_load_of_the_machine_changes_is_neither_better_nor_worse() -> None:
    for metric in ("tokens_per_second", "flops_utilisation", "seconds to make"):
        assert verdict(Row("evaluate", "original", metric, [100, 300]), 1) == ""
    assert verdict(Row("pretrain", None, "validation_bits_per_byte", [2.0, 1.9]), 1) == ""


def test_bleu_and_rouge_are_better_or_worse_only_where_significant_by_document(store: Store) -> None:
    """Of 40 completions all have three of five words or four, or one has four and one has two."""
    three, four = "one two three x y", "one two three four y"
    mixed = ["one two x y z", four, *[three] * 38]
    write_run(store, "base", rate=0.1, completions=[three] * 40)
    write_run(store, "more", rate=0.2, completions=[four] * 39 + [three], hours=1)
    write_run(store, "mixed", rate=0.3, completions=mixed, hours=2)
    write_run(store, "other", rate=0.4, completions=[four] * 39, hours=3)
    write_run(store, "few", rate=0.5, completions=[three] * 12, hours=4)
    write_run(store, "fewer", rate=0.6, completions=[four] * 12, hours=5)
    for metric in ("bleu", "rouge_l"):
        for names, significant in {
            ("base", "more", "mixed", "other"): [True, False, False],
            ("more", "base"): [True],
            ("few", "fewer"): [False],
        }.items():
            found = row(compared(store, *names), metric, "original")
            assert found.paired is not None
            assert [one.is_significant for one in found.paired] == significant
    paired = row(compared(store, "base", "more"), "rouge_l", "original").paired
    assert paired is not None and paired[0].difference == pytest.approx(100 / 5 * 39 / 40)
    changed = replace(row(compared(store, "base", "more"), "rouge_l", "original"), values=[60, 80])
    assert [verdict(changed, 0), verdict(changed, 1)] == ["", "better"]
    alike = replace(row(compared(store, "base", "more"), "self_bleu", "original"), values=[1, 2])
    assert verdict(alike, 1) == ""


def test_bits_per_byte_are_better_or_worse_only_where_significant(store: Store) -> None:
    """Of 40 documents all need a bit less, or half of them much less and half much more; or there are too few."""
    small = [199.0 + number % 2 for number in range(40)]
    mixed = [199.0 + (60 if number % 2 else -60) for number in range(40)]
    write_run(store, "base", rate=0.1, bits=2.0)
    write_run(store, "lower", rate=0.2, bits=1.995, costs=small, hours=1)
    write_run(store, "mixed", rate=0.3, bits=1.99, costs=mixed, hours=2)
    write_run(store, "other", rate=0.4, bits=1.9, costs=[190.0] * 39, hours=3)
    found = compared(store, "base", "lower", "mixed", "other")
    for one in (
        row(found, "bits_per_byte", "original"),
        row(found, "bits_per_byte", "int8<"),
        row(found, "bits_per_byte"),
    ):
        assert [verdict(one, number) for number in range(4)] == ["", "better", "", ""]
    pair = homegrown(store, "compare", "base", "mixed").output
    said = " ".join(pair.split())
    assert "The weights of B need 0.0100 bits per byte fewer than those of A (95%: " in said
    assert "paired by document): not significant." in said
    line = next(one for one in pair.splitlines() if one.startswith("original  bits per byte"))
    assert "✓" not in line and "✗" not in line
    assert "✓ −0.005" in homegrown(store, "compare", "base", "lower").output
    different = " ".join(homegrown(store, "compare", "base", "other").output.split())
    assert "B and A have different test documents; no difference is called significant." in different
    printed = json.loads(homegrown(store, "compare", "base", "lower", "--json").output)["metrics"]
    paired = next(one["paired"] for one in printed if (one["variant"], one["metric"]) == ("original", "bits_per_byte"))
    assert paired[0]["significant"] and paired[0]["documents"] == 40 and paired[0]["high"] < 0
    write_run(store, "few", rate=0.5, bits=2.0, costs=[200.0] * 12, hours=4)
    write_run(store, "fewer", rate=0.6, bits=1.9, costs=[190.0] * 12, hours=5)
    few = " ".join(homegrown(store, "compare", "few", "fewer").output.split())
    assert "12 documents are too few to call it significant (30)." in few
