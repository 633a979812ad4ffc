"""A plan as tables in the terminal."""

from homegrown.planning.compute import COMPUTE_OPTIMAL_TOKENS, WORTHWHILE_EPOCHS
from homegrown.planning.history import Past
from homegrown.planning.memory import MARGIN
from homegrown.planning.plan import Plan
from homegrown.reporting.blocks import Cell, Table
from homegrown.reporting.numbers import count, duration
from homegrown.reporting.terminal import print_table


def print_plan(plan: Plan) -> None:
    """Print the model, text, memory, time and energy of the recipe, and earlier runs."""
    print_table(_summary(plan))
    print()
    print_table(_memory(plan))
    if plan.past:
        print()
        print_table(_past(plan))


def _summary(plan: Plan) -> Table:
    rows: list[list[str | Cell]] = []
    guide = ""
    if plan.guide_parameters:
        guide = f"; the guide's {count(plan.guide_parameters)} does not follow from its own table"
    rows.append(["model", f"{plan.family}, {plan.parameters:,} parameters{guide}"])
    if plan.adapter:
        kind = f"{plan.adapter.method} of rank {plan.adapter.rank}"
        rows.append(["trained", f"{plan.trained_parameters:,} parameters, {kind}; the base is frozen"])
    rows.append(["operations", f"{plan.flops_per_token / 1e9:.3g} GFLOP per token, {plan.flops:.2e} FLOP in total"])
    sequences = plan.step_tokens // plan.sequence_length
    size = f"{plan.step_tokens:,}, {sequences:,} sequences of {plan.sequence_length:,}"
    rows.append(["training", f"{count(plan.tokens)} tokens: {plan.steps:,} steps of {size}"])
    if plan.compute_optimal_tokens is not None:
        share = plan.tokens / plan.compute_optimal_tokens
        rows.append(
            [
                "compute-optimal",
                f"{count(plan.compute_optimal_tokens)} tokens, {COMPUTE_OPTIMAL_TOKENS} per parameter (Hoffmann et al. "
                f"2022, table 3); this run trains on {share:.2g} times as many",
            ]
        )
    rows.append(["text", _text(plan)])
    for number, source in enumerate(plan.mixture):
        epochs = "" if source.epochs is None else f", {source.epochs:.3g} epochs"
        part = f"{source.tokens / plan.tokens:.1%}"
        rows.append(["" if number else "mixture", f"{source.name}: {count(source.tokens)} tokens ({part}){epochs}"])
    cost = plan.cost
    where = f"{plan.target.count} x {plan.target.name}" if plan.target.count > 1 else plan.target.name
    if cost is None:
        rows.append(["time", f"not measured on {where}"])
    else:
        rows.append(["time", f"{duration(cost.seconds)} on {where}, without startup, samples and checkpoints"])
        rows.append(
            [
                "speed",
                f"{cost.tokens_per_second:,.0f} tokens/s, {duration(cost.step_seconds)} per step, "
                f"MFU {cost.model_flops_utilisation:.0%} ({cost.source})",
            ]
        )
        energy = f"{cost.kilowatt_hours:.3g} kWh" if cost.kilowatt_hours >= 1 else f"{cost.kilowatt_hours * 1e3:.2g} Wh"
        rows.append(["energy", f"{energy} at {cost.watts:,.0f} W ({cost.watts_source})"])
    if plan.base_memory_bytes:
        base = f"{plan.base_memory_bytes / 1e9:.2f} GB of it PyTorch and its libraries"
        rows.append(["memory", f"{plan.memory_bytes / 1e9:.2f} GB for each training process, {base}"])
    return Table(["", ""], rows, align="ll", title=f"Plan of {plan.recipe}")


def _text(plan: Plan) -> str:
    if plan.text.tokens is None or plan.epochs is None:
        optimal = plan.compute_optimal_tokens
        return plan.text.source + (f"; {count(optimal)} tokens are compute-optimal" if optimal is not None else "")
    epochs = f"{plan.epochs:.2g}" if plan.epochs < 10 else f"{plan.epochs:,.0f}"
    text = f"{count(plan.text.tokens)} training tokens ({plan.text.source}): {epochs} epochs"
    if plan.epochs > WORTHWHILE_EPOCHS:
        text += f"; beyond {WORTHWHILE_EPOCHS}, repeated text helps less and less (Muennighoff et al. 2023)"
    return text


def _memory(plan: Plan) -> Table:
    each = f"each of {plan.target.count} devices" if plan.target.count > 1 else "the device"
    memory = f"{plan.target.memory_bytes / 1e9:.1f} GB"
    header = [""]
    # One column per layout: 80 characters do not fit all figures of a layout side by side.
    for number, fit in enumerate(plan.fits):
        layout = fit.layout
        name = {"ddp": "DDP", "fsdp": "FSDP2"}[layout.parallel] if layout.devices > 1 else "one device"
        parts = [name, *(["checkpointing"] if layout.checkpointing else []), *([] if number else ["(the recipe)"])]
        header.append("\n".join(parts))
    rows: list[list[str | Cell]] = [["rows", *(str(fit.layout.rows) for fit in plan.fits)]]
    for part in (
        "weights",
        "average",
        "gradients",
        "optimizer",
        "activations",
        "working",
        "heap",
        "checkpoint",
        "peak",
    ):
        rows.append([part, *(f"{getattr(fit.memory, part) / 1e9:.3g}" for fit in plan.fits)])
    rows.append(["", *(Cell("fits") if fit.fits else Cell("too much", verdict="worse") for fit in plan.fits)])
    return Table(header, rows, title=f"Memory in GB on {each} of {memory}; {MARGIN:.0%} stay free")


def _past(plan: Plan) -> Table:
    rows: list[list[str | Cell]] = []
    if plan.cost:
        cost = plan.cost
        rows.append(
            [
                "predicted",
                f"{cost.tokens_per_second:,.0f}",
                f"{cost.seconds:,.0f}",
                f"{plan.memory_bytes / 1e9:.2f}",
                plan.target.name,
            ]
        )
    rows += [[*_run(run, plan)] for run in plan.past]
    return Table(
        ["", "tokens/s", "seconds", "memory, GB", "on"],
        rows,
        align="lrrrl",
        title="Earlier runs of this training, in brackets relative to the prediction",
    )


def _run(run: Past, plan: Plan) -> tuple[str, ...]:
    speed, seconds = f"{run.tokens_per_second:,.0f}", f"{run.seconds:,.0f}"
    if plan.cost:
        speed += f" ({run.tokens_per_second / plan.cost.tokens_per_second:.2f}x)"
        seconds += f" ({run.seconds / plan.cost.seconds:.2f}x)"
    memory = "" if run.peak_memory_bytes is None else f"{run.peak_memory_bytes / 1e9:.2f}"
    where = f"{run.processors} processors, {run.started:%Y-%m-%d %H:%M}"
    return run.artifact, speed, seconds, memory, where
