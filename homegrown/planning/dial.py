"""The dial of `homegrown run auto`: the best recipe for a time, a size or a number of tokens."""

import bz2
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import pyarrow.parquet as pq

from homegrown.config.model import ModelSettings
from homegrown.config.recipe import Recipe
from homegrown.config.training import TrainingSettings
from homegrown.model.config import ModelConfig
from homegrown.planning import scaling_rules as rules
from homegrown.planning.cost import ASSUMED_UTILISATION
from homegrown.planning.gpus import Gpu
from homegrown.planning.layouts import layouts
from homegrown.planning.machine import Machine
from homegrown.planning.speed import Speed
from homegrown.planning.target import this_machine_as_target
from homegrown.planning.text import bytes_per_token, text_of
from homegrown.reporting.blocks import Table
from homegrown.reporting.numbers import count, duration, file_size
from homegrown.store.artifacts import Store
from homegrown.util.elsewhere import opened, parts_of
from homegrown.util.errors import UserError

_SECONDS = {"s": 1, "m": 60, "min": 60, "h": 3600, "d": 86400}
_THOUSANDS = {"": 1.0, "k": 1e3, "m": 1e6, "b": 1e9, "t": 1e12}
_SAMPLE_BYTES, _SAMPLE_VOCABULARY = 1_000_000, 2048
_NEARLY = 1.002
_FORWARD_SHARE = 1 / 3
"""Share of a forward pass in the operations of a training step."""


@dataclass(frozen=True)
class Budget:
    """What the user gives: seconds of training, parameters, tokens; at least one, not seconds and tokens both."""

    seconds: float | None = None
    parameters: float | None = None
    tokens: float | None = None

    @classmethod
    def of(cls, time: str | None, size: str | None, tokens: str | None) -> "Budget":
        """Return the budget of texts such as 45m, 1h30m; 30M; 2.5B.

        Raises:
            UserError: one cannot be read, or the combination is not a budget.
        """
        if time and tokens:
            raise UserError(f"--time {time} and --tokens {tokens} contradict each other; leave one of them out.")
        if not (time or size or tokens):
            raise UserError("The pipeline auto needs a budget; set --time (45m), --size (30M) or --tokens (100M).")
        return cls(
            _seconds(time) if time else None,
            _number("--size", size) if size else None,
            _number("--tokens", tokens) if tokens else None,
        )


def _seconds(time: str) -> float:
    parts = re.fullmatch(r"(?:\d+(?:\.\d+)?\s*(?:s|min|m|h|d)\s*)+", time.strip().lower())
    pairs = re.findall(r"(\d+(?:\.\d+)?)\s*(s|min|m|h|d)", parts[0]) if parts else []
    seconds = sum(float(number) * _SECONDS[unit] for number, unit in pairs)
    if not seconds:
        raise UserError(f"--time {time} is not a duration; write 90s, 45m, 1h30m or 2d.")
    return seconds


def _number(option: str, value: str) -> float:
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmbt]?)", value.strip().lower().replace(",", ""))
    number = float(found[1]) * _THOUSANDS[found[2]] if found else 0.0
    if not number:
        raise UserError(f"{option} {value} is not a number; write 500k, 30M or 1.5B.")
    return number


@dataclass(frozen=True)
class TextFacts:
    """The training text: its bytes, counted or estimated, and its bits per byte by bz2, None before it is read.

    `token_bytes` is the ratio of its bytes per token to the usual ones of English text.
    """

    train_bytes: float
    counted: bool
    bz2_bits: float | None
    token_bytes: float = 1.0

    def bytes_per_token(self, vocabulary: int) -> float:
        """Return the bytes per token to expect with a vocabulary."""
        return self.token_bytes * bytes_per_token(vocabulary)


def facts(shards: Path, train_bytes: int) -> TextFacts:
    """Return the facts of a text from the folder of the stage `shard`; bz2 and BPE compress its first megabyte."""
    from homegrown.tokenizer import train

    parts: list[bytes] = []
    size = 0
    for text in _texts(shards / "train"):
        parts.append(text.encode()[: _SAMPLE_BYTES - size])
        size += len(parts[-1])
        if size >= _SAMPLE_BYTES:
            break
    bits = 8 * len(bz2.compress(b"".join(parts))) / max(1, size)
    ratio = 1.0
    if size >= _SAMPLE_BYTES // 2:  # of less text, a vocabulary is the text itself
        texts = [part.decode(errors="ignore") for part in parts]
        ratio = train.bytes_per_token(texts, _SAMPLE_VOCABULARY) / bytes_per_token(_SAMPLE_VOCABULARY)
    return TextFacts(train_bytes, counted=True, bz2_bits=bits, token_bytes=ratio)


