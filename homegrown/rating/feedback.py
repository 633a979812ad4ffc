"""Feedback on answers, in one SQLite file of the store, and the pairs of answers that it amounts to.

SQLite writes a row completely or not at all, whatever is killed, and lets several processes write.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa

from homegrown.rating.ratings import CRITERIA, all_answers
from homegrown.reporting.numbers import quantity
from homegrown.store.artifacts import RATINGS, Store
from homegrown.util.errors import UserError
from homegrown.util.files import database, parquet_parts, replacing

Kind = Literal["choice", "edit", "thumb", "rating"]
"""Two answers side by side, a corrected answer, thumbs up or down, and the scores of `homegrown rate`."""

FILE = "feedback.sqlite"
FOLDER = "feedback"
"""The store's folder of pairs that trainings read."""

HOW = "compare, rate or edit answers on the page of `homegrown serve`"
"""What people do to give feedback."""

_HELD_OUT_EVERY = 5
"""Of five questions, the second is held out: with two questions there is one to train on and one to measure."""

_LEAST_DIFFERENCE = 1.0
"""Between the mean scores of two answers that make a pair."""

_OF_ANSWER = (("", pa.string()), ("_model", pa.string()), ("_seed", pa.int64()))

_ANSWERS = "answers@"
"""The beginning of the systems whose completions answer questions."""

PAIRS = pa.schema(
    [
        ("given", pa.timestamp("us", tz="UTC")),
        *((name, pa.string()) for name in ("kind", "prompt", "question")),
        *((f"{answer}{field}", kind) for answer in ("chosen", "rejected") for field, kind in _OF_ANSWER),
        ("held_out", pa.bool_()),
    ]
)
"""Columns of the table of pairs."""

_TABLES = """
CREATE TABLE IF NOT EXISTS feedback (
    id INTEGER PRIMARY KEY, given TEXT NOT NULL, kind TEXT NOT NULL, conversation TEXT, prompt TEXT NOT NULL,
    answer TEXT NOT NULL, model TEXT NOT NULL, seed INTEGER, settings TEXT NOT NULL,
    other TEXT, other_model TEXT, other_seed INTEGER, other_settings TEXT, value INTEGER
);
CREATE TABLE IF NOT EXISTS questions (question TEXT PRIMARY KEY, held_out INTEGER NOT NULL);
"""


@dataclass(frozen=True)
class Answer:
    """An answer, the version of the model that generated it, its seed and its sampling settings."""

    text: str
    model: str
    seed: int | None = None
    settings: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class RatedPair:
    """A better and a worse answer to one prompt; a held-out pair never trains."""

    given: datetime
    kind: Kind
    prompt: list[dict[str, str]]
    chosen: Answer
    rejected: Answer
    held_out: bool = False

    @property
    def question(self) -> str:
        """The first question of the conversation, which decides whether its pairs are held out."""
        first = next((one["content"] for one in self.prompt if one["role"] == "user"), "")
        return " ".join(first.casefold().split())

    def record(self) -> dict[str, Any]:
        """Return the pair as a line of the file that `homegrown dpo --data` reads."""
        answers = {"chosen": self.chosen, "rejected": self.rejected}
        return {
            "prompt": self.prompt,
            **{name: [{"role": "assistant", "content": one.text}] for name, one in answers.items()},
            "held_out": self.held_out,
            "source": self.kind,
            "models": {name: {"model": one.model, "seed": one.seed, **one.settings} for name, one in answers.items()},
        }

    def row(self) -> dict[str, Any]:
        """Return the pair as a row of `PAIRS`; the prompt is JSON, the question its last message."""
        row: dict[str, Any] = {
            "given": self.given,
            "kind": self.kind,
            "prompt": json.dumps(self.prompt, ensure_ascii=False),
        }
        row |= {"question": self.prompt[-1]["content"], "held_out": self.held_out}
        for name, one in (("chosen", self.chosen), ("rejected", self.rejected)):
            row |= {name: one.text, f"{name}_model": one.model, f"{name}_seed": one.seed}
        return row


