"""The default system message of a model: the file `chat.json` beside its tokenizer."""

from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from homegrown.util.errors import UserError
from homegrown.util.files import replacing

CHAT_FILE = "chat.json"


class _Chat(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    system: str


def save_system(folder: Path, system: str | None) -> None:
    """Write the default system message of the model in `folder` atomically; None removes it."""
    if system is None:
        (folder / CHAT_FILE).unlink(missing_ok=True)
        return
    with replacing(folder / CHAT_FILE) as temporary:
        temporary.write_text(_Chat(system=system).model_dump_json(indent=2) + "\n", encoding="utf-8")


def load_system(folder: Path) -> str | None:
    """Return the default system message of the model in `folder`, or None.

    Raises:
        UserError: the file is damaged.
    """
    path = folder / CHAT_FILE
    try:
        return _Chat.model_validate_json(path.read_bytes()).system
    except FileNotFoundError:
        return None
    except (OSError, ValidationError) as error:
        raise UserError(f"{path} is damaged; fine-tune the model again or restore the file.") from error
