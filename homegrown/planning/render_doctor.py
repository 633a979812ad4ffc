"""A diagnosis as a person reads it in the terminal."""

from rich.box import SIMPLE_HEAD
from rich.console import Console, JustifyMethod
from rich.markup import escape
from rich.table import Table

from homegrown.planning.checks import Check
from homegrown.planning.presets import Wants
from homegrown.reporting.numbers import count

_COLOURS = {"ok": "green", "warn": "yellow", "bad": "red"}


def print_diagnosis(console: Console, checks: list[Check], wants: list[Wants]) -> None:
    """Print each check with its verdict and what to do, then what each recipe wants."""
    table = Table("", "what", "found", "needed", "what to do", box=SIMPLE_HEAD)
    for column in table.columns:
        column.overflow = "fold"  # an address or a folder that is cut says nothing
    for check in checks:
        colour = _COLOURS[check.verdict]
        table.add_row(
            f"[{colour}]{check.verdict}[/{colour}]",
            check.what,
            escape(check.found),
            escape(check.needed),
            escape(check.advice),
        )
    console.print(table)
    console.print(_wants(wants))


def _wants(wants: list[Wants]) -> Table:
    table = Table(
        title="What each recipe wants, in GB, by the formulas of `homegrown plan`",
        caption="GPU: at least, with one sequence at a time and activation checkpointing; better, with 8,192 tokens at "
        "a time.\n*: and more for the text, whose size only reading it tells.",
        title_justify="left",
        caption_justify="left",
        box=SIMPLE_HEAD,
    )
    for name in ("recipe", "parameters", "GPU at least", "better", "such as", "memory without GPU", "disk"):
        side: JustifyMethod = "left" if name in ("recipe", "such as") else "right"
        table.add_column(name, justify=side, no_wrap=name in ("recipe", "parameters"))
    for one in wants:
        disk = f"{one.disk / 1e9:.1f}" + ("" if one.text_is_known else "*")
        sizes = (one.gpu_least, one.gpu_recommended, one.memory)
        least, better, memory = (f"{size / 1e9:.1f}" for size in sizes)
        table.add_row(one.recipe, count(one.parameters), least, better, one.gpu, memory, disk)
    return table
