"""Completions of held-out documents by a model."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from homegrown.config.evaluation import EvaluationSettings
from homegrown.data.loader import TokenSplit
from homegrown.data.permutation import Permutation
from homegrown.inference.generation import generate
from homegrown.model.transformer import Transformer
from homegrown.util.errors import UserError
from homegrown.util.seeds import derive

_BATCH = 64


@dataclass(frozen=True)
class Task:
    """A document's first tokens, and the tokens that follow; `document` is its number in the split."""

    prompt: list[int]
    reference: list[int]
    document: int


def choose_tasks(split: TokenSplit, settings: EvaluationSettings, seed: int) -> list[Task]:
    """Return `settings.samples` random documents that are long enough, or all of these if they are fewer.

    Raises:
        UserError: no document is long enough.
    """
    needed = settings.prompt_tokens + settings.continuation_tokens
    tasks: list[Task] = []
    for number in Permutation(split.documents, derive(seed, "tasks"))(np.arange(split.documents)).tolist():
        document = split.document(number)[: needed + 1].tolist()
        if len(document) > needed:  # the last token marks its end
            tasks.append(Task(document[: settings.prompt_tokens], document[settings.prompt_tokens : needed], number))
        if len(tasks) == settings.samples:
            break
    if not tasks:
        raise UserError(
            f"No test document has the {needed} tokens of evaluation.prompt_tokens + evaluation.continuation_tokens; "
            "lower them or add text."
        )
    return tasks


def continue_all(model: Transformer, tasks: Sequence[Task], end: int) -> list[list[int]]:
    """Return the greedy completion of each prompt up to `end`, at most as long as its reference."""
    written: list[list[int]] = []
    for start in range(0, len(tasks), _BATCH):
        batch = tasks[start : start + _BATCH]
        written += generate(
            model,
            [task.prompt for task in batch],
            max_tokens=len(batch[0].reference),
            stop_ids={end},
        )
    return written


def tokens_per_second(model: Transformer, task: Task) -> float:
    """Return the speed of one sequence, prefill included."""
    start = time.perf_counter()
    (written,) = generate(model, [task.prompt], max_tokens=len(task.reference))
    return len(written) / (time.perf_counter() - start)
