"""What the documentation names exists: files, modules, commands, options, settings, deployments, figures."""

import contextlib
import re
import shlex
from collections.abc import Callable, Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

import click
import pytest
import yaml
from pydantic import BaseModel

from benchmarks import guide
from homegrown.cli.generate import generate
from homegrown.cli.main import cli
from homegrown.config.pipelines import (
    AUTO,
    PIPELINES,
    load_auto,
    load_dpo,
    load_finetuning,
    load_recipe,
    pipeline_names,
    read,
)
from homegrown.planning.budget import Budget
from homegrown.planning.compute import config_of
from homegrown.reporting.numbers import count
from homegrown.store.artifacts import Store
from homegrown.util.errors import UserError

ROOT = Path(__file__).parents[1]
PAGES = sorted(
    page
    for pattern in ("*.md", "docs/*.md", "data/*.md", "artifacts/*.md", "benchmarks/**/*.md")
    for page in ROOT.glob(pattern)
    if page.name != "CHANGELOG.md"
)
"""Every page but the one that names what is gone."""

_TUNING: dict[str | None, Callable[..., BaseModel]] = {"finetune": load_finetuning, "dpo": load_dpo}
TRACKED = ("homegrown", "tasks", "flows", "tests", "docs", "benchmarks")
"""Folders in which a path that is named exists on a fresh clone; `data` and `artifacts` fill up later."""


def page(path: Path) -> str:
    return str(path.relative_to(ROOT))


pages = pytest.mark.parametrize("path", PAGES, ids=page)


def prose(text: str) -> str:
    """Return a page without its blocks of code."""
    return re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)