@dataclass(frozen=True)
class Pairs:
    """All pairs, the oldest first, and the feedback that has no pair."""

    pairs: list[RatedPair]
    single_thumbs: int
    """Thumbs without an opposite one to the same prompt."""
    unused_ratings: int
    """Rated completions that are empty, or answer no question or a held-out pair of DPO."""

    @property
    def held_out(self) -> int:
        """The number of held-out pairs."""
        return sum(pair.held_out for pair in self.pairs)

    def note(self) -> str:
        """Return one line for people: the pairs, how they are split, and what has no pair."""
        questions = len({pair.question for pair in self.pairs})
        parts = [
            f"{quantity(len(self.pairs), 'pairs')} of {quantity(questions, 'questions')}: "
            f"{len(self.pairs) - self.held_out} train, "
            f"{self.held_out} held out."
        ]
        if self.single_thumbs:
            parts.append(f"Without an opposite thumb to the same prompt: {self.single_thumbs}.")
        if self.unused_ratings:
            kinds = "continuations, empty answers, answers to DPO's held-out pairs"
            parts.append(f"Ratings not used ({kinds}): {self.unused_ratings}.")
        return " ".join(parts)


class Feedback:
    """The feedback of a store."""

    def __init__(self, store: Store):
        self._store, self._path = store, store.root / FILE

    def choose(
        self, prompt: Sequence[dict[str, str]], chosen: Answer, rejected: Answer, conversation: str = ""
    ) -> None:
        """Keep a choice between two answers."""
        self._add("choice", prompt, chosen, conversation, other=rejected)

    def edit(self, prompt: Sequence[dict[str, str]], corrected: str, original: Answer, conversation: str = "") -> None:
        """Keep an answer as a person corrected it."""
        corrected_answer = Answer(corrected, "edited")
        self._add("edit", prompt, corrected_answer, conversation, other=original)

    def thumb(self, prompt: Sequence[dict[str, str]], answer: Answer, value: int, conversation: str = "") -> None:
        """Keep thumbs up (1) or down (-1) for an answer, or that it was withdrawn (0); the last one counts."""
        self._add("thumb", prompt, answer, conversation, value=value)

    def pairs(self) -> Pairs:
        """Return all pairs; the questions of new ones are assigned to training or held out, for good.

        Raises:
            UserError: the file or a table of ratings is damaged.
        """
        rated, unused = self._rated()
        if not self._path.exists() and not rated:
            return Pairs([], 0, unused)
        with database(self._path, _TABLES) as opened:
            opened.execute("BEGIN IMMEDIATE")
            rows = opened.execute("SELECT * FROM feedback ORDER BY id").fetchall()
            thumbed, single = _thumbed(rows)
            found = sorted([*_direct(rows), *thumbed, *rated], key=lambda pair: pair.given)
            split = dict(opened.execute("SELECT question, held_out FROM questions").fetchall())
            for pair in found:
                if pair.question not in split:
                    split[pair.question] = int(len(split) % _HELD_OUT_EVERY == 1)
                    opened.execute("INSERT INTO questions VALUES (?, ?)", (pair.question, split[pair.question]))
            opened.execute("COMMIT")
        pairs = [RatedPair(**{**vars(pair), "held_out": bool(split[pair.question])}) for pair in found]
        return Pairs(_without_reversals(pairs), single, unused)

    def training_file(self, pairs: Pairs) -> Path:
        """Write the pairs as a file that DPO reads; its name is that of its content, so a repeated run is cached.

        Raises:
            UserError: there are no pairs to train on, or none to measure on.
        """
        if not pairs.pairs:
            raise UserError(f"There is no feedback to train on; {HOW}.")
        if pairs.held_out in (0, len(pairs.pairs)):
            given = quantity(len(pairs.pairs), "pairs")
            raise UserError(f"Feedback has {given} of one question; give some for another question, to measure.")
        content = "".join(lines(pairs.pairs)).encode()
        path = self._store.root / FOLDER / f"pairs-{sha256(content).hexdigest()[:16]}.jsonl"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(path) as temporary:
                temporary.write_bytes(content)
        return path

    def _add(
        self,
        kind: Kind,
        prompt: Sequence[dict[str, str]],
        answer: Answer,
        conversation: str,
        *,
        other: Answer | None = None,
        value: int | None = None,
    ) -> None:
        row = (
            *(None, datetime.now(UTC).isoformat(), kind, conversation, json.dumps(list(prompt), ensure_ascii=False)),
            *_columns(answer),
            *(_columns(other) if other else (None,) * 4),
            value,
        )
        with database(self._path, _TABLES) as opened:
            opened.execute(f"INSERT INTO feedback VALUES ({','.join('?' * len(row))})", row)

    def _rated(self) -> tuple[list[RatedPair], int]:
        """Return the pairs of `homegrown rate`: answers to one question whose scores by one rater differ."""
        folder = self._store.root / RATINGS
        rows = all_answers(folder).to_pylist() if parquet_parts(folder) else []
        by_question: dict[tuple[str, str], list[dict[str, Any]]] = {}
        unused = 0
        for row in rows:
            if row["text"].strip():
                by_question.setdefault((row["rater"], row["prompt"]), []).append(row)
            else:
                unused += 1
        found = []
        for (_, question), answers in by_question.items():
            if not any(system.startswith(_ANSWERS) for one in answers for system in one["systems"]):
                unused += len(answers)
                continue
            prompt = [{"role": "user", "content": question.removesuffix("\n\n")}]
            for better in answers:
                for worse in answers:
                    if _mean(better) - _mean(worse) >= _LEAST_DIFFERENCE:
                        given = max(better["rated"], worse["rated"])
                        chosen, rejected = (Answer(one["text"], ", ".join(one["systems"])) for one in (better, worse))
                        found.append(RatedPair(given, "rating", prompt, chosen, rejected))
        return found, unused


