"""Loading of models: the choice of the engine, and the GGUF file that llama.cpp needs."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from homegrown.export.gguf import KINDS, write_gguf
from homegrown.export.gguf_reader import read_gguf
from homegrown.export.gguf_vocabulary import Vocabulary
from homegrown.model import weights
from homegrown.model.adapters import Adapters
from homegrown.quantization import variants
from homegrown.serving import llama_engine
from homegrown.serving.llama_engine import LlamaEngine
from homegrown.serving.own_engine import AdaptedEngine, OwnEngine
from homegrown.serving.service import Engine
from homegrown.store import lookup
from homegrown.store.artifacts import Store
from homegrown.store.manifest import Artifact
from homegrown.tokenizer.chat import Chat, load_chat
from homegrown.util.errors import UserError

Choice = Literal["auto", "homegrown", "llama.cpp"]

_EXACT = "f32"
"""The kind of GGUF file with the same numbers as our weights."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """A model to serve: its name, its files, and the kind of GGUF file to serve it as, if any."""

    name: str
    artifact: Artifact
    folder: Path
    kind: str | None

    @property
    def created(self) -> int:
        """Time of its creation, in seconds since 1970."""
        return int(self.artifact.manifest.started.timestamp())


@dataclass(frozen=True, kw_only=True)
class Lora:
    """An adapter to serve on a model: its artifact, and the folder of the merged model, which has its chat format."""

    artifact: Artifact
    merged: Artifact

    @property
    def created(self) -> int:
        """Time of its creation, in seconds since 1970."""
        return int(self.artifact.manifest.started.timestamp())


@dataclass(frozen=True, kw_only=True)
class Limits:
    """The limits of one engine: rows, tokens per row (None: the model's context), and threads.

    `precision` is the type of our engine's unquantized weights; None: as stored.
    """

    rows: int
    context: int | None
    threads: int
    precision: str | None = None


def source(name: str, artifact: Artifact, folder: Path, variant: str | None) -> Source:
    """Return a model to serve; `folder`, a part of the artifact, has its weights or a quantized variant.

    A model that is not quantized can be served as any kind of GGUF file.

    Raises:
        UserError: the variant does not exist.
    """
    served = f"{name}:{variant}" if variant else name
    if (folder / variants.GGUF_WEIGHTS).is_file() or not variant or (folder / variants.DESCRIPTION).is_file():
        return Source(name=served, artifact=artifact, folder=folder, kind=variant if variant in KINDS else None)
    if variant not in KINDS:
        raise UserError(
            f"{name} has no variant {variant}; use a version of quantize, or a kind of GGUF file ({', '.join(KINDS)})."
        )
    return Source(name=served, artifact=artifact, folder=folder, kind=variant)


def lora(store: Store, artifact: Artifact, base: Source) -> Lora:
    """Return the adapter of an artifact, to be served on a model.

    Raises:
        UserError: it has no adapter, or one for another model, or is damaged; or the model is a variant.
    """
    if not (artifact.path / lookup.ADAPTER).is_dir():
        raise UserError(f"--lora {artifact.name} has no adapter; name a LoRA version of finetune, dpo or adapt.")
    if base.kind or base.folder != base.artifact.path / "model":
        raise UserError(f"--lora needs a model without a variant, but {base.name} has one; name the model alone.")
    key = artifact.manifest.inputs["base"]
    if key != base.artifact.manifest.key:
        trained_on = next((one.name for one in reversed(store.all()) if one.manifest.key == key), None)
        advice = "serve that model" if trained_on else "train it again"
        raise UserError(
            f"--lora {artifact.name} was trained on {trained_on or 'a model that is gone'}, not on {base.name}; "
            f"{advice}."
        )
    merged = lookup.with_model(store, artifact)
    for one in (artifact, merged):
        if problem := store.damage(one):
            raise UserError(f"{one.name} is damaged ({problem}); run its pipeline again.")
    return Lora(artifact=artifact, merged=merged)


def choose(
    source: Source, choice: Choice, device: str, precision: str | None = None
) -> Literal["homegrown", "llama.cpp"]:
    """Return the engine for a model; `auto` takes the faster one as measured (`docs/serving.md`).

    On a CPU that is llama.cpp for quantized GGUF files, if it is installed. Our engine is as fast with unquantized
    weights, and faster with several requests; it is also used on a GPU, and for a `precision`.

    Raises:
        UserError: llama.cpp is requested, but is not installed, cannot run the model, or does not support `precision`.
    """
    if choice == "llama.cpp":
        if precision:
            raise UserError("--precision needs the engine homegrown; with llama.cpp, use a GGUF kind: pretrain:bf16.")
        _check_llama(source)
        return choice
    if precision:
        return "homegrown"
    quantized = source.kind not in (None, _EXACT)
    return (
        "llama.cpp" if choice == "auto" and quantized and device == "cpu" and llama_engine.installed() else "homegrown"
    )


def _check_llama(source: Source) -> None:
    if not llama_engine.installed():
        raise UserError("llama.cpp is not installed; run pip install 'homegrown[llama-cpp]' or use --engine homegrown.")
    if (source.folder / variants.GGUF_WEIGHTS).is_file():
        return
    if (source.folder / variants.DESCRIPTION).is_file():
        raise UserError(f"llama.cpp cannot run {source.name}; use --engine homegrown.")
    if weights.load_config(source.folder / "config.json").family == "classic":
        raise UserError(f"llama.cpp cannot run {source.name}, a classic model; use --engine homegrown.")
    Vocabulary(source.folder)


def load(
    store: Store,
    source: Source,
    engine: Literal["homegrown", "llama.cpp"],
    device: str,
    limits: Limits,
    fail: Callable[[str], None],
    loras: Sequence[Lora] = (),
) -> list[tuple[str, Engine, Chat]]:
    """Load a model and return its name, engine and chat format, and those of the adapters on it.

    `fail` is called if the engine fails later.

    Raises:
        UserError: a file is damaged, a library is missing, or `limits.context` exceeds the model's context.
    """
    chat = load_chat(source.folder)
    if engine == "homegrown":
        if source.kind and not (source.folder / variants.DESCRIPTION).is_file():
            model = read_gguf(gguf_file(store, source)).to(device)
        else:
            model = variants.load_variant(source.folder, variants.device_of(source.folder, device))
        if limits.precision:
            model = weights.in_precision(model, limits.precision)
        adapters = Adapters(model, {one.artifact.name: one.artifact.path / lookup.ADAPTER for one in loras})
        own = OwnEngine(model, chat, rows=limits.rows, context=limits.context, fail=fail, adapters=adapters)
        adapted = ((one.artifact.name, load_chat(one.merged.path / "model")) for one in loras)
        return [(source.name, own, chat), *((name, AdaptedEngine(own, name, chat), chat) for name, chat in adapted)]
    file = gguf_file(store, source)
    longest = _context(source, file)
    if limits.context is not None and limits.context > longest:
        raise UserError(f"--ctx-size is {limits.context}, but the model's context is {longest}; reduce it.")
    llama = LlamaEngine(
        file,
        chat,
        exact=(source.kind or _EXACT) == _EXACT,
        rows=limits.rows,
        context=limits.context or longest,
        threads=limits.threads,
        fail=fail,
    )
    return [(source.name, llama, chat)]


def gguf_file(store: Store, source: Source) -> Path:
    """Return the GGUF file of a model: of its variant, of an export, or a cached one."""
    if (own := source.folder / variants.GGUF_WEIGHTS).is_file():
        return own
    kind = source.kind or _EXACT
    key, name = source.artifact.manifest.key, f"model-{kind}.gguf"
    for export in reversed(store.all()):
        manifest = export.manifest
        if manifest.stage == "export" and key in manifest.inputs.values() and name in manifest.files:
            if not store.damage(export):
                return export.path / name
    cached = store.root / ".state" / "gguf" / f"{key}-{kind}.gguf"
    if not cached.is_file():
        cached.parent.mkdir(parents=True, exist_ok=True)
        write_gguf(source.folder, cached, kind)
    return cached


def _context(source: Source, file: Path) -> int:
    config = source.folder / "config.json"
    return weights.load_config(config).context if config.is_file() else read_gguf(file).config.context
