"""A diagnosis as tables in the terminal."""

from homegrown.planning.checks import Check
from homegrown.planning.presets import Wants
from homegrown.reporting.blocks import Cell, Table, Verdict
from homegrown.reporting.numbers import count
from homegrown.reporting.terminal import print_table

_VERDICTS: dict[str, Verdict] = {"ok": "better", "warn": "", "bad": "worse"}


def print_diagnosis(checks: list[Check], wants: list[Wants]) -> None:
    """Print each check with its verdict, the advice, and what each recipe needs."""
    rows: list[list[str | Cell]] = [
        [Cell(check.verdict, verdict=_VERDICTS[check.verdict]), check.what, check.found, check.needed]
        for check in checks
    ]
    print_table(Table(["", "check", "found", "needed"], rows, align="llll", title="Checks"))
    advice = [[check.what, check.advice] for check in checks if check.advice]
    if advice:
        print()
        print_table(Table(["check", "what to do"], advice, align="ll", title="Advice"))
    print()
    print_table(_wants(wants))


def _wants(wants: list[Wants]) -> Table:
    rows = []
    for one in wants:
        disk = f"{one.disk / 1e9:.1f}" + ("" if one.text_is_known else "*")
        sizes = (one.gpu_least, one.gpu_recommended, one.memory)
        least, best, memory = (f"{size / 1e9:.1f}" for size in sizes)
        rows.append([one.recipe, count(one.parameters), least, best, one.gpu.removeprefix("NVIDIA "), memory, disk])
    return Table(
        ["recipe", "size", "GPU,\nleast", "best", "such as", "RAM\nwithout GPU", "disk"],
        rows,
        align="lrrrlrr",
        title="Hardware for each recipe, in GB, by the formulas of `homegrown plan`",
        notes=[
            "GPU, least: one sequence per pass with activation checkpointing; best: 8,192 tokens per pass without it.",
            "*: plus the text, whose size is unknown before it is read.",
        ],
    )
