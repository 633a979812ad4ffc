"""Import of base models: a Hugging Face folder, a GGUF file, or the starter."""

from functools import lru_cache
from pathlib import Path

from homegrown.config.starter import STARTER, is_external, starter_file
from homegrown.export import gguf_reader, huggingface_reader
from homegrown.model.config import ModelConfig
from homegrown.model.weights import load_config
from homegrown.store.artifacts import Store
from homegrown.store.digests import Digests
from homegrown.store.fingerprint import code_fingerprint
from homegrown.store.lookup import find_model
from homegrown.store.manifest import Artifact, Order
from homegrown.tokenizer.chat import load_chat
from homegrown.util.errors import UserError
from homegrown.util.progress import Outcome


def base_config(base: str, store: Store) -> ModelConfig:
    """Return the configuration of a base: an artifact of `store`, a folder, a GGUF file or the starter.

    Raises:
        UserError: it is missing, damaged or not supported.
    """
    if is_external(base):
        return config_of(base)
    return load_config(find_model(store, base).path / "model" / "config.json")


def config_of(base: str) -> ModelConfig:
    """Return the configuration of a base from elsewhere.

    Raises:
        UserError: it is missing, damaged or not supported.
    """
    file = _gguf_file(base)
    if file is None:
        return huggingface_reader.shape_of(Path(base))
    facts = file.stat() if file.is_file() else None
    return _gguf_config(file, facts and (facts.st_mtime_ns, facts.st_size))


@lru_cache(maxsize=8)
def _gguf_config(file: Path, state: tuple[int, int] | None) -> ModelConfig:
    """Return the configuration of a GGUF file in this `state`; reading its vocabulary takes seconds."""
    return gguf_reader.gguf_config(file)


def has_chat_format(base: str, store: Store) -> bool:
    """Return whether a base has a chat template, or the message tokens of ours. Raises UserError as `base_config`."""
    if not is_external(base):
        return load_chat(find_model(store, base).path / "model").supported
    config_of(base)
    file = _gguf_file(base)
    return huggingface_reader.has_chat_format(Path(base)) if file is None else gguf_reader.has_chat_format(file)


def read_base(base: str, out: Path) -> Outcome:
    """Write a base as one of our models to `out`. Raises UserError as `config_of`."""
    file = _gguf_file(base)
    if file is None:
        return huggingface_reader.read_huggingface(Path(base), out)
    return gguf_reader.read_gguf_model(file, out)


def digests_of(base: str, store: Store) -> dict[str, str]:
    """Return the SHA-256 of each file of a base, by its name. Raises UserError as `config_of`."""
    file = _gguf_file(base)
    files = huggingface_reader.files_of(Path(base)) if file is None else [file]
    with Digests(store.root / ".state" / "raw.sqlite") as digests:
        return {file.name: digests.file(file) for file in files}


def import_base(base: str, store: Store) -> Artifact:
    """Return the artifact of a base, which the stage `base` would make too; a missing one is made now.

    Raises:
        UserError: as `config_of`.
    """
    code = code_fingerprint([__name__], store.root / ".state" / "code.sqlite")
    order = Order("base", code, {"settings": {"base": base}, "raw": digests_of(base, store)}, {})
    artifact, _ = store.make(order, store.slot(order.stage, order.key), lambda out: read_base(base, out / "model"))
    return artifact


def _gguf_file(base: str) -> Path | None:
    """Return the GGUF file of a base, None for a folder. Raises UserError if it is missing."""
    if base == STARTER:
        return starter_file()
    if not base.endswith(".gguf"):
        return None
    if not Path(base).is_file():
        raise UserError(f"{base} is missing; name a GGUF file.")
    return Path(base)
