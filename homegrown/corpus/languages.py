"""Which language a text is in, offline, with py3langid's naive Bayes model (Lui and Baldwin 2012)."""

from functools import cache
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from homegrown.errors import UserError

_CHARACTERS = 1_000  # from the start of a text; more changes little


def check_languages(codes: list[str]) -> None:
    """Raise UserError for a code that the model does not know."""
    unknown = sorted(set(codes) - set(_identifier().labels)) if codes else []
    if unknown:
        known = ", ".join(sorted(_identifier().labels))
        raise UserError(f"filter.languages: unknown code {', '.join(unknown)}; known are {known}.")


def language_probabilities(texts: pa.StringArray, codes: list[str]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the probability of the likeliest language among `codes`, and of the likeliest of all: (n,) each."""
    asked, best = np.empty(len(texts)), np.empty(len(texts))
    for i, text in enumerate(pc.utf8_slice_codeunits(texts, 0, _CHARACTERS).to_pylist()):
        ranked = _identifier().rank(text)
        best[i] = ranked[0][1]
        asked[i] = max(probability for code, probability in ranked if code in codes)
    return asked, best


@cache
def _identifier() -> Any:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
