"""A diagnosis as tables in the terminal."""

from rich.box import SIMPLE_HEAD
from rich.console import Console, JustifyMethod
from rich.markup import escape
from rich.table import Table

from homegrown.planning.checks import Check
from homegrown.planning.presets import Wants
from homegrown.reporting.numbers import count

_COLORS = {"ok": "green", "warn": "yellow", "bad": "red"}


def print_diagnosis(console: Console, checks: list[Check], wants: list[Wants]) -> None:
    """Print each check with its verdict, the advice, and what each recipe needs."""
    table = Table("", "check", "found", "needed", box=SIMPLE_HEAD)
    advice = Table("check", "what to do", box=SIMPLE_HEAD)
    for column in (*table.columns, *advice.columns):
        column.overflow = "fold"  # an address or a folder that is cut off is useless
    for check in checks:
        verdict = f"[{_COLORS[check.verdict]}]{check.verdict}[/]"
        table.add_row(verdict, check.what, escape(check.found), escape(check.needed))
        if check.advice:
            advice.add_row(check.what, escape(check.advice))
    console.print(table)
    if advice.rows:
        console.print(advice)
    console.print(_wants(wants))


def _wants(wants: list[Wants]) -> Table:
    table = Table(
        title="Hardware for each recipe, in GB, by the formulas of `homegrown plan`",
        caption="GPU, least: one sequence per pass with activation checkpointing; best: 8,192 tokens per pass without "
        "it.\n*: plus the text, whose size is unknown before it is read.",
        title_justify="left",
        caption_justify="left",
        box=SIMPLE_HEAD,
    )
    for name in ("recipe", "size", "GPU, least", "best", "such as", "RAM without GPU", "disk"):
        justify: JustifyMethod = "left" if name in ("recipe", "such as") else "right"
        table.add_column(name, justify=justify, no_wrap=name == "recipe")
    for one in wants:
        disk = f"{one.disk / 1e9:.1f}" + ("" if one.text_is_known else "*")
        sizes = (one.gpu_least, one.gpu_recommended, one.memory)
        least, best, memory = (f"{size / 1e9:.1f}" for size in sizes)
        table.add_row(one.recipe, count(one.parameters), least, best, one.gpu.removeprefix("NVIDIA "), memory, disk)
    return table
