"""Before and after DPO: the base and the trained model on held-out pairs."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from homegrown.config.finetune_recipe import DpoSettings, PairSettings
from homegrown.data.loader import TokenSplit
from homegrown.finetuning.answers import AFTER, BEFORE, Answer, greedy_answers
from homegrown.finetuning.answers_report import note
from homegrown.finetuning.pairs import answer_nats
from homegrown.finetuning.questions import held_out_pairs
from homegrown.model import weights
from homegrown.model.transformer import Transformer
from homegrown.reporting.blocks import Block, Lines, Picture, Section, SideBySide, Table
from homegrown.reporting.html import as_html
from homegrown.tokenizer import loading as tokens
from homegrown.tokenizer.chat import load_chat
from homegrown.util.files import write_parquet
from homegrown.util.progress import Metric, Outcome, Progress, silent

Numbers = npt.NDArray[np.float64]

_ROWS = 4  # in a forward pass
_SHOWN = 12
_NORMAL = 1.959964  # 95% of a normal distribution are within so many standard deviations
_METHOD = (
    "Reward of an answer: beta times the log-probability that it gained over the base. Reward margin: mean reward of "
    "the chosen answers less that of the rejected ones. Win rate: share of pairs whose margin is above 0, with "
    "Wilson's 95% interval; a tie counts half, so the base has 50%.",
    "Chosen more likely: share of pairs whose chosen answer has the higher log-probability. Loss: nats per token. "
    "Log-probability: nats of a complete answer with its end-of-turn token, mean over pairs.",
    "Answers are greedy. Ended: share that reaches an end-of-turn token. No held-out prompt is in the training data.",
)


@dataclass(frozen=True)
class PairResult:
    """Measurements of one model on held-out pairs; a row of the table `results`.

    `win_low` and `win_high` are the 95% interval of the win rate. Losses are in nats per token, log-probabilities in
    nats per answer; `bits_per_byte` is that of the chosen answers. `tokens` is the mean length of the model's own
    answers, `ended` the share that reached their end.
    """

    model: str
    win_rate: float
    win_low: float
    win_high: float
    chosen_more_likely: float
    reward_margin: float
    chosen_loss: float
    rejected_loss: float
    bits_per_byte: float
    chosen_log_probability: float
    rejected_log_probability: float
    tokens: float
    ended: float


def measure(
    out: Path,
    models: dict[str, Path],
    preferences: Path,
    settings: PairSettings,
    objective: DpoSettings,
    *,
    device: str,
    progress: Progress = silent,
) -> Outcome:
    """Measure the models in the folders `models`, BEFORE and AFTER, on the held-out pairs of `preferences`.

    Writes the tables `results` (see `PairResult`) and `samples`: prompts with the answers of the pair and the models.

    Raises:
        UserError: a file is missing or damaged.
    """
    pairs = held_out_pairs(preferences, settings.samples)
    questions = [question for question, _ in pairs]
    results, answers, base = list[PairResult](), dict[str, list[Answer]](), None
    steps, done = 2 * len(models), 0
    for name, folder in models.items():
        progress(done, steps, model=name)
        model = weights.load(folder, device)
        answers[name] = greedy_answers(model, load_chat(folder), questions, settings.answer_tokens)
        progress(done := done + 1, steps, model=name)
        found = _measured(model, tokens.token_bytes(tokens.load(folder)), preferences)
        base = found.nats if base is None else base
        results.append(_result(name, found, objective.beta * (base - found.nats), answers[name]))
        progress(done := done + 1, steps, model=name)
    write_parquet(out / "results" / "part-00000.parquet", pa.Table.from_pylist([asdict(row) for row in results]))
    samples = [
        {
            "question": question.text,
            "author": question.reference.content,
            "rejected": rejected.content,
            "before": before.text,
            "before_ended": before.ended,
            "after": after.text,
            "after_ended": after.ended,
        }
        for (question, rejected), before, after in zip(pairs, answers[BEFORE], answers[AFTER], strict=True)
    ]
    write_parquet(out / "samples" / "part-00000.parquet", pa.Table.from_pylist(samples))
    metrics: dict[str, Metric] = {}
    for row in results:
        values = {name: value for name, value in asdict(row).items() if name != "model"}
        metrics |= {f"{row.model.replace('-', '_')}_{name}": value for name, value in values.items()}
    return Outcome(TokenSplit(preferences, "validation").documents // 2, len(results), "models", metrics)


@dataclass(frozen=True)
class _Measured:
    """-log p and the tokens of each held-out answer, [2 x pairs], chosen and rejected by turns.

    `text_bytes` are those of the chosen answers.
    """

    nats: Numbers
    lengths: Numbers
    text_bytes: int


@torch.inference_mode()
def _measured(model: Transformer, sizes: npt.NDArray[np.int32], preferences: Path) -> _Measured:
    split = TokenSplit(preferences, "validation")
    context = split.context or 0
    model.set_context(context)
    sums, lengths, text_bytes = [], [], 0
    for start in range(0, split.windows(context), _ROWS):
        rows = range(start, min(split.windows(context), start + _ROWS))
        nats = answer_nats(model, torch.from_numpy(split.read(rows, context)).to(model.device))
        sums.append(nats.sums.double().cpu().numpy())
        lengths.append(np.bincount(nats.answer.cpu().numpy(), minlength=len(nats.sums)).astype(np.float64))
        text_bytes += int(sizes[nats.targets[nats.answer % 2 == 0].cpu().numpy()].sum())
    return _Measured(np.concatenate(sums), np.concatenate(lengths), text_bytes)


def _result(name: str, found: _Measured, rewards: Numbers, answers: Sequence[Answer]) -> PairResult:
    nats, lengths = found.nats, found.lengths
    margins = rewards[0::2] - rewards[1::2]
    wins = float(((margins > 0) + 0.5 * (margins == 0)).mean())
    low, high = wilson(wins, len(margins))
    return PairResult(
        model=name,
        win_rate=wins,
        win_low=low,
        win_high=high,
        chosen_more_likely=float((nats[0::2] < nats[1::2]).mean()),
        reward_margin=float(margins.mean()),
        chosen_loss=float(nats[0::2].sum() / lengths[0::2].sum()),
        rejected_loss=float(nats[1::2].sum() / lengths[1::2].sum()),
        bits_per_byte=float(nats[0::2].sum()) / math.log(2) / max(1, found.text_bytes),
        chosen_log_probability=-float(nats[0::2].mean()),
        rejected_log_probability=-float(nats[1::2].mean()),
        tokens=sum(answer.tokens for answer in answers) / max(1, len(answers)),
        ended=sum(answer.ended for answer in answers) / max(1, len(answers)),
    )


def wilson(share: float, count: int) -> tuple[float, float]:
    """Return the 95% interval of a share of `count` (Wilson 1927)."""
    squared = _NORMAL**2 / count
    middle = share + squared / 2
    width = _NORMAL * math.sqrt(share * (1 - share) / count + squared / (4 * count))
    return max(0.0, (middle - width) / (1 + squared)), min(1.0, (middle + width) / (1 + squared))


def read_results(folder: Path) -> list[PairResult]:
    """Return the table `results` of the stage folder."""
    rows = pq.ParquetFile(folder / "results" / "part-00000.parquet").read().to_pylist()
    return [PairResult(**row) for row in rows]


def before_and_after(results: Sequence[PairResult]) -> Table:
    """Return the table of all models, a column for each."""
    before, *others = results
    wins = [
        f"{before.win_rate:.0%}",
        *(f"{one.win_rate:.0%} ({one.win_low:.0%} to {one.win_high:.0%})" for one in others),
    ]
    rows = [
        ["win rate (95% interval)", *wins],
        ["reward margin", *(f"{one.reward_margin:.3f}" for one in results)],
        ["chosen more likely", *(f"{one.chosen_more_likely:.0%}" for one in results)],
        ["loss of chosen answers", *(f"{one.chosen_loss:.4f}" for one in results)],
        ["loss of rejected answers", *(f"{one.rejected_loss:.4f}" for one in results)],
        ["log-probability of chosen", *(f"{one.chosen_log_probability:.2f}" for one in results)],
        ["log-probability of rejected", *(f"{one.rejected_log_probability:.2f}" for one in results)],
        ["tokens of its answers", *(f"{one.tokens:.0f}" for one in results)],
        ["answers ended", *(f"{one.ended:.0%}" for one in results)],
    ]
    return Table(["metric", *(one.model for one in results)], rows)


def html(folder: Path, curve: Path) -> str:
    """Return the page of the stage folder, with the PNG `curve` of the training."""
    rows = pq.ParquetFile(folder / "samples" / "part-00000.parquet").read().to_pylist()[:_SHOWN]
    samples: list[Block] = [
        SideBySide(
            row["question"],
            [
                ("chosen", row["author"], ""),
                ("rejected", row["rejected"], ""),
                ("before", row["before"], note(row["before_ended"])),
                ("after", row["after"], note(row["after_ended"])),
            ],
        )
        for row in rows
    ]
    sections = [
        Section("Before and after", [before_and_after(read_results(folder))]),
        Section("Training", [Picture(curve.read_bytes(), "Loss on training and held-out pairs, and speed")]),
        Section("Answers to held-out prompts", samples),
        Section("Method", [Lines(_METHOD)]),
    ]
    return as_html("Preference optimization", sections)
