"""Near-duplicates end to end on synthetic documents with known duplicates, compared with datatrove's MinHash.

Of the documents seven tenths are random words, three tenths copies of others with some words replaced, so that the true
Jaccard similarity of each pair of original and copy is known. Found is a pair that ends in one cluster. Right is a drop
that really has a Jaccard similarity of 0.7 or more with another document of its cluster, checked on the texts
themselves, in plain Python, for a sample of drops.
"""

import csv
import gzip
import json
import shutil
import tempfile
from collections import defaultdict
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from benchmarks.measuring import CORPORA, Measured, measured, table
from benchmarks.peers import call
from homegrown.config.corpus import DedupSettings
from homegrown.corpus.documents import SCHEMA
from homegrown.corpus.lsh import probability
from homegrown.corpus.minhash import SHINGLE_WORDS as WORDS

THRESHOLD = 0.7
SETTINGS = DedupSettings(threshold=THRESHOLD)
_SHARD = 20_000  # documents
_LETTERS = 6  # of each word
_EDITS = (0, 0.005, 0.01, 0.02, 0.03, 0.05, 0.1)  # shares of words replaced
_SAMPLE = 5000


class Truth(NamedTuple):
    """Pairs of documents by number: (n, 2) original and copy, and their true Jaccard similarity."""

    pairs: NDArray[np.int64]
    jaccard: NDArray[np.float64]


class Outcome(NamedTuple):
    """Documents by number: the dropped ones, and the cluster of each clustered one."""

    dropped: list[int]
    clusters: dict[int, int]


class Quality(NamedTuple):
    """Recall of pairs at or above the threshold, and precision of dropped documents."""

    recall: float
    precision: float


def synthesize(folder: Path, count: int, seed: int = 1) -> Truth:
    """Write `count` documents of 60 to 160 words like ingest, in random order."""
    random = np.random.default_rng(seed)
    vocabulary = random.integers(97, 123, (50_000, _LETTERS + 1), np.uint8)
    vocabulary[:, _LETTERS] = 32
    originals = count * 7 // 10
    lengths = random.integers(60, 161, originals)
    starts = np.concatenate([[0], np.cumsum(lengths)])
    words = random.integers(0, len(vocabulary), starts[-1], np.uint16)
    origin = np.concatenate([np.arange(originals), random.integers(0, originals, count - originals)])
    edits = np.concatenate([np.zeros(originals), random.choice(_EDITS, count - originals)])
    jaccard = np.ones(count)
    order = random.permutation(count)
    for number, first in enumerate(range(0, count, _SHARD)):
        texts, ids = [], []
        for document in order[first : first + _SHARD].tolist():
            own = words[starts[origin[document]] : starts[origin[document] + 1]].copy()
            replaced = random.random(len(own)) < edits[document]
            own[replaced] = random.integers(0, len(vocabulary), int(replaced.sum()), np.uint16)
            total = len(own) - WORDS + 1
            same = total - int(np.convolve(replaced, np.ones(WORDS))[WORDS - 1 : len(own)].astype(bool).sum())
            jaccard[document] = same / (2 * total - same)
            texts.append(vocabulary[own].tobytes()[:-1])
            ids.append(f"{document:032x}")
        n = len(texts)
        columns = [
            ids,
            pa.array(texts, pa.binary()).cast(pa.string()),
            ["synthetic"] * n,
            ["x"] * n,
            range(n),
            [None] * n,
        ]
        arrays = [pa.array(column, field.type) for column, field in zip(columns, SCHEMA, strict=True)]
        path = folder / "documents" / f"part-{number:05d}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table(arrays, schema=SCHEMA), path, compression="zstd")
    copies = np.arange(originals, count)
    return Truth(np.stack([origin[copies], copies], axis=1), jaccard[copies])


def homegrown(folder: Path, out: Path) -> Outcome:
    """Deduplicate with one worker."""
    from homegrown.corpus.dedup import dedup

    with ThreadPoolExecutor(1) as executor:
        dedup(out, folder, SETTINGS, seed=1, memory_gb=1, executor=executor)
    dropped = pq.read_table(out / "dropped", columns=["id", "cluster"]).to_pydict()
    clusters = {int(one, 16): int(kept, 16) for one, kept in zip(*dropped.values(), strict=True)}
    return Outcome(sorted(clusters), clusters | {kept: kept for kept in clusters.values()})


def datatrove(folder: Path, out: Path, spacy: bool = True) -> Measured:
    """Run datatrove's four stages with the same shingles, bands and rows."""
    found = call(
        "datatrove_duplicates",
        folder=str(folder),
        out=str(out),
        words=WORDS,
        bands=SETTINGS.bands,
        rows=SETTINGS.rows,
        spacy=spacy,
    )
    outcome = Outcome(found["dropped"], dict(found["clusters"]))
    return Measured(outcome, found["cpu_seconds"], found["wall_seconds"], found["peak_gb"])


def quality(folder: Path, truth: Truth, outcome: Outcome) -> Quality:
    """Return recall over the pairs at or above the threshold, and precision over a sample of the drops."""
    clusters = outcome.clusters
    alike = truth.pairs[truth.jaccard >= THRESHOLD].tolist()
    found = sum(one in clusters and clusters[one] == clusters.get(other) for one, other in alike)
    members: dict[int, list[int]] = defaultdict(list)
    for document, cluster in clusters.items():
        members[cluster].append(document)
    sample = np.random.default_rng(1).permutation(outcome.dropped)[:_SAMPLE].tolist()
    texts = _shingles(folder, {member for one in sample for member in members[clusters[one]]})
    right = sum(
        any(_jaccard(texts[one], texts[other]) >= THRESHOLD for other in members[clusters[one]] if other != one)
        for one in sample
    )
    return Quality(found / len(alike), right / len(sample))


