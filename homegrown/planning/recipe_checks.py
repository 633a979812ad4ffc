"""Checks of doctor for a recipe: variants, memory, disk, GPUs, compiler, training time."""

import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from homegrown.config.corpus import AnySource, FilesSource, PackagesSource
from homegrown.config.recipe import Recipe
from homegrown.corpus.remote import local_path
from homegrown.corpus.sources import find_files
from homegrown.data.instruction_files import find
from homegrown.planning.checks import Check
from homegrown.planning.compute import adapter_of, config_of, flops_per_token, optimizer_flops, step_tokens
from homegrown.planning.fit import STAGES, check_fit
from homegrown.planning.layouts import layouts
from homegrown.planning.machine import Machine, available_memory
from homegrown.planning.memory import MARGIN, PROCESS_BYTES
from homegrown.planning.presets import Wants
from homegrown.planning.target import Target, this_machine_as_target
from homegrown.quantization.requirements import check_recipe
from homegrown.reporting.numbers import duration
from homegrown.store.artifacts import Store
from homegrown.training import fp8
from homegrown.training.compilation import compiles
from homegrown.util import devices
from homegrown.util.errors import UserError

_LONG_SECONDS = 7 * 24 * 3600
_USUAL_SHARE = 0.3
"""Share of the measured peak of matrix products at which training on a CPU usually runs."""


def recipe_checks(recipe: Recipe, machine: Machine, wants: Wants, store: Store, named: str) -> Iterator[Check]:
    """Yield the checks of this machine for the recipe, and of the disk with the artifacts `store`.

    `named` is the recipe in the arguments of the commands that are advised.

    Raises:
        UserError: the processes cannot share the batch of the recipe.
    """
    yield _variants(recipe, store)
    yield _sources("text", recipe.ingest.sources)
    yield _fit(recipe, store)
    if recipe.replay is not None:
        yield _sources("replay", recipe.replay.sources, recipe.replay.conversations)
    device = machine.device(recipe.compute.device)
    if device != "cpu" and len(machine.gpus) < recipe.compute.processes:
        yield _too_few_gpus(recipe, machine)
        return
    if recipe.training.precision == "fp8":
        yield _eight_bits(recipe, device)
    target = this_machine_as_target(machine, recipe, None)
    yield _training_memory(recipe, target, store)
    yield _corpus_memory(recipe, machine)
    yield _disk(wants, store.root)
    if device != "cpu":
        yield _pytorch_sees(machine, device)
    else:
        yield _compiler(recipe, store)
        yield _time(recipe, store, named)


def _variants(recipe: Recipe, store: Store) -> Check:
    wanted = ", ".join(recipe.quantization.variants) or "none"
    try:
        check_recipe(recipe, store)
    except UserError as error:
        return Check("quantized variants", "a missing library or unsuitable size", wanted, "bad", str(error))
    return Check("quantized variants", "all supported here", wanted, "ok")


def _fit(recipe: Recipe, store: Store) -> Check:
    try:
        check_fit(recipe, store, STAGES)
    except UserError as error:
        return Check("settings and text", "a stage would fail", "", "bad", str(error))
    return Check("settings and text", "nothing that surely fails", "", "ok")


def _sources(what: str, sources: Sequence[AnySource], conversations: Sequence[str] = ()) -> Check:
    """Check the files of sources on this machine, as ingest and replay would refuse them."""
    files, problems, others = [], [], []
    differences: list[str] = []
    for source in sources:
        if isinstance(source, FilesSource) and local_path(source.path) is not None:
            try:
                files += [piece.address for piece in find_files(source).files]
            except UserError as error:
                problems.append(str(error))
        elif isinstance(source, PackagesSource):
            others.append("installed packages")
            differences += _deviations(source, problems)
        else:
            others.append(f"{source.name} unchecked")
    for name in conversations:
        try:
            files += find([name], "replay.conversations") if local_path(name) is not None else []
        except UserError as error:
            problems.append(str(error))
    problems += [f"{file} cannot be read; change its permissions." for file in files if not os.access(file, os.R_OK)]
    if files and not problems and not any(Path(file).stat().st_size for file in files):
        problems.append(f"All {len(files)} files are empty; name others.")
    found = ", ".join([f"{len(files):,} files", *others] if files or not others else others)
    if problems:
        return Check(what, f"{found}; {len(problems)} problems", "readable files", "bad", " ".join(problems))
    if differences:
        advice = "The text is not that of other machines; `make install` restores it."
        return Check(what, f"{found}; {'; '.join(differences)}", "readable files", "warn", advice)
    return Check(what, found, "readable files", "ok")


def _deviations(source: PackagesSource, problems: list[str]) -> list[str]:
    """Return how the installed packages differ from the constraints of a source; add what is wrong with those."""
    from homegrown.corpus import packages

    if source.constraints is None:
        return []
    try:
        different = packages.deviations(source.constraints)
    except UserError as error:
        problems.append(str(error))
        return []
    return [str(different)] if different else []


def _eight_bits(recipe: Recipe, device: str) -> Check:
    try:
        fp8.check(recipe.training, device)
    except UserError as error:
        return Check("precision", "no FP8", "FP8", "bad", str(error))
    return Check("precision", "FP8, by torchao", "FP8", "ok")