def estimated(store: Store, recipe: Recipe) -> TextFacts:
    """Return the facts of a text that no run has read yet, from the size of its sources.

    Raises:
        UserError: the size is not known before ingest has read the sources.
    """
    text = text_of(store, recipe, recipe.tokenizer.vocabulary_size)
    if text.tokens is None:
        raise UserError("The size of the text is unknown; run `homegrown run auto --until shard` with it first.")
    return TextFacts(text.tokens * bytes_per_token(recipe.tokenizer.vocabulary_size), counted=False, bz2_bits=None)


def _texts(folder: Path) -> Iterator[str]:
    for path in parts_of(folder):
        for batch in pq.ParquetFile(opened(path)).iter_batches(256, columns=["text"]):
            yield from batch.column(0).to_pylist()


class Reason(NamedTuple):
    """A choice: what it is about, what was chosen, and why."""

    what: str
    chosen: str
    why: str


@dataclass(frozen=True)
class Dialed:
    """A recipe with what it is expected to take and to reach; `reasons` has what was chosen and why.

    `where` is the device that it was chosen for.
    """

    recipe: Recipe
    seconds: float
    bits_per_byte: float
    parameters: int
    tokens: int
    epochs: float
    reasons: list[Reason]
    where: str


@dataclass(frozen=True)
class Candidate:
    """A training of one size within the budget."""

    model: ModelSettings
    config: ModelConfig
    training: TrainingSettings
    seconds: float
    bits_per_byte: float
    text_bytes: float
    epochs: float

    @property
    def tokens(self) -> int:
        """Tokens to train on."""
        return self.training.max_steps * self.training.batch_size * self.config.context


def dial(
    recipe: Recipe, budget: Budget, text: TextFacts, speed: Speed, machine: Machine, gpu: Gpu | None = None
) -> Dialed:
    """Return the recipe with size, vocabulary, context and training chosen for the budget.

    `speed` and `machine` are those of a `gpu` that is not at hand, if it is given. Of all sizes that fit the memory,
    the recipe has the one with the lowest expected loss in the given time.

    Raises:
        UserError: no model fits the budget and the memory, or the text is empty.
    """
    if text.train_bytes < 1:
        raise UserError("The training text is empty; `homegrown report corpus` shows what was dropped.")
    of_sizes = [of_size(depth, recipe, budget, text, speed, machine) for depth in rules.DEPTHS]
    candidates = [one for one in of_sizes if one is not None]
    if wanted := budget.parameters or (budget.tokens or 0) / rules.compute_optimal(1):
        candidates = sorted(candidates, key=lambda one: abs(math.log(one.config.parameter_count() / wanted)))[:1]
    candidates = [one for one in candidates if _fits(recipe, one, machine)]
    if not candidates:
        given = "the smallest model" if budget.parameters is None else "a model of this --size"
        raise UserError(f"Time or memory do not suffice for {given}; set a longer --time or a smaller --size.")
    # The smallest of those that promise nearly the same: it takes less memory and answers sooner.
    least = min(one.bits_per_byte for one in candidates)
    best = next(one for one in candidates if one.bits_per_byte <= _NEARLY * least)
    tokenizer = recipe.tokenizer.model_copy(update={"vocabulary_size": best.config.vocabulary_size})
    chosen = recipe.model_copy(update={"model": best.model, "training": best.training, "tokenizer": tokenizer})
    return Dialed(
        recipe=Recipe.model_validate(chosen.model_dump()),
        seconds=best.seconds,
        bits_per_byte=best.bits_per_byte,
        parameters=best.config.parameter_count(),
        tokens=best.tokens,
        epochs=best.epochs,
        reasons=_reasons(best, candidates, budget, text, gpu),
        where=gpu.name if gpu else "this machine",
    )


def table(found: Dialed) -> Table:
    """Return what was chosen and why as a table."""
    title = f"The recipe for {duration(found.seconds)} of training on {found.where}"
    return Table(["", "chosen", "because"], [list(reason) for reason in found.reasons], align="lll", title=title)


def of_size(
    depth: int, recipe: Recipe, budget: Budget, text: TextFacts, speed: Speed, machine: Machine
) -> Candidate | None:
    """Return the best training of a model of this depth within the budget; None if the time is too short."""
    found = []
    for vocabulary in rules.vocabulary_sizes(text.train_bytes, epochs=1):
        one = _longest(depth, vocabulary, recipe, budget, text, speed, machine)
        if one and vocabulary in rules.vocabulary_sizes(min(text.train_bytes, one.text_bytes), one.epochs):
            found.append(one)
    # Vocabularies that promise the same: the largest, whose tokens are the fewest.
    return min(found, key=lambda one: (round(one.bits_per_byte, 3), -one.config.vocabulary_size), default=None)


