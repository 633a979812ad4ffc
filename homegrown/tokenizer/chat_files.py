"""The files beside a model's tokenizer that define its chat format.

Those of a base have the names and keys of Hugging Face; `chat.json` has what is set here.
"""

import json
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from homegrown.util.errors import UserError
from homegrown.util.files import replacing

CHAT_FILE, TEMPLATE_FILE = "chat.json", "chat_template.jinja"
CONFIG_FILE, GENERATION_FILE = "tokenizer_config.json", "generation_config.json"
FILES = (CHAT_FILE, TEMPLATE_FILE, CONFIG_FILE, GENERATION_FILE)

_NAMED = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


class ChatFiles(BaseModel):
    """The chat format of a model; all of it may be missing, as in models that were trained here.

    In `chat.json`: `system`, the default system message, and `added`, the tokens added to the vocabulary of a base. In
    the files of a base: `tokens`, special tokens by the names that templates use; `stop`, the ids that end an answer;
    `template`, the Jinja template.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    system: str | None = None
    added: list[str] = []
    tokens: dict[str, str] = Field(default={}, exclude=True)
    stop: list[int] = Field(default=[], exclude=True)
    template: str | None = Field(default=None, exclude=True)


def load_files(folder: Path) -> ChatFiles:
    """Return the chat format in `folder`.

    Raises:
        UserError: a file is damaged.
    """
    path = folder / CHAT_FILE
    try:
        own = ChatFiles.model_validate_json(path.read_bytes()) if path.exists() else ChatFiles()
        path = folder / TEMPLATE_FILE
        template = path.read_bytes().decode() if path.exists() else None
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is damaged; fine-tune the model again or restore the file.") from error
    settings, ends = _json(folder / CONFIG_FILE), _json(folder / GENERATION_FILE).get("eos_token_id") or []
    named = {name: settings[name] for name in _NAMED if isinstance(settings.get(name), str)}
    stop = ends if isinstance(ends, list) else [ends]
    return own.model_copy(update={"template": template, "tokens": named, "stop": stop})


def save_chat(folder: Path, files: ChatFiles) -> None:
    """Write `chat.json` to `folder` atomically, or remove it if it has no values."""
    values = files.model_dump(exclude_defaults=True)
    if not values:
        (folder / CHAT_FILE).unlink(missing_ok=True)
        return
    with replacing(folder / CHAT_FILE) as temporary:
        temporary.write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def load_system(folder: Path) -> str | None:
    """Return the default system message of the model in `folder`, or None. Raises UserError for a damaged file."""
    return load_files(folder).system


def save_system(folder: Path, system: str | None) -> None:
    """Set the default system message of the model in `folder`; None removes it."""
    save_chat(folder, load_files(folder).model_copy(update={"system": system}))


def _json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        values = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is damaged ({error}); restore it.") from error
    return values if isinstance(values, dict) else {}
