"""Two tasks for the harness, made from a run's own test documents without a download."""

import json
import random
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from homegrown.util.elsewhere import opened, parts_of
from homegrown.util.errors import UserError
from homegrown.util.files import replacing
from homegrown.util.seeds import derive

LAST_WORD, NEXT_PASSAGE = "heldout_last_word", "heldout_next_passage"
TASKS = (LAST_WORD, NEXT_PASSAGE)

MOST = 500
"""Maximum documents per task; the standard error of a share is then at most 2.3 points."""

_PASSAGE, _LEAST_CONTEXT = 600, 100
_CONTEXT, _CONTINUATION, _CHOICES = 400, 160, 4
_SENTENCE_END = re.compile(r"[.!?](?=\s)")
_LAST_WORD = re.compile(r"(?s)(.+\s)([^\W\d_]{2,})[.!?]$")


def write_tasks(shards: Path, folder: Path, names: Sequence[str]) -> list[dict[str, Any]]:
    """Write the documents of the tasks `names` to `folder` as JSON lines; return the harness's configurations.

    `heldout_last_word` asks for the last word of a passage (as LAMBADA, Paperno et al. 2016). `heldout_next_passage`
    asks which of four passages continues a text; the other three are from other documents.

    Raises:
        UserError: no test document is long enough.
    """
    texts = list(_texts(shards / "test"))
    made = {LAST_WORD: _last_words, NEXT_PASSAGE: _next_passages}
    configurations = []
    for name in names:
        rows = made[name](texts)
        if not rows:
            raise UserError(f"No test document is long enough for {name}; add longer documents or leave the task out.")
        path = folder / f"{name}.jsonl"
        with replacing(path) as temporary:
            temporary.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        configurations.append(_SHAPES[name] | _place(name, path))
    return configurations


def _texts(test: Path) -> Iterator[str]:
    for part in parts_of(test):
        for batch in pq.ParquetFile(opened(part)).iter_batches(batch_size=256, columns=["text"]):
            yield from batch["text"].to_pylist()


def _last_words(texts: Sequence[str]) -> list[dict[str, Any]]:
    rows = []
    for text in texts:
        ends = [end.end() for end in _SENTENCE_END.finditer(text[: _PASSAGE + 1])]
        found = _LAST_WORD.fullmatch(text[: ends[-1]]) if ends else None
        if found and len(found[1]) >= _LEAST_CONTEXT:
            rows.append({"context": found[1].rstrip(), "word": found[2]})
        if len(rows) == MOST:
            break
    return rows


def _next_passages(texts: Sequence[str]) -> list[dict[str, Any]]:
    passages: list[tuple[str, str]] = []
    for text in texts:
        context = _whole_words(text, _CONTEXT)
        following = _whole_words(text[len(context) :], _CONTINUATION) if context else None
        if context and following:
            passages.append((context, following))
        if len(passages) == MOST:
            break
    if len({following for _, following in passages}) < _CHOICES:
        return []
    dice, rows = random.Random(derive(0, NEXT_PASSAGE)), []
    for context, following in passages:
        others = sorted({other for _, other in passages} - {following})
        choices = [following, *dice.sample(others, _CHOICES - 1)]
        dice.shuffle(choices)
        rows.append({"context": context, "choices": choices, "answer": choices.index(following)})
    return rows


def _whole_words(text: str, most: int) -> str | None:
    """Return a text up to a space before `most` characters; None if it is shorter or has no space."""
    cut = text.rfind(" ", most // 2, most) if len(text) > most else -1
    return text[:cut] if cut > 0 else None


def _place(name: str, path: Path) -> dict[str, Any]:
    files = {"data_files": {"test": str(path)}, "cache_dir": str(path.parent / "cache")}
    return {"task": name, "dataset_path": "json", "dataset_kwargs": files, "test_split": "test"}


_SHAPES: dict[str, dict[str, Any]] = {
    LAST_WORD: {
        "output_type": "loglikelihood",
        "doc_to_text": "{{context}}",
        "doc_to_target": "{{' ' + word}}",
        "metric_list": [
            {"metric": "perplexity", "aggregation": "perplexity", "higher_is_better": False},
            {"metric": "acc", "aggregation": "mean", "higher_is_better": True},
        ],
    },
    NEXT_PASSAGE: {
        "output_type": "multiple_choice",
        "doc_to_text": "{{context}}",
        "doc_to_choice": "choices",
        "doc_to_target": "answer",
        "target_delimiter": "",
        "metric_list": [
            {"metric": "acc", "aggregation": "mean", "higher_is_better": True},
            {"metric": "acc_norm", "aggregation": "mean", "higher_is_better": True},
        ],
    },
}
