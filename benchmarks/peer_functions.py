"""What the corpus benchmarks measure of their peers; runs in the peers' environment, without this project's packages.

python -m benchmarks.peer_functions FUNCTION ARGUMENTS.json RESULT.json
"""

import contextlib
import importlib
import io
import json
import logging
import random
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from itertools import islice
from pathlib import Path
from typing import Any

_FILTERS = "datatrove.pipeline.filters."
_MODULES = ("gopher_quality_filter", "gopher_repetition_filter", "c4_filters", "fineweb_quality_filter")


class _WhiteSpace:
    """A replacement for spaCy; datatrove's own WhitespaceTokenizer calls spaCy too."""

    def word_tokenize(self, text: str) -> list[str]:
        """Return the words of a text."""
        return text.split()


def cpu_seconds() -> float:
    """Return the CPU time, user and system, of this process and of its children that have exited."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def rate(function: Callable[[list[str]], object], texts: list[str]) -> float:
    """Return the `texts` that a function processes per CPU second: the better of two calls, after a warm-up."""
    function(texts[:2])
    seconds = []
    for _ in range(2):
        before = cpu_seconds()
        function(texts)
        seconds.append(cpu_seconds() - before)
    return len(texts) / min(seconds)


def datatrove_signatures(texts: list[str], words: int, spacy: bool) -> float:
    """Return texts per CPU second of datatrove's MinHash signatures, with its words or those at white space."""
    from datatrove.pipeline.dedup.minhash import MinhashConfig, MinhashDedupSignature

    logging.getLogger("datatrove").setLevel(logging.ERROR)
    step = MinhashDedupSignature("memory://unused", MinhashConfig(n_grams=words, num_buckets=16, hashes_per_bucket=8))
    if not spacy:
        step.word_tokenizer = _WhiteSpace()

    def sign(some: list[str]) -> None:
        for text in some:
            step.get_signature(step.get_shingles(text))

    return rate(sign, texts)


def shingles(text: str, words: int) -> list[bytes]:
    """Return the shingles of a text, lower-cased, words split at white space."""
    split = text.lower().split()
    grams = zip(*(islice(split, first, None) for first in range(min(words, len(split)))), strict=False)
    return [" ".join(gram).encode() for gram in grams]


def rensa_signatures(texts: list[str], words: int, permutations: int) -> float:
    """Return texts per CPU second of rensa's RMinHash."""
    from rensa import RMinHash

    def sign(some: list[str]) -> object:
        sets = (shingles(text, words) for text in some)
        return RMinHash.digest_matrix_from_token_byte_sets(sets, permutations, 1)

    return rate(sign, texts)


def datatrove_chain(folder: str, out: str, tokenizer: str, words: int, bands: int, rows: int) -> dict[str, Any]:
    """Read JSONL, drop near-duplicates in four steps, apply the quality filters and tokenize.

    Return documents and tokens that remain, CPU and wall seconds, and peak GB.
    """
    before, start = cpu_seconds(), time.perf_counter()
    from datatrove.executor import LocalPipelineExecutor
    from datatrove.pipeline.dedup import MinhashDedupBuckets, MinhashDedupCluster, MinhashDedupFilter
    from datatrove.pipeline.dedup.minhash import MinhashConfig, MinhashDedupSignature
    from datatrove.pipeline.readers import JsonlReader
    from datatrove.pipeline.tokens import DocumentTokenizer

    config = MinhashConfig(n_grams=words, num_buckets=bands, hashes_per_bucket=rows)
    reader = JsonlReader(folder)
    tokens = DocumentTokenizer(f"{out}/tokens", tokenizer, f"{out}/working", "tokens", eos_token="</s>", seed=1)
    stages: list[tuple[list[Any], int]] = [
        ([reader, MinhashDedupSignature(f"{out}/signatures", config)], 1),
        ([MinhashDedupBuckets(f"{out}/signatures", f"{out}/buckets", config=config)], bands),
        ([MinhashDedupCluster(f"{out}/buckets", f"{out}/remove", config)], 1),
        ([reader, MinhashDedupFilter(f"{out}/remove"), *_quality_filters(), tokens], 1),
    ]
    with contextlib.redirect_stderr(io.StringIO()):  # each task logs a page
        for number, (pipeline, tasks) in enumerate(stages):
            LocalPipelineExecutor(pipeline, tasks=tasks, workers=1, logging_dir=f"{out}/logs{number}").run()
    peak = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return {
        "kept": sum(path.stat().st_size for path in Path(out, "tokens").glob("*.index")) // 8,  # uint64 ends
        "tokens": sum(path.stat().st_size for path in Path(out, "tokens").glob("*.ds")) // 2,
        "cpu_seconds": cpu_seconds() - before,
        "wall_seconds": time.perf_counter() - start,
        "peak_gb": peak * 1024 / 1e9,
    }


