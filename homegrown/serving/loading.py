"""Models from files to engines: which engine writes for which model, and the GGUF file that llama.cpp needs."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tokenizers import Tokenizer

from homegrown.export.gguf import KINDS, write_gguf
from homegrown.export.gguf_reader import read_gguf
from homegrown.export.gguf_vocabulary import Vocabulary
from homegrown.model import weights
from homegrown.quantization import variants
from homegrown.serving import llama_engine
from homegrown.serving.llama_engine import LlamaEngine
from homegrown.serving.own_engine import OwnEngine
from homegrown.serving.service import Engine
from homegrown.store.artifacts import Artifact, Store
from homegrown.tokenizer import loading as tokens
from homegrown.util.errors import UserError

Choice = Literal["auto", "homegrown", "llama.cpp"]

_EXACT = "f32"
"""The kind of GGUF file that computes as our weights do."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """A model to be served: its name, its files, and the kind of GGUF file that it is wanted as, if it is."""

    name: str
    artifact: Artifact
    folder: Path
    kind: str | None

    @property
    def created(self) -> int:
        """When it was made, in seconds since 1970."""
        return int(self.artifact.manifest.started.timestamp())


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What one engine may take: rows, the tokens of one (None: the model's context), threads, and weights of a type.

    `precision` is that of our engine's unquantized weights; None leaves them as they are stored.
    """

    rows: int
    context: int | None
    threads: int
    precision: str | None = None


def source(name: str, artifact: Artifact, folder: Path, variant: str | None) -> Source:
    """Return the model of this name as a source: `folder`, a part of the artifact, holds weights or a variant of them.

    A variant that is a kind of GGUF file can be had of any model in its weights' own type, too.

    Raises:
        UserError: there is no such kind.
    """
    served = f"{name}:{variant}" if variant else name
    if (folder / variants.GGUF_WEIGHTS).is_file() or not variant or (folder / variants.DESCRIPTION).is_file():
        return Source(name=served, artifact=artifact, folder=folder, kind=variant if variant in KINDS else None)
    if variant not in KINDS:
        raise UserError(
            f"{name} can be served as it is, or as a GGUF file of kind {', '.join(KINDS)}, and not as "
            f"{variant}; variants are in the versions of quantize."
        )
    return Source(name=served, artifact=artifact, folder=folder, kind=variant)


def choose(
    source: Source, choice: Choice, device: str, precision: str | None = None
) -> Literal["homegrown", "llama.cpp"]:
    """Return the engine that is to write; `auto` takes the faster one as measured (`docs/serving.md`).

    On a CPU that is llama.cpp for what is quantized as a GGUF file, where it is installed. Weights in their own type
    are written as fast by ours, and several texts at once faster; so is everything on a GPU, or in a `precision`.

    Raises:
        UserError: llama.cpp is wanted, and is not installed, cannot run the model, or is asked for a precision.
    """
    if choice == "llama.cpp":
        if precision:
            raise UserError(
                "--precision is our engine's; with llama.cpp name a kind of GGUF file, such as pretrain:bf16."
            )
        _check_llama(source)
        return choice
    if precision:
        return "homegrown"
    small = source.kind not in (None, _EXACT)
    return "llama.cpp" if choice == "auto" and small and device == "cpu" and llama_engine.installed() else "homegrown"


def _check_llama(source: Source) -> None:
    if not llama_engine.installed():
        raise UserError("llama.cpp is not installed; pip install 'homegrown[llama-cpp]', or choose --engine homegrown.")
    if (source.folder / variants.GGUF_WEIGHTS).is_file():
        return
    if (source.folder / variants.DESCRIPTION).is_file():
        raise UserError(f"llama.cpp cannot run {source.name}; choose --engine homegrown.")
    if weights.load_config(source.folder / "config.json").family == "classic":
        raise UserError(f"{source.name} is a classic model, which llama.cpp cannot run; choose --engine homegrown.")
    Vocabulary(source.folder)


def load(
    store: Store,
    source: Source,
    engine: Literal["homegrown", "llama.cpp"],
    device: str,
    limits: Limits,
    fail: Callable[[str], None],
) -> tuple[Engine, Tokenizer]:
    """Return a model's engine, ready to write, and its tokenizer; `fail` is told if it breaks later.

    Raises:
        UserError: a file is damaged, a library is missing, or the context is too long.
    """
    tokenizer = tokens.load(source.folder)
    if engine == "homegrown":
        if source.kind and not (source.folder / variants.DESCRIPTION).is_file():
            model = read_gguf(gguf_file(store, source)).to(device)
        else:
            model = variants.load_variant(source.folder, variants.device_of(source.folder, device))
        if limits.precision:
            model = weights.in_precision(model, limits.precision)
        return OwnEngine(model, tokenizer, rows=limits.rows, context=limits.context, fail=fail), tokenizer
    file = gguf_file(store, source)
    longest = _context(source, file)
    if limits.context is not None and limits.context > longest:
        raise UserError(f"--ctx-size is {limits.context}, and the model's context is {longest}; give that or less.")
    written = LlamaEngine(
        file,
        exact=(source.kind or _EXACT) == _EXACT,
        rows=limits.rows,
        context=limits.context or longest,
        threads=limits.threads,
        fail=fail,
    )
    return written, tokenizer


def gguf_file(store: Store, source: Source) -> Path:
    """Return the model as a GGUF file: a variant's own, one that was exported, or one written now and kept."""
    if (own := source.folder / variants.GGUF_WEIGHTS).is_file():
        return own
    kind = source.kind or _EXACT
    key, name = source.artifact.manifest.key, f"model-{kind}.gguf"
    for export in reversed(store.all()):
        manifest = export.manifest
        if manifest.stage == "export" and key in manifest.inputs.values() and name in manifest.files:
            if not store.damage(export):
                return export.path / name
    kept = store.root / ".state" / "gguf" / f"{key}-{kind}.gguf"
    if not kept.is_file():
        kept.parent.mkdir(parents=True, exist_ok=True)
        write_gguf(source.folder, kept, kind)
    return kept


def _context(source: Source, file: Path) -> int:
    config = source.folder / "config.json"
    return weights.load_config(config).context if config.is_file() else read_gguf(file).config.context
