"""Models found by name or key, and artifacts copied out of the store."""

import shutil
import uuid
from pathlib import Path

from homegrown.store.artifacts import Store
from homegrown.store.manifest import Artifact
from homegrown.util.errors import UserError
from homegrown.util.files import sync

ADAPTER = "adapter"
"""The folder of an artifact with an adapter alone, or with one beside its merged model."""

_LEAST_DIGITS = 8


def find_model(store: Store, name: str) -> Artifact:
    """Return the model of a name: `stage`, `stage@version`, or the first 8 or more digits of a key.

    Raises:
        UserError: no or several artifacts match, or the artifact has no model or is damaged.
    """
    artifact = with_model(store, _by_key(store, name) if _is_key(name) else store.resolve(name))
    if not (artifact.path / "model" / "config.json").is_file():
        raise UserError(f"{artifact.name} has no model; name a version of pretrain, finetune or dpo.")
    if problem := store.damage(artifact):
        raise UserError(f"{artifact.name} is damaged ({problem}); run its pipeline again.")
    return artifact


def with_model(store: Store, artifact: Artifact) -> Artifact:
    """Return the merged model of an artifact with an adapter alone, or any other artifact itself.

    Raises:
        UserError: the merged model does not exist.
    """
    if (artifact.path / "model").is_dir() or not (artifact.path / ADAPTER).is_dir():
        return artifact
    merged = [one for one in store.outputs(artifact) if one.manifest.stage == "merge"]
    if not merged:
        raise UserError(
            f"{artifact.name} is an adapter without its merged model; merge it by running "
            f"`homegrown {artifact.manifest.stage}` with its recipe again."
        )
    return max(merged, key=lambda one: one.manifest.version)


def _is_key(name: str) -> bool:
    return len(name) >= _LEAST_DIGITS and set(name) <= set("0123456789abcdef")


def _by_key(store: Store, key: str) -> Artifact:
    found = [artifact for artifact in store.all() if artifact.manifest.key.startswith(key)]
    if not found:
        raise UserError(f"There is no artifact whose key starts with {key}; list all with `homegrown artifacts`.")
    if len({artifact.manifest.key for artifact in found}) > 1:
        names = ", ".join(artifact.name for artifact in found)
        raise UserError(f"{key} is the start of several keys ({names}); give more digits.")
    return max(found, key=lambda artifact: artifact.manifest.version)


def check_free(folder: Path) -> None:
    """Raise UserError if the path is not free for a new folder; nothing is overwritten."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} exists and is not empty; delete it or choose another path for --out.")


def copy_out(artifact: Artifact, folder: Path) -> None:
    """Copy an artifact's files, without the store's own, to a new folder, completely or not at all.

    The files are copies, not links, so that editing them does not damage the store.

    Raises:
        UserError: the folder exists or cannot be written.
    """
    check_free(folder)
    temporary = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}.tmp")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        for name in artifact.manifest.files:
            target = temporary / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(artifact.path / name, target)
            sync(target)
        temporary.rename(folder)
        sync(folder.parent)
    except OSError as error:
        raise UserError(f"{folder} cannot be written ({error.strerror}); choose another path for --out.") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
