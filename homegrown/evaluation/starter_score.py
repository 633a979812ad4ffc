"""How well the starter predicts a text that it was not trained on here, to compare with a training from scratch."""

import json
import tempfile
from collections.abc import Callable
from pathlib import Path

from homegrown.config.starter import STARTER, starter_file
from homegrown.store.artifacts import Store
from homegrown.util.elsewhere import opened, parts_of
from homegrown.util.errors import UserError
from homegrown.util.files import replacing

_SCORES = "starter.json"
"""In the store's folder of states: the bits per byte by the folder of the stage `shard`."""
_DOCUMENTS, _BYTES = 8, 8000
"""Test documents that are read, and bytes of them in all: some seconds."""
_CONTEXT = 512


def known_score(store: Store, shards: Path) -> float | None:
    """Return the starter's bits per byte on the test text in the folder `shards`, None if it was not measured."""
    return _scores(store).get(shards.name)


def starter_score(store: Store, shards: Path, note: Callable[[str], None] = lambda _: None) -> float | None:
    """Return the starter's bits per byte on the beginnings of test documents in the folder `shards`.

    They are measured once, which `note` reports. None without the package of the starter, or without test text.
    """
    known = known_score(store, shards)
    if known is not None:
        return known
    texts = _beginnings(shards / "test")
    try:
        starter_file()
    except UserError:
        return None
    if not texts:
        return None
    note("The published model `starter` is tried on the test text once, for comparison.")
    score = measure(texts)
    path = store.root / ".state" / _SCORES
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        temporary.write_text(json.dumps({**_scores(store), shards.name: score}, indent=2) + "\n")
    return score


def measure(texts: list[str]) -> float:
    """Return the starter's bits per byte on the texts."""
    import numpy as np

    from homegrown.evaluation.perplexity import ShortTexts
    from homegrown.export.bases import read_base
    from homegrown.model import weights
    from homegrown.tokenizer.encoding import Encoder
    from homegrown.tokenizer.loading import load
    from homegrown.tokenizer.special import special_ids
    from homegrown.util.devices import computes_in_bf16

    with tempfile.TemporaryDirectory(prefix="homegrown-starter-") as name:
        folder = Path(name)
        read_base(STARTER, folder)
        tokenizer = load(folder)
        encoder, start = Encoder(tokenizer), special_ids(tokenizer).start
        parts = [np.concatenate([[start], encoder.encode(text)]).astype(np.int64) for text in texts]
        model = weights.in_precision(weights.load(folder), "bf16" if computes_in_bf16("cpu") else "float32")
        return ShortTexts.of(tokenizer, parts, _CONTEXT, _CONTEXT).costs(model).bits_per_byte


def _scores(store: Store) -> dict[str, float]:
    try:
        found = json.loads((store.root / ".state" / _SCORES).read_bytes())
        return {str(name): float(score) for name, score in found.items()}
    except (OSError, ValueError, AttributeError, TypeError):
        return {}


def _beginnings(folder: Path) -> list[str]:
    """Return the beginnings of the first documents of a split."""
    import pyarrow.parquet as pq

    found: list[str] = []
    for path in parts_of(folder):
        for batch in pq.ParquetFile(opened(path)).iter_batches(_DOCUMENTS, columns=["text"]):
            found += batch.column(0).to_pylist()
            if len(found) >= _DOCUMENTS:
                break
    found = found[:_DOCUMENTS]
    return [text.encode()[: _BYTES // len(found)].decode(errors="ignore") for text in found]
