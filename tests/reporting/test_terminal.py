"""Tables in a terminal of 80 columns and in a pipe."""

from dataclasses import replace

import pytest
from rich.console import Console

from homegrown.reporting import terminal
from homegrown.reporting.blocks import Cell, Table
from homegrown.reporting.terminal import print_table

NAMES = ["evaluate@12", "newest, tiny, a-recipe-with-a-long-name", "0123456789ab", "2026-01-01 00:00"]
LONG = Table(
    ["artifact", "current", "key", "made", "size"],
    [[*NAMES, "1.2 GB"], ["ingest@1", "", "ba9876543210", "2026-01-01 00:00", "83 B"]],
    align="llllr",
    title="Artifacts",
    notes=["a note " * 20],
)
WIDE = Table(["run", *"ABCDEFGHIJ"], [["loss", *(Cell("1,234,567", verdict="better") for _ in range(10))]])


def in_terminal(
    table: Table, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, most: int | None = None
) -> list[str]:
    """Return the lines on a terminal of 80 columns, without trailing blanks."""

    def console(**values: object) -> Console:
        if "width" in values:
            return Console(**values)
        return Console(**values, width=80, force_terminal=True, color_system=None)

    monkeypatch.setattr(terminal, "Console", console)
    print_table(table, most=most)
    return [line.rstrip() for line in capsys.readouterr().out.splitlines()]


def test_a_terminal_folds_names_and_cuts_nothing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = in_terminal(LONG, capsys, monkeypatch)
    assert max(map(len, lines)) <= 80
    shown = "".join("".join(lines).split())
    assert "…" not in shown
    for text in ("evaluate@12", "a-recipe-with-a-long-name", "0123456789ab", "1.2GB", "83B", "anote" * 20):
        for word in text.split("-"):
            assert word in shown


def test_a_table_of_many_figures_becomes_a_list(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = in_terminal(WIDE, capsys, monkeypatch)
    assert lines == ["loss", *(f"  {letter}  ✓ 1,234,567" for letter in "ABCDEFGHIJ")]


def test_a_pipe_gets_one_plain_line_for_each_row(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(LONG)
    title, header, first, second, note = capsys.readouterr().out.splitlines()
    assert (title, header.split(), note) == ("Artifacts", list(LONG.header), "a note " * 20)
    columns = [part.strip() for part in first.split("  ") if part]
    assert columns == [*NAMES, "1.2 GB"]
    assert header.index("key") == first.index("0123") == second.index("ba98")
    print_table(WIDE)
    assert "\x1b" not in capsys.readouterr().out


def test_a_table_without_rows_is_its_header_or_a_note(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(Table(["run", "state"], []))
    print_table(Table(["run", "state"], [], notes=["No run."]))
    assert capsys.readouterr().out == "run  state\nNo run.\n"


def test_text_cannot_steer_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(Table(["a"], [["x\x1b[2J\x07\r\n[red]y[/red]\x9b1m"]]))
    assert capsys.readouterr().out == "a\nx [2J [red]y[/red] 1m\n"


def test_long_cells_are_cut_only_in_a_terminal_and_only_with_a_note(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    table = Table(["a", "b"], [["x" * 31, "y"]])
    print_table(table, most=30)
    assert capsys.readouterr().out.splitlines()[1] == f"{'x' * 31}  y"
    lines = in_terminal(replace(table, rows=[["x" * 30, "y"]]), capsys, monkeypatch, most=30)
    assert lines[-1] == f"{'x' * 30}  y"
    lines = in_terminal(table, capsys, monkeypatch, most=30)
    assert lines[-2:] == [f"{'x' * 30}…  y", "1 cell of more than 30 characters cut; a file or a pipe gets everything."]
