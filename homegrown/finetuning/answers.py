"""Before and after: the base and the fine-tuned model on held-out questions."""

import math
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

from homegrown.config.finetune_recipe import AnswerSettings
from homegrown.data.loader import TokenSplit
from homegrown.data.rows import NO_TARGET, parts
from homegrown.finetuning.questions import Question, held_out
from homegrown.inference.generation import generate
from homegrown.model import weights
from homegrown.model.transformer import Transformer
from homegrown.tokenizer import loading as tokens
from homegrown.tokenizer.chat import Chat, load_chat
from homegrown.util.files import write_parquet
from homegrown.util.progress import Metric, Outcome, Progress, silent

BEFORE, AFTER = "base", "fine-tuned"
_ROWS = 8  # in a forward pass; also questions in a batch


@dataclass(frozen=True)
class Result:
    """Measurements of one model; a row of the table `results`.

    `loss`: nats per token of the reference answers, end-of-turn token included; `bits_per_byte`: the same over their
    bytes. The model's own answers are greedy. `ended`: share that ends with the end-of-turn token before the limit;
    `formatted`: share that matches the pattern (None without one); `right`: share whose match is that of the reference
    answer (None without a pattern); `same`: share equal to the reference answer; `tokens`: mean length.
    """

    model: str
    loss: float
    bits_per_byte: float
    ended: float
    formatted: float | None
    same: float
    tokens: float
    right: float | None = None  # absent in tables of earlier versions


@dataclass(frozen=True)
class Answer:
    """A model's answer; `ended`: it ended before the limit."""

    text: str
    tokens: int
    ended: bool


def measure(
    out: Path,
    models: dict[str, Path],
    instructions: Path,
    settings: AnswerSettings,
    *,
    device: str,
    progress: Progress = silent,
) -> Outcome:
    """Measure the models in the folders `models` on the held-out conversations of `instructions`.

    Writes the tables `results` (see `Result`) and `samples`: each question with all answers.

    Raises:
        UserError: a file is missing or damaged.
    """
    questions = held_out(instructions, settings.samples)
    steps, done = 2 * len(models), 0
    results, answers = [], {}
    for name, folder in models.items():
        progress(done, steps, model=name)
        model = weights.load(folder, device)
        loss, bits = _loss(model, folder, instructions, settings.loss_tokens)
        progress(done := done + 1, steps, model=name)
        chat = load_chat(folder)
        references = [chat.written([*one.messages, one.reference], tools=one.tools) for one in questions]
        answers[name] = greedy_answers(model, chat, questions, settings.answer_tokens)
        results.append(_result(name, loss, bits, answers[name], references, settings.pattern))
        progress(done := done + 1, steps, model=name)
    write_parquet(out / "results" / "part-00000.parquet", pa.Table.from_pylist([asdict(row) for row in results]))
    write_parquet(out / "samples" / "part-00000.parquet", pa.Table.from_pylist(_samples(questions, answers)))
    metrics: dict[str, Metric] = {}
    for row in results:
        prefix = row.model.replace("-", "_")
        metrics |= {f"{prefix}_loss": row.loss, f"{prefix}_bits_per_byte": row.bits_per_byte}
        metrics |= {f"{prefix}_ended": row.ended}
        metrics |= {} if row.formatted is None else {f"{prefix}_formatted": row.formatted}
        metrics |= {} if row.right is None else {f"{prefix}_right": row.right}
    return Outcome(len(questions), len(results), "models", metrics)


@torch.inference_mode()
def _loss(model: Transformer, folder: Path, instructions: Path, most: int | None) -> tuple[float, float]:
    """Return nats per token and bits per byte of held-out answers, over evenly spaced rows."""
    split, sizes = TokenSplit(instructions, "validation"), tokens.token_bytes(tokens.load(folder))
    assert split.context is not None
    rows = split.windows(split.context)
    wanted = rows if most is None else min(rows, math.ceil(most / split.context))
    indices = np.linspace(0, rows - 1, wanted).round().astype(np.int64)
    nats, count, text_bytes = 0.0, 0, 0
    for start in range(0, len(indices), _ROWS):
        batch = split.read(indices[start : start + _ROWS], split.context)
        nats += float(model.loss(*parts(torch.from_numpy(batch).to(model.device))))
        _, targets, _ = parts(batch)
        predicted = targets[targets != NO_TARGET]
        count += len(predicted)
        text_bytes += int(sizes[predicted].sum())
    return nats / max(1, count), nats / math.log(2) / max(1, text_bytes)


def greedy_answers(model: Transformer, chat: Chat, questions: Sequence[Question], most: int) -> list[Answer]:
    """Return the model's greedy answers; one that uses all its tokens did not end."""
    answers = []
    # Only the end of a turn ends an answer: a model that ends the document has not learned the format.
    stops = chat.stop_ids if chat.turn_end is None else frozenset({chat.turn_end})
    for start in range(0, len(questions), _ROWS):
        batch = questions[start : start + _ROWS]
        prompts = [chat.encode(one.messages, reply=True, tools=one.tools) for one in batch]
        written = generate(model, prompts, max_tokens=most, stop_ids=stops)
        for prompt, new in zip(prompts, written, strict=True):
            ended = len(new) < min(most, model.config.context - len(prompt))
            answers.append(Answer(chat.tokenizer.decode(new), len(new), ended))
    return answers


def _result(
    name: str,
    loss: float,
    bits: float,
    answers: Sequence[Answer],
    references: Sequence[str],
    pattern: str | None,
) -> Result:
    def share(values: Sequence[bool]) -> float:
        return sum(values) / max(1, len(values))

    pairs = list(zip(answers, references, strict=True))
    return Result(
        model=name,
        loss=loss,
        bits_per_byte=bits,
        ended=share([answer.ended for answer in answers]),
        formatted=None if pattern is None else share([bool(re.search(pattern, answer.text)) for answer in answers]),
        same=share([one.text == other for one, other in pairs]),
        tokens=sum(answer.tokens for answer in answers) / max(1, len(answers)),
        right=None if pattern is None else share([_agree(pattern, one.text, other) for one, other in pairs]),
    )


def _agree(pattern: str, answer: str, reference: str) -> bool:
    """Whether both texts match, and the last match (its first group, if the pattern has one) is the same in both."""
    found = [list(re.finditer(pattern, text)) for text in (answer, reference)]
    if not all(found):
        return False
    ours, theirs = (matches[-1] for matches in found)
    group = min(1, ours.re.groups)
    return ours[group] == theirs[group]


def _samples(questions: Sequence[Question], answers: dict[str, list[Answer]]) -> list[dict[str, str | bool]]:
    before, after = answers[BEFORE], answers[AFTER]
    return [
        {
            "question": question.text,
            "author": question.reference.content,
            "before": one.text,
            "before_ended": one.ended,
            "after": other.text,
            "after_ended": other.ended,
        }
        for question, one, other in zip(questions, before, after, strict=True)
    ]
