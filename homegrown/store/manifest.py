"""What identifies an artifact before it exists (`Order`), and its facts afterwards (`Manifest`)."""

import hashlib
import importlib.metadata
import json
import platform
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, field_validator

from homegrown.util.parallel import cpu_count
from homegrown.util.progress import Metric

MANIFEST = "manifest.json"
StageName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]*$")]
"""The name of a stage in a manifest, which may be untrusted: it becomes part of paths and of SQL."""

_LIBRARIES = (
    *("bitsandbytes", "chardetng-py", "datasets", "duckdb", "ftfy", "nltk", "numba", "numpy", "prefect", "py3langid"),
    *("pyarrow", "pycld2", "regex", "rouge-score", "safetensors", "tiktoken", "tokenizers", "torch", "xxhash"),
)


@dataclass(frozen=True)
class Order:
    """What identifies an artifact before it exists: everything that determines its content."""

    stage: str
    code: str
    """Fingerprint of the engine code that the stage reaches."""
    settings: Mapping[str, Any]
    """The stage's settings as plain JSON values, with its seed and the digests of raw input."""
    inputs: Mapping[str, str]
    """Keys of the input artifacts by their role, which is mostly the name of their stage."""
    unkeyed: Mapping[str, frozenset[str]] = field(default_factory=dict)
    """Names, by the group in `settings`, of those that do not change the content: the key leaves them out."""

    @property
    def key(self) -> str:
        """SHA-256 of the order, as 64 hex digits."""
        text = json.dumps([self.stage, self.code, self.keyed(), dict(self.inputs)], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def keyed(self) -> dict[str, Any]:
        """Return the settings that enter the key."""
        return {
            group: {name: value for name, value in values.items() if name not in self.unkeyed[group]}
            if group in self.unkeyed
            else values
            for group, values in self.settings.items()
        }


class FileFacts(BaseModel):
    """Size in bytes and SHA-256 of one file of an artifact."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    bytes: int
    sha256: str


class Manifest(BaseModel):
    """The facts of an artifact; stored as `manifest.json` in its folder."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    stage: StageName
    version: int
    key: str
    settings: dict[str, Any]
    inputs: dict[StageName, str]
    code: str
    libraries: dict[str, str]
    host: dict[str, str | int]
    started: datetime
    seconds: float
    rows_in: int
    rows_out: int
    unit: str
    metrics: dict[str, Metric]
    files: dict[str, FileFacts]

    @field_validator("files")
    @classmethod
    def _inside(cls, files: dict[str, FileFacts]) -> dict[str, FileFacts]:
        """Refuse an untrusted manifest with a file outside the artifact's folder."""
        for name in files:
            if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
                raise ValueError(f"{name!r} is outside the artifact")
        return files

    @property
    def bytes(self) -> int:
        """Size of all files."""
        return sum(facts.bytes for facts in self.files.values())

    def as_json(self) -> str:
        """Return the content of `manifest.json`."""
        return self.model_dump_json(indent=2) + "\n"


@dataclass(frozen=True)
class Artifact:
    """A published artifact: its folder and its manifest."""

    path: Path
    manifest: Manifest

    @property
    def name(self) -> str:
        """The name `stage@version`."""
        return f"{self.manifest.stage}@{self.manifest.version}"


def problem_of(
    artifact: Artifact, digest: Callable[[Path], str], is_there: Callable[[Artifact], bool] = lambda artifact: False
) -> str | None:
    """Return the first problem of an artifact's files, with their digests by `digest`; None for a complete artifact.

    Files that are missing here may be at the remote, if it `is_there`.
    """
    missing = ""
    for name, facts in artifact.manifest.files.items():
        file = artifact.path / name
        if not file.is_file():
            missing = missing or f"{name} is missing"
            continue
        if file.is_symlink():
            return f"{name} is a link"
        if file.stat().st_size != facts.bytes:
            return f"{name} has {file.stat().st_size} bytes instead of {facts.bytes}"
        if digest(file) != facts.sha256:
            return f"{name} has changed since it was published (its SHA-256 differs)"
    return missing if missing and not is_there(artifact) else None


def libraries() -> dict[str, str]:
    """Return the versions of Python and of the installed libraries that affect artifacts."""
    versions = {"python": platform.python_version()}
    for name in _LIBRARIES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def host() -> dict[str, str | int]:
    """Return the system, the processor's kind and the number of processors."""
    return {"system": platform.platform(), "machine": platform.machine(), "processors": cpu_count()}