def _shingles(folder: Path, wanted: set[int]) -> dict[int, set[tuple[str, ...]]]:
    found = {}
    for path in sorted((folder / "documents").iterdir()):
        part = pq.read_table(path, columns=["id", "text"]).to_pydict()
        for key, text in zip(part["id"], part["text"], strict=True):
            if int(key, 16) in wanted:
                words = text.split()
                found[int(key, 16)] = {tuple(words[i : i + WORDS]) for i in range(len(words) - WORDS + 1)}
    return found


def _jaccard(one: set[tuple[str, ...]], other: set[tuple[str, ...]]) -> float:
    return len(one & other) / len(one | other)


def measure(quick: bool = False) -> dict[str, float]:
    """Print time, memory, recall and precision by number of documents, and those of datatrove; return the figures."""
    sizes = (2_000, 10_000) if quick else (10_000, 100_000, 1_000_000)
    with tempfile.TemporaryDirectory() as temporary:  # compiles the kernels
        synthesize(Path(temporary, "in"), 100)
        measured(homegrown, Path(temporary, "in"), Path(temporary, "out"))
    beside = sizes[0] if quick else sizes[1]
    rows, figures = [], {}
    for count in sizes:
        with tempfile.TemporaryDirectory() as temporary:
            base = Path(temporary)
            truth = synthesize(base / "in", count)
            ours = measured(homegrown, base / "in", base / "out")
            own = quality(base / "in", truth, ours.result)
            rows.append(_row("homegrown", count, ours, own))
            shutil.rmtree(base / "out")
            if count == beside:
                theirs = datatrove(base / "in", base / "datatrove")
                rows.append(_row("datatrove", count, theirs, quality(base / "in", truth, theirs.result)))
                patched = datatrove(base / "in", base / "patched", spacy=False)
                found = quality(base / "in", truth, patched.result)
                rows.append(_row("datatrove, words at white space", count, patched, found))
                figures["neardup_vs_datatrove"] = theirs.cpu_seconds / ours.cpu_seconds
                figures["neardup_vs_datatrove_white_space"] = patched.cpu_seconds / ours.cpu_seconds
    header = ("", "documents", "CPU s", "wall s", "us each", "peak GB", "recall", "precision")
    table(f"Near-duplicates at Jaccard {THRESHOLD}, {SETTINGS.bands} bands of {SETTINGS.rows} rows", header, rows)
    figures |= {"neardup_recall": own.recall, "neardup_precision": own.precision, "neardup_peak_gb": ours.peak_gb}
    revisions()
    return figures


def _row(name: str, count: int, cost: Measured, found: Quality) -> tuple[str, ...]:
    each = f"{1e6 * cost.cpu_seconds / count:,.0f}"
    figures = (f"{cost.cpu_seconds:,.1f}", f"{cost.wall_seconds:,.1f}", each, f"{cost.peak_gb:.2f}")
    return (name, f"{count:,}", *figures, f"{found.recall:.4f}", f"{found.precision:.4f}")


def revisions() -> None:
    """Print the share of true pairs of Wikipedia revisions that are candidates, and 1 - (1 - s^r)^b."""
    if not CORPORA.is_dir():
        print(f"\nRevisions of Wikipedia's articles: {CORPORA} is missing, so they are left out.")
        return
    from homegrown.corpus.lsh import band_keys
    from homegrown.corpus.minhash import permutations, sketch

    texts = _texts_by_id(("wikipedia-2015.jsonl.gz", "wikipedia-revisions.jsonl.gz"))
    with (CORPORA / "wikipedia-revision-pairs.tsv").open(newline="") as file:
        pairs = list(csv.DictReader(file, delimiter="\t"))
    jaccard = np.array([float(pair["jaccard_5_word"]) for pair in pairs])
    permuted = permutations(SETTINGS.bands * SETTINGS.rows, 1)
    keys = [
        band_keys(sketch(pa.array([texts[pair[name]] for pair in pairs]), WORDS, permuted).signatures, SETTINGS.bands)
        for name in ("id", "revision_id")
    ]
    candidates = (keys[0] == keys[1]).any(axis=0)
    rows = []
    for low, high in pairwise((0, 0.3, 0.5, 0.6, 0.7, 0.8, 0.9, 1.01)):
        own = (jaccard >= low) & (jaccard < high)
        expected = np.mean([probability(one, SETTINGS.bands, SETTINGS.rows) for one in jaccard[own]])
        rows.append(
            (f"{low:.1f} to {min(high, 1):.1f}", f"{own.sum()}", f"{candidates[own].mean():.3f}", f"{expected:.3f}")
        )
    title = "Revisions of Wikipedia's articles: share of pairs that are candidates, by true Jaccard similarity"
    table(title, ("Jaccard", "pairs", "candidates", "1-(1-s^r)^b"), rows)


def _texts_by_id(names: Iterable[str]) -> dict[str, str]:
    texts: dict[str, str] = {}
    for name in names:
        with gzip.open(CORPORA / name, "rt") as file:
            texts.update((row["id"], row["text"]) for row in map(json.loads, file))
    return texts
