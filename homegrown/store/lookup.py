"""What can be exported, found by name or key; and an export copied out of the store."""

import shutil
import uuid
from pathlib import Path

from homegrown.store.artifacts import Artifact, Store
from homegrown.util.errors import UserError
from homegrown.util.files import sync

_LEAST_DIGITS = 8


def find_model(store: Store, name: str) -> Artifact:
    """Return the model that a person means: `stage`, `stage@version`, or a key, of which the first 8 digits do.

    Raises:
        UserError: there is none, several, it holds no weights, or it is damaged.
    """
    artifact = with_model(store, _by_key(store, name) if _is_key(name) else store.resolve(name))
    if not (artifact.path / "model" / "config.json").is_file():
        raise UserError(f"{artifact.name} holds no model; name a version of pretrain or finetune.")
    if problem := store.damage(artifact):
        raise UserError(f"{artifact.name} is damaged ({problem}); run its pipeline again, then export.")
    return artifact


def with_model(store: Store, artifact: Artifact) -> Artifact:
    """Return the artifact with the whole model of one that holds an adapter, and any other itself.

    Raises:
        UserError: the adapter has not been merged, or what it was merged to is gone.
    """
    if not (artifact.path / "adapter").is_dir():
        return artifact
    merged = [one for one in store.outputs(artifact) if one.manifest.stage == "merge"]
    if not merged:
        raise UserError(
            f"{artifact.name} is an adapter without its merged model; `homegrown finetune` with its recipe, or a "
            "retry of its run, merges it again."
        )
    return max(merged, key=lambda one: one.manifest.version)


def _is_key(name: str) -> bool:
    return len(name) >= _LEAST_DIGITS and set(name) <= set("0123456789abcdef")


def _by_key(store: Store, key: str) -> Artifact:
    found = [artifact for artifact in store.all() if artifact.manifest.key.startswith(key)]
    if not found:
        raise UserError(f"There is no artifact whose key begins with {key}; `homegrown artifacts` lists them all.")
    if len({artifact.manifest.key for artifact in found}) > 1:
        names = ", ".join(artifact.name for artifact in found)
        raise UserError(f"{key} is the start of several keys ({names}); write more of it.")
    return max(found, key=lambda artifact: artifact.manifest.version)


def check_free(folder: Path) -> None:
    """Raise UserError unless a new folder can be made there: what exists is never written over."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} is there already and not empty; name another folder after --out, or delete it.")


def copy_out(artifact: Artifact, folder: Path) -> None:
    """Copy an artifact's files, without the store's own, to a new folder: it is there whole or not at all.

    They are copies, not links: who edits them there must not damage what the store has.

    Raises:
        UserError: something is there already, or nothing can be written there.
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
        raise UserError(f"{folder} cannot be written ({error.strerror}); name another place after --out.") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