def lines(pairs: Iterable[RatedPair]) -> Iterator[str]:
    """Yield each pair as a line of JSON."""
    for pair in pairs:
        yield json.dumps(pair.record(), ensure_ascii=False) + "\n"


def _columns(answer: Answer) -> tuple[str, str, int | None, str]:
    fields = asdict(answer)
    return fields["text"], fields["model"], fields["seed"], json.dumps(fields["settings"])


def _mean(row: dict[str, Any]) -> float:
    scores: list[int] = [row[name] for name in CRITERIA if row[name] is not None]
    return sum(scores) / len(scores)


def _answer(columns: Sequence[Any]) -> Answer:
    text, model, seed, settings = columns
    return Answer(text, model, seed, json.loads(settings))


def _direct(rows: Iterable[Sequence[Any]]) -> Iterator[RatedPair]:
    """Yield the pairs of choices and edits."""
    for _, given, kind, _, prompt, *answers, value in rows:
        if value is None:
            both = _answer(answers[:4]), _answer(answers[4:])
            if both[1].text.strip() not in ("", both[0].text.strip()):
                yield RatedPair(datetime.fromisoformat(given), kind, json.loads(prompt), *both)


def _thumbed(rows: Iterable[Sequence[Any]]) -> tuple[list[RatedPair], int]:
    """Return a pair for each thumb up and thumb down of one prompt, and the number of thumbs without a pair."""
    last: dict[str, dict[str, tuple[str, int, Answer]]] = {}
    for _, given, _, _, prompt, *answers, value in rows:
        if value is not None:
            answer = _answer(answers[:4])
            last.setdefault(prompt, {})[answer.text.strip()] = given, value, answer
    pairs, single = [], 0
    for prompt, given_to in last.items():
        up, down = ([one for one in given_to.values() if one[1] == value] for value in (1, -1))
        single += 0 if up and down else len(up) + len(down)
        for time, _, chosen in up:
            for other_time, _, rejected in down:
                at = datetime.fromisoformat(max(time, other_time))
                pairs.append(RatedPair(at, "thumb", json.loads(prompt), chosen, rejected))
    return pairs, single


def _without_reversals(pairs: Sequence[RatedPair]) -> list[RatedPair]:
    """Drop the earlier of two pairs that have the same two answers to the same prompt, alike or reversed."""
    last: dict[tuple[str, frozenset[str]], RatedPair] = {}
    for pair in pairs:
        key = json.dumps(pair.prompt), frozenset((pair.chosen.text.strip(), pair.rejected.text.strip()))
        last.pop(key, None)
        last[key] = pair
    return list(last.values())