def _longest(
    depth: int, vocabulary: int, recipe: Recipe, budget: Budget, text: TextFacts, speed: Speed, machine: Machine
) -> Candidate | None:
    """Return the training on as many tokens as the budget allows; None if the time is too short."""

    def on(tokens: float) -> Candidate:
        return _training(depth, vocabulary, recipe, tokens, text, speed, machine)

    if budget.seconds is None:
        return on(budget.tokens or rules.compute_optimal(budget.parameters or 0.0))
    low, high = 0.0, math.log(rules.MOST_EPOCHS * text.train_bytes)
    if on(1).seconds > budget.seconds:
        return None
    for _ in range(25):
        middle = (low + high) / 2
        if on(math.exp(middle)).seconds > budget.seconds:
            high = middle
        else:
            low = middle
    found = on(math.exp(low))
    return found if found.training.max_steps >= rules.LEAST_STEPS else None


def _training(
    depth: int, vocabulary: int, recipe: Recipe, tokens: float, text: TextFacts, speed: Speed, machine: Machine
) -> Candidate:
    """Return the training of a model of this depth on so many tokens, or on fewer if the text has not enough."""
    once = text.train_bytes / text.bytes_per_token(vocabulary)
    tokens = min(tokens, rules.MOST_EPOCHS * once)
    model, devices = rules.shape(depth, tokens / once), recipe.compute.processes
    training = rules.training(
        recipe.training, model, vocabulary, tokens, once, device=machine.device(recipe.compute.device), devices=devices
    )
    config = ModelConfig.from_settings(model, vocabulary, training.dropout)
    step, step_tokens = speed.step_seconds(config, training, devices), training.batch_size * model.context
    validations = -(-training.max_steps // training.validate_every)
    validating = validations * training.validation_tokens * _FORWARD_SHARE * step / step_tokens
    taken = training.max_steps * step_tokens
    text_bytes = taken * text.bytes_per_token(vocabulary)
    return Candidate(
        model=model,
        config=config,
        training=training,
        seconds=speed.seconds_to_first_step + training.max_steps * step + validating,
        bits_per_byte=rules.promised_loss(config, text_bytes, text.train_bytes, text.bz2_bits or rules.REFERENCE),
        text_bytes=text_bytes,
        epochs=taken / once,
    )


def _fits(recipe: Recipe, one: Candidate, machine: Machine) -> bool:
    """Return whether the training fits the memory of the recipe's device."""
    made = recipe.model_copy(update={"training": one.training})
    target = this_machine_as_target(machine, made, watts=None)
    return layouts(made, one.config, target.device, target.value_bytes, target.count, target.memory_bytes)[0].fits


def _reasons(
    best: Candidate, candidates: list[Candidate], budget: Budget, text: TextFacts, gpu: Gpu | None
) -> list[Reason]:
    model, training, tokens = best.model, best.training, best.tokens
    others = sorted(candidates, key=lambda one: one.bits_per_byte)[1:3]
    beside = ", ".join(
        f"{count(one.config.parameter_count())} {one.bits_per_byte:.2f}"
        for one in sorted(others, key=lambda one: one.config.parameter_count())
    )
    why_size = (
        "as given" if budget.parameters else "20 tokens per parameter" if budget.tokens else "lowest loss in time"
    )
    known = "counted" if text.counted else "estimated; counted in a run"
    timed = "training with validations, on an idle machine"
    if gpu is not None:
        timed = f"assumed: {ASSUMED_UTILISATION:.0%} of {gpu.teraflops:g} TFLOP/s each"
    limited = best.epochs > 0.99 * rules.MOST_EPOCHS
    return [
        Reason("text", file_size(text.train_bytes), known),
        Reason(
            "size",
            f"{count(best.config.parameter_count())}, {model.layers} layers of {model.hidden}",
            "as given" if budget.parameters else why_size + (f" (bits per byte of others: {beside})" if beside else ""),
        ),
        Reason("vocabulary", f"{best.config.vocabulary_size:,}", "lowest loss in time for this text"),
        Reason("context", f"{model.context:,}", "for this width"),
        Reason(
            "training",
            f"{count(tokens)} tokens, {best.epochs:.2g} epochs",
            f"more than {rules.MOST_EPOCHS:g} epochs gain nothing" if limited else "what the budget allows",
        ),
        Reason("batch", f"{training.batch_size * model.context:,} tokens, {training.max_steps:,} steps", "by tokens"),
        Reason(
            "rates",
            f"Muon {training.matrix_learning_rate:g}, AdamW {training.learning_rate:g}",
            "by tokens; by width",
        ),
        Reason("decay", f"{training.weight_decay:g}", "time constant: a share of the run"),
        Reason("dropout", f"{training.dropout:g}", "by epochs"),
        Reason("averaging", f"{training.averaging or 'none'}", "by epochs: share of the steps"),
        Reason("schedule", f"{training.schedule}, {training.warmup_steps} steps of warm-up", "best at every size"),
        Reason("expected loss", f"{best.bits_per_byte:.2f} bits per byte", _loss_source(text)),
        Reason("expected time", duration(best.seconds), timed),
    ]


def _loss_source(text: TextFacts) -> str:
    if text.bz2_bits is None:
        return "for text like Wikipedia; yours in a run"
    return f"measured curve, for text of {text.bz2_bits:.2f} bits per byte by bz2"
