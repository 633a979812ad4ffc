"""Counting models on the same held-out text."""

from pathlib import Path

from homegrown.data.loader import TokenSplit
from homegrown.evaluation.costs import Costs
from homegrown.evaluation.examination import Examination
from homegrown.evaluation.ngrams import five_gram_costs, unigram_costs


def counting_models(packed: Path, examination: Examination) -> dict[str, Costs]:
    """Return the costs of unigrams and 5-grams, counted on the training split in the folder `packed`, by name."""
    train, text, targets = TokenSplit(packed, "train"), examination.held_out.tokens(), examination.targets
    return {
        "unigram": examination.costs(unigram_costs(train, text[targets])),
        "5-gram": examination.costs(five_gram_costs(train, text, targets, examination.known)),
    }
