"""Language identification, offline, with py3langid's naive Bayes model (Lui and Baldwin 2012)."""

from functools import cache
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from homegrown.util.errors import UserError

_CHARACTERS = 1_000  # from the start of a text; more change little


class Languages(NamedTuple):
    """By text, (n,) each: most likely language, its probability, that of the most likely wanted one."""

    codes: list[str]
    probabilities: NDArray[np.float64]
    asked: NDArray[np.float64]


def known_languages() -> list[str]:
    """Return the ISO 639-1 (else 639-3) codes of the languages that the model knows."""
    return sorted(_identifier().labels)


def check_languages(codes: list[str]) -> None:
    """Raise UserError for a code unknown to the model."""
    unknown = sorted(set(codes) - set(known_languages())) if codes else []
    if unknown:
        known = ", ".join(known_languages())
        raise UserError(f"filter.languages: unknown code {', '.join(unknown)}; choose from {known}.")


def identify(texts: pa.StringArray, asked: list[str]) -> Languages:
    """Identify the language of each text; without wanted languages, their probability is 0."""
    ranked = [_identifier().rank(text) for text in pc.utf8_slice_codeunits(texts, 0, _CHARACTERS).to_pylist()]
    return Languages(
        [languages[0][0] for languages in ranked],
        np.array([languages[0][1] for languages in ranked], float),
        np.array([max((p for code, p in languages if code in asked), default=0) for languages in ranked], float),
    )


@cache
def _identifier() -> Any:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