def blocks(text: str) -> Iterator[str]:
    """Yield each line of the blocks of code but those that are shown to fail; a line may end with a backslash."""
    for language, block in re.findall(r"^```(\w*)\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL):
        if language in ("", "bash", "sh"):
            yield from re.sub(r"^\$ .*\nError: ", "", block.replace("\\\n", " "), flags=re.MULTILINE).splitlines()


def spans(text: str) -> list[str]:
    """Return what stands between backticks in the prose; a span may go over the end of a line."""
    return [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", prose(text))]


def commands(text: str) -> Iterator[tuple[list[str], bool]]:
    """Yield the words of each command of ours, and whether it is one to type, not only named in a sentence."""
    for line, typed in [*((line, True) for line in blocks(text)), *((span, False) for span in spans(text))]:
        if not re.search(r"\b(homegrown|prefect|make) [a-z-]|\bpython -m benchmarks", line):
            continue
        lexer = shlex.shlex(line.removeprefix("$ "), posix=True, punctuation_chars="|&;<>")
        lexer.whitespace_split = True
        for operator, words in groupby(lexer, lambda word: set(word) <= set("|&;<>")):
            found = list(words)
            if not operator and found[0] in ("homegrown", "prefect", "make", "python") and len(found) > 1:
                yield found, typed


@pages
def test_a_path_that_is_named_exists(path: Path) -> None:
    text = path.read_text()
    missing = [
        link
        for link in re.findall(r"\]\(([^)\s]+)\)", prose(text))
        if not link.startswith(("http:", "https:", "#")) and not (path.parent / link.partition("#")[0]).exists()
    ]
    for span in spans(text):
        named = re.fullmatch(r"[\w./-]+", span) and "/" in span and span.split("/")[0] in ("..", *TRACKED)
        if named and not (path.parent / span).exists() and not (ROOT / span).exists():
            missing.append(span)
        if re.fullmatch(rf"({'|'.join(TRACKED)})(\.\w+)+", span) and not is_module(span):
            missing.append(span)
    assert not missing


def is_module(name: str) -> bool:
    """Return whether a dotted name is that of a module or package, or of what is defined in one."""
    *parents, last = name.split(".")
    file, inside = ROOT.joinpath(*parents, last), ROOT.joinpath(*parents)
    if file.is_dir() or file.with_suffix(".py").is_file():
        return True
    source = inside / "__init__.py" if inside.is_dir() else inside.with_suffix(".py")
    return source.is_file() and bool(re.search(rf"^(def|class) {last}\b|^{last}\b", source.read_text(), re.MULTILINE))


@pages
def test_a_command_that_is_named_parses(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parsed: list[click.Context] = []
    monkeypatch.setattr(click.Command, "invoke", lambda self, context: parsed.append(context))
    problems = []
    for words, typed in commands(path.read_text()):
        try:
            check(words, parsed)
        except click.UsageError as error:
            incomplete = isinstance(error, click.MissingParameter | click.BadOptionUsage) and not typed
            if not incomplete and "does not exist" not in error.message:  # a file that is the reader's own
                problems.append(f"{shlex.join(words)}: {error.format_message()}")
        except (UserError, ValueError) as error:
            problems.append(f"{shlex.join(words)}: {error}")
    assert not problems


def check(words: list[str], parsed: list[click.Context]) -> None:
    """Raise what is wrong with a command: an unknown option, value or target, or a setting that is not there."""
    program, *arguments = words
    if program == "homegrown":
        with contextlib.suppress(click.exceptions.Exit, click.exceptions.NoArgsIsHelpError):
            if cli.main(arguments, standalone_mode=False) is None:
                check_changes(parsed[-1].command.name, parsed[-1].params)
    elif program == "make":
        targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
        if unknown := [word for word in arguments if word not in targets and "=" not in word]:
            raise ValueError(f"no target {unknown[0]}")
    elif arguments[0] == "-m" and arguments[1].startswith("benchmarks") and not is_module(arguments[1]):
        raise ValueError("no such module")
    elif arguments[:2] == ["deployment", "run"] and len(arguments) > 2:
        check_deployment(*arguments[2:])


def check_changes(command: str | None, given: dict[str, Any]) -> None:
    changes = given.get("changes") or ()
    if command in _TUNING:
        _TUNING[command](given["recipe"], changes)
    elif command == "sweep":
        load_recipe(given["pipeline"], [*changes, *(f"{given['setting']}={value}" for value in given["values"])])
    elif given.get("pipeline") == AUTO:
        Budget.of(given["time"], given["size"], given["tokens"])
        load_auto(change for change in changes if not change.startswith(("model.", "training.")))
    elif str(given.get("pipeline") or "NAME").islower():
        load_recipe(given["pipeline"], changes)


def check_deployment(name: str, *options: str) -> None:
    flow, _, deployment = name.partition("/")
    known = {f"pretrain/{AUTO}"}  # its flow has the name of pretrain's
    known |= {one["entrypoint"].rpartition(".")[2] + "/" + one["name"] for one in read(PIPELINES)["deployments"]}
    if name not in known and deployment.islower():
        raise ValueError(f"no deployment {name}")
    for option in options:
        if option.startswith("changes="):
            load = _TUNING.get(flow, load_recipe)
            load(deployment, yaml.safe_load(option.removeprefix("changes=")))


@pages
def test_a_setting_that_is_named_exists(path: Path) -> None:
    adapted = load_recipe("starter", ["replay={conversations: [data/conversations]}"])
    recipes = (load_recipe("medium"), adapted, load_finetuning("tiny"), load_dpo("tiny"))
    known = {name for recipe in recipes for name in settings(recipe)}
    for span in spans(path.read_text()):
        named = re.fullmatch(r"(([a-z]+)(?:\.\w+)+)(=.*)?", span)
        if named and named[2] in known and not re.search(r"\.(json|md|safetensors)$", named[1]):
            assert named[1] in known


def settings(model: BaseModel, place: str = "") -> Iterator[str]:
    """Yield the dotted name of every setting, and of every group of settings."""
    for name in type(model).model_fields:
        yield place + name
        if isinstance(inner := getattr(model, name), BaseModel):
            yield from settings(inner, f"{place}{name}.")


def test_the_tree_of_the_architecture_has_every_package_and_no_file_that_is_gone() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text()
    listed = set(re.findall(r"^ *([a-z]+)/ ", text, flags=re.MULTILINE))
    packages = {
        file.parent.name for top in ("homegrown", "tasks", "flows") for file in ROOT.glob(f"{top}/**/__init__.py")
    }
    assert packages <= listed
    files = {file.relative_to(ROOT).as_posix() for file in ROOT.glob("[a-z]*/**/*.py")}
    gone = [
        name for name in re.findall(r"[\w/]+\.py", text) if not any(f"/{file}".endswith(f"/{name}") for file in files)
    ]
    assert not gone


def test_the_workflow_runs_make_test_on_the_python_versions_of_the_readme() -> None:
    job = yaml.safe_load((ROOT / ".github" / "workflows" / "test.yml").read_text())["jobs"]["test"]
    versions = job["strategy"]["matrix"]["python"]
    assert f"Python {versions[0]} to {versions[-1]}" in (ROOT / "README.md").read_text()
    assert f'requires-python = ">={versions[0]}"' in (ROOT / "pyproject.toml").read_text()
    assert "make test PYTHON=python" in [step.get("run") for step in job["steps"]]
    assert all(re.search(r"@[0-9a-f]{40}$", step["uses"]) for step in job["steps"] if "uses" in step)


def test_the_table_of_pipelines_has_every_recipe_with_its_shape() -> None:
    rows = re.findall(r"^\| `([a-z-]+)` \| (.+) \|$", (ROOT / "README.md").read_text(), flags=re.MULTILINE)
    table = {name: cells.split(" | ") for name, cells in rows if name in pipeline_names()}
    assert list(table) == pipeline_names()
    for name, cells in table.items():
        config = config_of(load_recipe(name), Store(ROOT / "artifacts"))
        sizes = (config.hidden, config.layers, config.heads, config.feed_forward, config.context)
        assert cells[:7] == [config.family, *map(str, sizes), count(config.parameter_count())]


def test_generate_has_the_defaults_that_the_page_on_the_guide_gives() -> None:
    text = (ROOT / "docs" / "guide.md").read_text()
    defaults = {option.opts[0]: option.default for option in generate.params}
    for option, value in (("--max-length", 200), ("--temperature", 0.7), ("--top-k", 50)):
        assert defaults[option] == value
        assert f"`{option}` ({value})" in " ".join(text.split())


def test_the_figures_of_the_guide_are_those_of_its_benchmark() -> None:
    text = (ROOT / "docs" / "guide.md").read_text()
    for size, counts in guide.parameters().items():
        assert counts["classic"] == counts["guide"]
        assert f"| {counts['guide']:,} M |" in text or f" {counts['guide']:,} M " in text, size
        assert f"`{size}`: {counts['modern']:,} M" in text
    tokens, scores = guide.tokens(), guide.scores()
    assert f"`{tokens['code']}` to `{tokens['decoded']}`" in text
    assert "<UNK>" in tokens["naïve"]
    assert not tokens["ends_documents"]
    assert " and ".join(f"{score:.2g}" for score in scores["unsmoothed"]) in text
    assert " and ".join(f"{score}" for score in scores["ours"]) in text
    assert "same number of dimensions" in guide.sampling()
    assert "not found in the base model" in guide.lora()
