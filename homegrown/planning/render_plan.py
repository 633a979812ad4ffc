"""A plan as a person reads it in the terminal."""

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from homegrown.planning.compute import COMPUTE_OPTIMAL_TOKENS, WORTHWHILE_EPOCHS
from homegrown.planning.history import Past
from homegrown.planning.memory import MARGIN
from homegrown.planning.plan import Plan
from homegrown.reporting.numbers import count, duration


def print_plan(console: Console, plan: Plan) -> None:
    """Print what the recipe will train, on how much text, in what memory, time and energy."""
    console.print(_summary(plan))
    console.print(_memory(plan))
    if plan.past:
        console.print(_past(plan))


def _summary(plan: Plan) -> Table:
    table = Table("", "", title=f"Plan of {plan.recipe}", title_justify="left", show_header=False, box=SIMPLE_HEAD)
    guide = ""
    if plan.guide_parameters:
        guide = f"; the guide's {count(plan.guide_parameters)} does not follow from its own table"
    table.add_row("model", f"{plan.family}, {plan.parameters:,} parameters{guide}")
    table.add_row(
        "operations", f"{plan.flops_per_token / 1e9:.3g} GFLOP for a token, {plan.flops:.2e} FLOP for all of training"
    )
    table.add_row("training", f"{count(plan.tokens)} tokens: {plan.steps:,} steps of {plan.step_tokens:,}")
    share = plan.tokens / plan.compute_optimal_tokens
    table.add_row(
        "compute-optimal",
        f"{count(plan.compute_optimal_tokens)} tokens, {COMPUTE_OPTIMAL_TOKENS} for each parameter (Hoffmann et al. "
        f"2022, table 3); this training has {share:.2g} times as many",
    )
    table.add_row("text", _text(plan))
    cost = plan.cost
    where = f"{plan.target.count} x {plan.target.name}" if plan.target.count > 1 else plan.target.name
    if cost is None:
        table.add_row("time", f"not measured on {where}")
    else:
        table.add_row("time", f"{duration(cost.seconds)} on {where}, without samples, checkpoints and the start")
        table.add_row(
            "speed",
            f"{cost.tokens_per_second:,.0f} tokens/s, {duration(cost.step_seconds)} a step, "
            f"{cost.model_flops_utilisation:.0%} of the peak ({cost.source})",
        )
        energy = f"{cost.kilowatt_hours:.3g} kWh" if cost.kilowatt_hours >= 1 else f"{cost.kilowatt_hours * 1e3:.2g} Wh"
        table.add_row("energy", f"{energy} at {cost.watts:,.0f} W ({cost.watts_source})")
    return table


def _text(plan: Plan) -> str:
    if plan.text.tokens is None or plan.epochs is None:
        return f"{plan.text.source}; {count(plan.compute_optimal_tokens)} tokens would be compute-optimal"
    epochs = f"{plan.epochs:.2g}" if plan.epochs < 10 else f"{plan.epochs:,.0f}"
    said = f"{count(plan.text.tokens)} training tokens ({plan.text.source}): {epochs} epochs"
    if plan.epochs > WORTHWHILE_EPOCHS:
        said += f"; beyond {WORTHWHILE_EPOCHS}, repeated text is worth ever less (Muennighoff et al. 2023)"
    return said


def _memory(plan: Plan) -> Table:
    each = f"each of {plan.target.count} devices" if plan.target.count > 1 else "the device"
    held = f"{plan.target.memory_bytes / 1e9:.1f} GB"
    table = Table(
        title=f"Memory in GB on {each}, which has {held}; {MARGIN:.0%} are left free",
        title_justify="left",
        box=SIMPLE_HEAD,
    )
    table.add_column("")
    # A column for each way, for a terminal of 80 characters has no room for all figures side by side.
    for number, fit in enumerate(plan.fits):
        layout = fit.layout
        way = {"ddp": "DDP", "fsdp": "FSDP2"}[layout.parallel] if layout.devices > 1 else "one device"
        parts = [way, *(["checkpointing"] if layout.checkpointing else []), *([] if number else ["(the recipe)"])]
        table.add_column("\n".join(parts), justify="right", no_wrap=True)
    table.add_row("rows", *(str(fit.layout.rows) for fit in plan.fits))
    for name in ("weights", "gradients", "optimizer", "activations", "working", "peak"):
        table.add_row(name, *(f"{getattr(fit.memory, name) / 1e9:.3g}" for fit in plan.fits))
    table.add_row("", *("fits" if fit.fits else "[red]too much[/red]" for fit in plan.fits))
    return table


def _past(plan: Plan) -> Table:
    table = Table(
        title="What runs of this training took, and in brackets as a multiple of what is predicted",
        caption="The memory predicted is that of PyTorch and the steps; a run writes samples and checkpoints besides.",
        title_justify="left",
        caption_justify="left",
        box=SIMPLE_HEAD,
    )
    for name in ("", "tokens/s", "seconds", "memory, GB", "on"):
        last = name == "on"  # the one that may take several lines: the figures are not cut
        table.add_column(name, justify="left" if last or not name else "right", no_wrap=not last, overflow="fold")
    if plan.cost:
        memory = plan.base_memory_bytes + plan.fits[0].memory.peak
        cost = plan.cost
        table.add_row(
            "predicted",
            f"{cost.tokens_per_second:,.0f}",
            f"{cost.seconds:,.0f}",
            f"{memory / 1e9:.2f}",
            plan.target.name,
        )
    for run in plan.past:
        table.add_row(*_run(run, plan))
    return table


def _run(run: Past, plan: Plan) -> tuple[str, ...]:
    speed, seconds = f"{run.tokens_per_second:,.0f}", f"{run.seconds:,.0f}"
    if plan.cost:
        speed += f" ({run.tokens_per_second / plan.cost.tokens_per_second:.2f}x)"
        seconds += f" ({run.seconds / plan.cost.seconds:.2f}x)"
    memory = "" if run.peak_memory_bytes is None else f"{run.peak_memory_bytes / 1e9:.2f}"
    where = f"{run.processors} processors, {run.started:%Y-%m-%d %H:%M}"
    return run.artifact, speed, seconds, memory, where