def _too_few_gpus(recipe: Recipe, machine: Machine) -> Check:
    needed, there = recipe.compute.processes, len(machine.gpus)
    found = f"{there} x {machine.gpus[0].name}" if machine.gpus else "none"
    least = max(1, there)
    advice = "Set compute.device to 'auto' or 'cpu'." if not there else f"Set compute.processes to {least}."
    return Check("GPU", found, str(needed), "bad", advice)


def _training_memory(recipe: Recipe, target: Target, store: Store) -> Check:
    config = config_of(recipe, store)
    ways = layouts(recipe, config, target.device, target.value_bytes, target.count, target.memory_bytes)
    base = PROCESS_BYTES if target.device == "cpu" else 0
    available = (1 - MARGIN) * target.memory_bytes - base
    what = "GPU memory" if target.device != "cpu" else "memory to train"
    found = f"{target.name}: {target.memory_bytes / 1e9:.1f} GB"
    if target.count > 1:
        found = f"{target.count} x {found} each"
    needed = f"{(ways[0].memory.peak + base) / 1e9:.1f} GB plus {MARGIN:.0%} margin"
    if ways[0].memory.peak <= available:
        return Check(what, found, needed, "ok")
    other = next((way.layout for way in ways[1:] if way.memory.peak <= available), None)
    if other is None:
        advice = "No layout fits: choose a smaller model, a smaller micro_batch_size, or more devices."
    elif other.parallel == recipe.compute.parallel or other.devices == 1:
        advice = "It fits with training.activation_checkpointing."
    else:
        advice = f"It fits with compute.parallel={other.parallel}"
        advice += " and training.activation_checkpointing." if other.checkpointing else "."
    return Check(what, found, needed, "bad", advice)


def _corpus_memory(recipe: Recipe, machine: Machine) -> Check:
    """Compare the memory limit of DuckDB with the free memory."""
    needed = recipe.compute.memory_gb * 1e9 + PROCESS_BYTES
    there = min(available_memory(), machine.memory_bytes)
    found = f"{there / 1e9:.1f} GB free"
    required = f"{needed / 1e9:.1f} GB plus the workers of a stage"
    if there >= needed:
        return Check("memory for text", found, required, "ok")
    return Check(
        "memory for text", found, required, "warn", "Lower compute.memory_gb; DuckDB then spills to disk sooner."
    )


def _disk(wants: Wants, root: Path) -> Check:
    place = next(folder for folder in (root, *root.parents) if folder.exists())
    free = shutil.disk_usage(place).free
    found, needed = f"{free / 1e9:.1f} GB free at {place}", f"{wants.disk / 1e9:.1f} GB"
    if not wants.text_is_known:
        needed += " for the model, plus the text, whose size is unknown"
    if free < wants.disk:
        return Check("disk", found, needed, "bad", "Free some space, or choose another folder with --artifacts.")
    return Check("disk", found, needed, "ok" if wants.text_is_known else "warn")


def _pytorch_sees(machine: Machine, device: str) -> Check:
    import torch

    found, needed = f"PyTorch {torch.__version__}", f"an accelerator of type {device}, visible to PyTorch"
    if driver := machine.gpus[0].driver:
        found = f"driver {driver}, {found}"
    if devices.accelerator() == device:
        return Check("accelerator", f"{found} sees {devices.describe(device)}", needed, "ok")
    advice = "Install the build of PyTorch for this GPU, and a driver that supports it."
    return Check("accelerator", f"{found} sees none", needed, "bad", advice)


def _compiler(recipe: Recipe, store: Store) -> Check:
    compiler = devices.compiler("cpu")
    config, setting = config_of(recipe, store), recipe.training.compile
    tokens = step_tokens(config, recipe.training) * recipe.training.max_steps
    needed = "one, for torch.compile" if setting == "always" else "none"
    if compiler:
        used = compiles(setting, "cpu", flops_per_token(config, adapter_of(recipe)), tokens)
        return Check("C++ compiler", compiler, "one, for torch.compile" if used else "none", "ok")
    if setting == "always":
        return Check("C++ compiler", "none", needed, "bad", "Install g++ or clang++, or set training.compile to auto.")
    advice = "" if setting == "never" else "With g++ or clang++, long training runs take a twelfth less time."
    return Check("C++ compiler", "none", needed, "ok", advice)


def _time(recipe: Recipe, store: Store, named: str) -> Check:
    """Estimate the training time on the CPU from the peak of its matrix products."""
    import torch

    from homegrown.training.peak import matmul_peak
    from homegrown.training.precision import choose_precision

    config, settings = config_of(recipe, store), recipe.training
    flops = flops_per_token(config, adapter_of(recipe)) * step_tokens(config, settings)
    flops += optimizer_flops(config, settings)
    peak = matmul_peak(torch.device("cpu"), choose_precision(settings.precision, "cpu").dtype)
    seconds = settings.max_steps * flops / (peak * _USUAL_SHARE)
    found = f"about {duration(seconds)} at the usual {_USUAL_SHARE:.0%} of {peak / 1e9:,.0f} GFLOP/s"
    if seconds <= _LONG_SECONDS:
        return Check("time to train", found, "", "ok", f"`homegrown plan {named}` measures it.")
    return Check("time to train", found, "", "warn", f"`homegrown plan {named} --gpu h100` estimates a GPU.")
