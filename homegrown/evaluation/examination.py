"""The tasks of every model of an evaluation: held-out tokens to predict, and documents to continue."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from homegrown.config.evaluation import EvaluationSettings
from homegrown.data.loader import TokenSplit
from homegrown.evaluation.continuations import Task, choose_tasks
from homegrown.evaluation.costs import Costs, by_document
from homegrown.evaluation.heldout import HeldOut, open_held_out
from homegrown.evaluation.ngrams import MOST_TOKENS
from homegrown.evaluation.results import Facts
from homegrown.evaluation.windows import Numbers, Windows, slide, thin
from homegrown.tokenizer.loading import load, token_bytes
from homegrown.util.errors import UserError


@dataclass(frozen=True)
class Examination:
    """The tasks, the same for every model; `packed` and `shards` are the folders of those stages.

    `targets` (int64) are the positions in the test split of the tokens to predict, window by window, `known` (int64)
    the number of previous tokens that the models may read, and `sizes` (int64) the bytes of each token.
    """

    packed: Path
    shards: Path
    encoding: Tokenizer
    held_out: HeldOut
    tasks: list[Task]
    windows: Windows
    targets: Numbers
    known: Numbers
    sizes: Numbers
    facts: Facts

    def costs(self, nats: npt.NDArray[np.float64]) -> Costs:
        """Sum the cost of the targets, float64 [targets], by document."""
        return by_document(nats, self.targets, self.sizes, self.held_out.starts)

    def decode(self, sequences: Sequence[Sequence[int]]) -> list[str]:
        """Return the text of each sequence of tokens."""
        return [self.encoding.decode(list(tokens)) for tokens in sequences]


def prepare(
    packed: Path, shards: Path, tokenizer: Path, context: int, settings: EvaluationSettings, seed: int
) -> Examination:
    """Choose the tasks for models of this `context`; the paths are the stages' folders.

    Raises:
        UserError: a file is missing or damaged, no document is long enough, or the tokens were packed for another
            context.
    """
    encoding = load(tokenizer)
    held_out = open_held_out(packed, shards, encoding)
    if held_out.split.context not in (None, context):
        raise UserError(
            f"The tokens are packed in rows of {held_out.split.context}, but the model's context is {context}; run the "
            "stage `pack` again or set pack.layout to contiguous."
        )
    tasks = choose_tasks(held_out.split, settings, seed)
    begins, lengths = held_out.texts()
    stride = settings.stride or max(1, context // 2)
    every_window = slide(begins, lengths, context, stride)
    windows = thin(every_window, settings.perplexity_tokens, stride)
    targets = windows.targets
    train_tokens = TokenSplit(packed, "train").tokens
    return Examination(
        packed=packed,
        shards=shards,
        encoding=encoding,
        held_out=held_out,
        tasks=tasks,
        windows=windows,
        targets=targets,
        known=targets - begins[np.searchsorted(begins, targets, side="right") - 1],
        sizes=token_bytes(encoding)[held_out.tokens()[targets]].astype(np.int64),
        facts=Facts(
            test_tokens=len(targets),
            test_documents=len(np.unique(np.searchsorted(held_out.starts, targets, side="right"))),
            context=context,
            stride=stride,
            whole_split=len(windows.starts) == len(every_window.starts),
            documents=len(tasks),
            documents_asked=settings.samples,
            prompt_tokens=settings.prompt_tokens,
            continuation_tokens=settings.continuation_tokens,
            train_tokens=train_tokens,
            counted_tokens=min(train_tokens, MOST_TOKENS),
        ),
    )