def datatrove_duplicates(folder: str, out: str, words: int, bands: int, rows: int, spacy: bool) -> dict[str, Any]:
    """Run datatrove's four stages; return dropped documents, clusters, CPU and wall seconds, and peak GB."""
    before, start = cpu_seconds(), time.perf_counter()
    from datatrove.executor import LocalPipelineExecutor
    from datatrove.pipeline.dedup import MinhashDedupBuckets, MinhashDedupCluster, MinhashDedupFilter
    from datatrove.pipeline.dedup.minhash import MinhashConfig, MinhashDedupSignature
    from datatrove.pipeline.readers import ParquetReader
    from datatrove.pipeline.writers import JsonlWriter

    config = MinhashConfig(n_grams=words, num_buckets=bands, hashes_per_bucket=rows)
    reader = ParquetReader(f"{folder}/documents", text_key="text", id_key="id")
    signature = MinhashDedupSignature(f"{out}/signatures", config)
    if not spacy:
        signature.word_tokenizer = _WhiteSpace()
    dropping = MinhashDedupFilter(
        f"{out}/remove", JsonlWriter(f"{out}/dropped", compression=None), load_cluster_ids=True
    )
    stages: list[tuple[list[Any], int]] = [
        ([reader, signature], 1),
        ([MinhashDedupBuckets(f"{out}/signatures", f"{out}/buckets", config=config)], bands),
        ([MinhashDedupCluster(f"{out}/buckets", f"{out}/remove", config, save_cluster_id=True)], 1),
        ([reader, dropping, JsonlWriter(f"{out}/kept", compression=None)], 1),
    ]
    with contextlib.redirect_stderr(io.StringIO()):  # each task logs a page
        for number, (pipeline, tasks) in enumerate(stages):
            LocalPipelineExecutor(pipeline, tasks=tasks, workers=1, logging_dir=f"{out}/logs{number}").run()
    found = {name: [_metadata(line) for line in _lines(Path(out, name))] for name in ("dropped", "kept")}
    peak = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return {
        "dropped": sorted(document for document, _ in found["dropped"]),
        "clusters": [[document, one] for own in found.values() for document, one in own if one is not None],
        "cpu_seconds": cpu_seconds() - before,
        "wall_seconds": time.perf_counter() - start,
        "peak_gb": peak * 1024 / 1e9,
    }


def _lines(folder: Path) -> Iterable[str]:
    for path in sorted(folder.iterdir()):
        with path.open() as file:
            yield from file


def _metadata(line: str) -> tuple[int, int | None]:
    row = json.loads(line)
    cluster = row["metadata"]["minhash_cluster_id"]
    return int(row["id"], 16), None if cluster == -1 else cluster


def datatrove_verdicts(texts: list[str], at_white_space: bool, timed: bool = False) -> dict[str, Any]:
    """Return by text the reason why datatrove's chain drops it, or none and the kept text; texts per CPU second."""
    from datatrove.data import Document

    filters = _quality_filters()
    if at_white_space:
        for module in (_module(name) for name in _MODULES if not name.startswith("c4")):
            module.split_into_words = _at_white_space

    def judge(some: list[str]) -> list[tuple[str, str]]:
        verdicts = []
        for text in some:
            document = Document(text=text, id="")
            reasons = (_reason(step.filter(document)) for step in filters)
            reason = next((reason for reason in reasons if reason), "")
            verdicts.append((reason, "" if reason else document.text))
        return verdicts

    return {"rate": rate(judge, texts)} if timed else {"verdicts": judge(texts)}


def _module(name: str) -> Any:
    return importlib.import_module(f"{_FILTERS}{name}")


def _quality_filters() -> list[Any]:
    quality, repetition, c4, fineweb = (_module(name) for name in _MODULES)
    return [
        quality.GopherQualityFilter(),
        repetition.GopherRepetitionFilter(),
        c4.C4QualityFilter(filter_no_terminal_punct=False),
        fineweb.FineWebQualityFilter(),
    ]


def _reason(verdict: Any) -> str:
    return str(verdict[1]) if isinstance(verdict, tuple) and not verdict[0] else ""


def _at_white_space(text: str, _language: str = "") -> list[str]:
    return text.split()


def fasttext_scores(
    good: list[str], others: list[str], judged: list[list[str]], epochs: int, rate: float
) -> dict[str, Any]:
    """Return fastText's scores of each list of texts after learning words and pairs of words, and CPU seconds."""
    import fasttext

    with tempfile.TemporaryDirectory() as folder:
        lines = [f"__label__{label} {_line(text)}\n" for label, texts in ((1, good), (0, others)) for text in texts]
        random.Random(1).shuffle(lines)
        Path(folder, "learned.txt").write_text("".join(lines), encoding="utf-8")
        before = cpu_seconds()
        path = str(Path(folder, "learned.txt"))
        model = fasttext.train_supervised(path, wordNgrams=2, epoch=epochs, lr=rate, thread=1, seed=1, verbose=0)
    learned = cpu_seconds()
    lines = [_line(text) for texts in judged for text in texts]
    found = [dict(model.f.predict(line, 2, 0.0, "strict")) for line in lines]
    scored = cpu_seconds() - learned
    scores = iter([next(value for value, label in one.items() if label == "__label__1") for one in found])
    return {
        "scores": [list(islice(scores, len(texts))) for texts in judged],
        "seconds_to_learn": learned - before,
        "seconds_to_score": scored,
    }


def _line(text: str) -> str:
    return " ".join(text.split())


if __name__ == "__main__":
    name, given, returned = sys.argv[1:]
    result = globals()[name](**json.loads(Path(given).read_text(encoding="utf-8")))
    Path(returned).write_text(json.dumps(result), encoding="utf-8")
