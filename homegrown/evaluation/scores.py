"""The metrics of one row of the results, with their intervals."""

from collections.abc import Sequence

import numpy as np

from homegrown.evaluation.bootstrap import Interval, mean_interval
from homegrown.evaluation.costs import Costs
from homegrown.evaluation.diversity import distinct_share, repeated_share, self_bleu
from homegrown.evaluation.examination import Examination
from homegrown.evaluation.memorization import Match
from homegrown.evaluation.overlap import bleu, bleu_interval, bleu_of_one, rouge
from homegrown.evaluation.results import Continuation

Figures = dict[str, float | int | None]
"""Values of the fields of a `Result`."""


def of_costs(costs: Costs, base: Costs | None, seed: int) -> Figures:
    """Return bits per byte, perplexity, and the difference to `base`."""
    figures: Figures = {
        "bits_per_byte": costs.bits_per_byte,
        "perplexity": costs.perplexity,
        **_named("bits_per_byte", costs.interval(seed)),
    }
    if base is not None:
        difference, interval = costs.above(base, seed)
        figures |= {"difference": difference, **_named("difference", interval)}
    return figures


def of_continuations(rows: Sequence[Continuation], seed: int) -> Figures:
    """Return BLEU and ROUGE of all completions of a variant."""
    references, texts = [row.reference for row in rows], [row.continuation for row in rows]
    figures: Figures = {"bleu": bleu(references, texts), **_named("bleu", bleu_interval(references, texts, seed))}
    for name, column in (("sentence_bleu", "bleu"), *((name, name) for name in _ROUGE)):
        values = np.array([getattr(row, column) for row in rows])
        figures |= {name: float(values.mean()), **_named(name, mean_interval(values, seed))}
    return figures


def of_text(sequences: Sequence[Sequence[int]], texts: Sequence[str], matches: Sequence[Match]) -> Figures:
    """Return how much the texts repeat themselves, each other, and the training data."""
    lengths = [match.length for match in matches]
    return {
        "repeated_4grams": repeated_share(sequences, 4),
        "distinct_1": distinct_share(sequences, 1),
        "distinct_2": distinct_share(sequences, 2),
        "self_bleu": self_bleu(texts),
        "memorised_median": float(np.median(lengths)),
        "memorised_mean": float(np.mean(lengths)),
        "memorised_longest": max(lengths),
    }


def compare(
    variant: str,
    examination: Examination,
    written: Sequence[Sequence[int]],
    matches: Sequence[Match],
    references: Sequence[Match],
) -> list[Continuation]:
    """Return the rows of a variant's completions; `references` are the matches of the documents themselves."""
    held_out, encoding, rows = examination.held_out, examination.encoding, []
    for number, (task, tokens) in enumerate(zip(examination.tasks, written, strict=True)):
        reference, text = encoding.decode(task.reference), encoding.decode(list(tokens))
        overlap = rouge(reference, text)
        rows.append(
            Continuation(
                variant=variant,
                document=number,
                id=held_out.ids[task.document],
                source=held_out.sources[task.document],
                prompt=encoding.decode(task.prompt),
                reference=reference,
                continuation=text,
                bleu=bleu_of_one(reference, text),
                rouge_1=overlap.rouge_1,
                rouge_2=overlap.rouge_2,
                rouge_l=overlap.rouge_l,
                rouge_lsum=overlap.rouge_lsum,
                memorised=matches[number].length,
                reference_memorised=references[number].length,
            )
        )
    return rows


_ROUGE = ("rouge_1", "rouge_2", "rouge_l", "rouge_lsum")


def _named(name: str, interval: Interval | None) -> Figures:
    return {f"{name}_low": interval.low, f"{name}_high": interval.high} if interval else {}
