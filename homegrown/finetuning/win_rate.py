"""Before and after DPO: the base and the trained model on held-out pairs."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from homegrown.config.finetune_recipe import PairSettings
from homegrown.data.loader import TokenSplit
from homegrown.finetuning.answers import AFTER, BEFORE, Answer, greedy_answers
from homegrown.finetuning.dpo import in_rows
from homegrown.finetuning.pairs import answer_nats
from homegrown.finetuning.questions import held_out_pairs
from homegrown.model import weights
from homegrown.model.transformer import Transformer
from homegrown.reporting.blocks import Block, Lines, Picture, Section, SideBySide, Table
from homegrown.reporting.html import as_html
from homegrown.tokenizer.chat import load_chat
from homegrown.util.files import write_parquet
from homegrown.util.progress import Metric, Outcome, Progress, silent

Numbers = npt.NDArray[np.float64]

_ROWS = 4  # in a forward pass
_SHOWN = 12
_METHOD = (
    "Win rate: share of held-out pairs whose chosen answer the model prefers more strongly than the base does, by the "
    "margin log p(chosen) - log p(rejected) less that of the base; a tie counts half.",
    "More likely: share of pairs with log p(chosen) > log p(rejected). Loss: nats per token of each answer.",
    "Tokens and ended: mean length of the model's greedy answers, and share that reach a stop token.",
)


@dataclass(frozen=True)
class PairResult:
    """Measurements of one model on held-out pairs; a row of the table `results`. `margin` is in nats."""

    model: str
    win_rate: float
    more_likely: float
    margin: float
    chosen_loss: float
    rejected_loss: float
    tokens: float
    ended: float


def measure(
    out: Path,
    models: dict[str, Path],
    preferences: Path,
    settings: PairSettings,
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
    for done, (name, folder) in enumerate(models.items()):
        progress(done, len(models), model=name)
        model = weights.load(folder, device)
        answers[name] = greedy_answers(model, load_chat(folder), questions, settings.answer_tokens)
        nats, lengths = _nats(model, preferences)
        base = nats if base is None else base
        results.append(_result(name, nats, lengths, base, answers[name]))
    write_parquet(out / "results" / "part-00000.parquet", pa.Table.from_pylist([asdict(row) for row in results]))
    samples = [
        {
            "prompt": question.text,
            "chosen": question.reference.content,
            "rejected": rejected.content,
            **{name: answers[name][place].text for name in (BEFORE, AFTER)},
        }
        for place, (question, rejected) in enumerate(pairs)
    ]
    write_parquet(out / "samples" / "part-00000.parquet", pa.Table.from_pylist(samples))
    metrics: dict[str, Metric] = {}
    for row in results:
        values = {name: value for name, value in asdict(row).items() if name != "model"}
        metrics |= {f"{row.model.replace('-', '_')}_{name}": value for name, value in values.items()}
    return Outcome(TokenSplit(preferences, "validation").documents // 2, len(results), "models", metrics)


@torch.inference_mode()
def _nats(model: Transformer, preferences: Path) -> tuple[Numbers, Numbers]:
    """Return -log p and the tokens of each held-out answer, [2 x pairs], chosen and rejected by turns."""
    split = TokenSplit(preferences, "validation")
    context = split.context or 0
    model = in_rows(model, context)
    sums, lengths = [], []
    for start in range(0, split.windows(context), _ROWS):
        rows = range(start, min(split.windows(context), start + _ROWS))
        windows = torch.from_numpy(split.read(rows, context)).to(model.device)
        nats = answer_nats(model, windows)
        sums.append(nats.sums.double().cpu().numpy())
        lengths.append(np.bincount(nats.answer.cpu().numpy(), minlength=len(nats.sums)).astype(np.float64))
    return np.concatenate(sums), np.concatenate(lengths)


def _result(name: str, nats: Numbers, lengths: Numbers, base: Numbers, answers: Sequence[Answer]) -> PairResult:
    gained = base - nats
    margin = gained[0::2] - gained[1::2]
    return PairResult(
        model=name,
        win_rate=float(((margin > 0) + 0.5 * (margin == 0)).mean()),
        more_likely=float((nats[0::2] < nats[1::2]).mean()),
        margin=float(margin.mean()),
        chosen_loss=float(nats[0::2].sum() / lengths[0::2].sum()),
        rejected_loss=float(nats[1::2].sum() / lengths[1::2].sum()),
        tokens=sum(answer.tokens for answer in answers) / max(1, len(answers)),
        ended=sum(answer.ended for answer in answers) / max(1, len(answers)),
    )


def read_results(folder: Path) -> list[PairResult]:
    """Return the table `results` of the stage folder."""
    rows = pq.ParquetFile(folder / "results" / "part-00000.parquet").read().to_pylist()
    return [PairResult(**row) for row in rows]


def before_and_after(results: Sequence[PairResult]) -> Table:
    """Return the table of all models."""
    header = ["model", "win rate", "more likely", "margin", "loss: chosen", "rejected", "tokens", "ended"]
    rows = [
        [
            row.model,
            f"{row.win_rate:.0%}",
            f"{row.more_likely:.0%}",
            f"{row.margin:.3f}",
            f"{row.chosen_loss:.4f}",
            f"{row.rejected_loss:.4f}",
            f"{row.tokens:.0f}",
            f"{row.ended:.0%}",
        ]
        for row in results
    ]
    return Table(header, rows)


def html(folder: Path, curve: Path) -> str:
    """Return the page of the stage folder, with the PNG `curve` of the training."""
    rows = pq.ParquetFile(folder / "samples" / "part-00000.parquet").read().to_pylist()[:_SHOWN]
    names = (("chosen", "chosen"), ("rejected", "rejected"), ("before", BEFORE), ("after", AFTER))
    samples: list[Block] = [
        SideBySide(row["prompt"], [(title, row[name], "") for title, name in names]) for row in rows
    ]
    sections = [
        Section("Before and after", [before_and_after(read_results(folder))]),
        Section("Training", [Picture(curve.read_bytes(), "Loss on training and held-out pairs, and speed")]),
        Section("Answers to held-out prompts", samples),
        Section("Method", [Lines(_METHOD)]),
    ]
    return as_html("Preference optimization", sections)
