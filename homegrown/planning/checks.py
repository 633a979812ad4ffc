"""Checks of doctor that no recipe changes: Python, libraries, processor, limits, server, telemetry."""

import importlib.metadata
import json
import os
import platform
import resource
import tomllib
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from packaging.requirements import Requirement

from homegrown.planning.machine import INSTRUCTIONS, Machine

Verdict = Literal["ok", "warn", "bad"]

_OLDEST_PYTHON = (3, 11)
_OPEN_FILES = 1024
_SERVER_SECONDS = 2.0
_DEFAULT_API = "http://127.0.0.1:4200/api"


@dataclass(frozen=True)
class Check:
    """The result of one check; `advice` is empty if there is nothing to do, `bad` means that the recipe cannot run."""

    what: str
    found: str
    needed: str
    verdict: Verdict
    advice: str = ""


def machine_checks(machine: Machine) -> Iterator[Check]:
    """Yield the checks that hold for every recipe."""
    yield _python()
    yield _libraries()
    yield _processors(machine)
    yield _instructions(machine)
    yield _open_files()
    settings = _prefect_settings()
    yield _server(os.environ.get("PREFECT_API_URL") or str(_nested(settings, "api", "url") or _DEFAULT_API))
    yield _telemetry(settings)


def _python() -> Check:
    version = platform.python_version()
    new = tuple(map(int, platform.python_version_tuple()[:2])) >= _OLDEST_PYTHON
    needed = "{}.{} or later".format(*_OLDEST_PYTHON)
    return Check("Python", version, needed, "ok" if new else "bad", "" if new else f"Install Python {needed}.")


def _libraries() -> Check:
    """Compare the installed libraries with the requirements of this package."""
    wrong, seen = [], 0
    for text in importlib.metadata.requires("homegrown") or []:
        requirement = Requirement(text)
        if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
            continue
        seen += 1
        try:
            version = importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            wrong.append(f"{requirement.name} is missing")
            continue
        if not requirement.specifier.contains(version, prereleases=True):
            wrong.append(f"{requirement.name} {version} is not {requirement.specifier}")
    if wrong:
        return Check("libraries", "; ".join(wrong), f"{seen} as required", "bad", "Run `make install` again.")
    torch, prefect = (importlib.metadata.version(name) for name in ("torch", "prefect"))
    return Check("libraries", f"{seen} as required, torch {torch}, prefect {prefect}", f"{seen} as required", "ok")


def _processors(machine: Machine) -> Check:
    found = f"{machine.processors} x {machine.processor}"
    if machine.processors < 2:
        return Check("processors", found, "2", "warn", "Everything works on one, at half the speed.")
    return Check("processors", found, "2", "ok")


def _instructions(machine: Machine) -> Check:
    found = ", ".join(machine.instructions) or f"none known for {platform.machine()}"
    wide = {"AVX2", "AVX-512", "NEON", "SVE"} & set(machine.instructions)
    if not wide and platform.machine().lower() in ("x86_64", "amd64"):
        advice = "Numba and PyTorch run several times slower without it."
        return Check("instructions", found, "AVX2", "warn", advice)
    advice = "" if machine.computes_in_bf16 else "Training on the CPU runs in float32, at about half the speed."
    bf16 = " or ".join(name for name in INSTRUCTIONS if name in ("AVX-512 BF16", "AMX BF16"))
    return Check("instructions", found, f"AVX2; {bf16} for bfloat16", "ok", advice)


def _open_files() -> Check:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    unlimited = soft == resource.RLIM_INFINITY
    found = "no limit" if unlimited else f"{soft:,}"
    if unlimited or soft >= _OPEN_FILES:
        return Check("open files", found, f"{_OPEN_FILES:,}", "ok")
    more = _OPEN_FILES if hard == resource.RLIM_INFINITY else min(_OPEN_FILES, hard)
    return Check("open files", found, f"{_OPEN_FILES:,}", "warn", f"Raise it with `ulimit -n {more}`.")


def _server(api: str) -> Check:
    try:
        with urllib.request.urlopen(f"{api}/health", timeout=_SERVER_SECONDS) as answer:
            healthy = json.load(answer) is True
    except (OSError, ValueError, urllib.error.URLError):
        healthy = False
    if healthy:
        return Check("Prefect server", f"answers at {api}", "none", "ok")
    advice = "`homegrown run` starts one for each run; `homegrown up` keeps one running."
    return Check("Prefect server", f"no answer at {api}", "none", "ok", advice)


def _telemetry(settings: dict[str, Any]) -> Check:
    """Read what Prefect's server would read here: the environment, then the project's file."""
    variable = os.environ.get("PREFECT_SERVER_ANALYTICS_ENABLED")
    value = variable if variable is not None else _nested(settings, "server", "analytics_enabled")
    if str(value).lower() in ("false", "0", "no", "off"):
        return Check("telemetry", "off", "off", "ok")
    advice = "Run in the project's folder, or set PREFECT_SERVER_ANALYTICS_ENABLED=false."
    return Check("telemetry", "Prefect's server would send usage statistics", "off", "warn", advice)


def _prefect_settings() -> dict[str, Any]:
    """Return the section `tool.prefect` of pyproject.toml in the working directory, which Prefect reads."""
    try:
        project = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    found = project.get("tool", {}).get("prefect", {})
    return found if isinstance(found, dict) else {}


def _nested(values: dict[str, Any], *names: str) -> Any:
    for name in names:
        values = values.get(name, {}) if isinstance(values, dict) else {}
    return values if values != {} else None
