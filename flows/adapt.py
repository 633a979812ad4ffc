"""The flow `adapt`: continued pretraining of a base model on one's own text."""

import json
import re
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Annotated

from prefect import flow
from prefect.logging import get_run_logger
from pydantic import Field, ValidationError

from flows.lifetime import after_cancellation, after_crash, begin
from flows.pretrain import Change, StageName, recipe_run_name, run_chain
from homegrown.config.adaptation import ReplaySettings
from homegrown.config.corpus import AnySource, FilesSource
from homegrown.config.pipelines import change_recipe, explain
from homegrown.config.recipe import Recipe
from homegrown.config.settings import Address, LocalPath
from homegrown.corpus.readers.formats import PLAIN, form
from homegrown.corpus.remote import local_path
from homegrown.corpus.sources import find_files
from homegrown.util.errors import UserError
from tasks import dial
from tasks.stage import Handle, forget_flow_exception

_SEPARATORS = [end * times for times in (3, 2, 1) for end in ("\r\n", "\n")]
"""Of documents in a file, because one document alone cannot be split for validation: first those of the chapters of
most books, then of paragraphs and of lines."""
_FILES, _DOCUMENTS, _SEARCHED = 10, 20, 4_000_000
"""Files of which each is a document; separators in so many of the first bytes to split fewer files there."""
Duration = Annotated[str, Field(examples=["45m"], max_length=32)]
"""Read by the run, whose message says what to write; that of the server would be a regular expression."""
_ANY_LENGTH = ("filter.min_characters=1", "filter.max_characters=20000000")
"""Of documents, as in the recipe of `auto`: notes are short, and books are long."""


def adaptation_changes(base: str | None, data: Sequence[str], replay: Sequence[str]) -> list[str]:
    """Return the changes of a recipe for another base, other text, and other text to mix in.

    Of one's own text, documents of any length are kept, as by `auto`.

    Raises:
        UserError: a path is wrong.
    """
    return [
        *([f"base={json.dumps(base)}"] if base is not None else []),
        *([f"ingest.sources={json.dumps([one.model_dump() for one in sources_of(data)])}"] if data else []),
        *(_ANY_LENGTH if data else []),
        *([f"replay={ReplaySettings(sources=sources_of(replay)).model_dump_json()}"] if replay else []),
    ]


def sources_of(paths: Sequence[str]) -> list[AnySource]:
    """Return a source for each path or address, with a name of its own after the last part of the path.

    A file of plain text, or a folder of few, is split into documents at its line ends.

    Raises:
        UserError: one is empty, holds a credential, or is of an unsupported kind.
    """
    found: dict[str, str] = {}
    for path in paths:
        name = re.sub(r"[^a-z0-9]+", "-", PurePosixPath(path).stem.lower()).strip("-")[:50] or "text"
        number = 1
        while (unique := name if number == 1 else f"{name}-{number}") in found:
            number += 1
        found[unique] = path
    try:
        return [
            FilesSource(kind="files", name=name, path=path, separator=_separator(path)) for name, path in found.items()
        ]
    except ValidationError as error:
        raise UserError(f"A path of --data or --replay is wrong: {explain(error)}.") from error


def _separator(path: str) -> str | None:
    """Return the longest run of line ends that splits the files often enough; None where each is a document."""
    if local_path(path) is None:
        return None
    try:
        files = find_files(FilesSource(name="text", path=path)).files
    except (UserError, ValidationError):  # refused with a message of its own
        return None
    if not 0 < len(files) < _FILES or any(form(one.locator)[0] not in PLAIN for one in files):
        return None
    start = b""
    for one in files:
        with suppress(OSError), Path(one.address).open("rb") as stream:  # ingest refuses it with its own message
            start += stream.read(_SEARCHED - len(start))
    often = (one for one in _SEPARATORS if start.count(one.encode()) >= _DOCUMENTS)
    return next(often, _SEPARATORS[1])


@flow(
    name="adapt",
    flow_run_name=recipe_run_name,
    persist_result=False,
    on_failure=[forget_flow_exception],
    on_crashed=[after_crash],
    on_cancellation=[after_cancellation],
)
def adapt(
    *,
    changes: list[Change] = [],  # noqa: B006
    base: LocalPath | None = None,
    data: list[Address] = [],  # noqa: B006
    replay: list[Address] = [],  # noqa: B006
    time: Duration | None = None,
    until: StageName = "evaluate",
    from_stage: StageName | None = None,
    force: list[StageName] = [],  # noqa: B006
    recipe: Recipe,
) -> dict[str, Handle]:  # the arguments are in the order of the UI's form
    """Continue the pretraining of a base model up to the stage `until`; cached stages are reused.

    Args:
        changes: Settings to change for this run, each as SETTING=VALUE, such as training.max_steps=200; checked before
            the first stage.
        base: Base model instead of the recipe's: starter, pretrain@3, a key, a folder or a GGUF file.
        data: Paths or addresses of text instead of the recipe's sources.
        replay: Paths or addresses of other text to mix in, against forgetting.
        time: Duration of the training, such as 45m or 1h30m, instead of the recipe's steps.
        until: Last stage to run.
        from_stage: First stage to run again; all later ones follow, up to `until`.
        force: Cached stages to run again.
        recipe: All settings of the run.
    """
    begin()
    changes = [*adaptation_changes(base, data, replay), *changes]
    recipe = change_recipe(recipe, changes, get_run_logger().warning)
    if time is None:
        return run_chain(recipe, until, from_stage, force)
    with dial.paced() as shown:
        complete = dial.choose_steps(time, changes, shown, dial.note)
        return run_chain(recipe, until, from_stage, force, complete, known="pack")
