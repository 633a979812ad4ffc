"""The dial of `homegrown run auto`: the best recipe for a time, a size or a number of tokens."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

from homegrown.config.evaluation import EvaluationSettings
from homegrown.config.model import ModelSettings
from homegrown.config.recipe import Recipe
from homegrown.config.training import TrainingSettings
from homegrown.model.config import ModelConfig
from homegrown.planning import scaling_rules as rules
from homegrown.planning.budget import Budget
from homegrown.planning.compute import hidden_parameters
from homegrown.planning.cost import ASSUMED_UTILISATION
from homegrown.planning.gpus import Gpu
from homegrown.planning.layouts import layouts
from homegrown.planning.machine import Machine
from homegrown.planning.speed import Speed
from homegrown.planning.target import this_machine_as_target
from homegrown.planning.text import bytes_per_token
from homegrown.planning.text_facts import TextFacts
from homegrown.reporting.blocks import Table
from homegrown.reporting.numbers import count, duration, file_size
from homegrown.util.errors import UserError

_ENDLESS = 1e15
_NEARLY = 1.002
_FORWARD_SHARE = 1 / 3
"""Share of a forward pass in the operations of a training step."""
_LIKE = 1.25
"""Ratio of a model's size to the wanted one up to which it counts as that size."""
_MEASURED_WEIGHTS, _MEASURED_TOKENS, _MEASURED_BYTES = (0.29e6, 19e6), (0.08e6, 6e6), 10e3
"""Hidden weights, tokens and fewest bytes of text of the trainings that the rules are fitted to
(benchmarks/results/scaling.csv, `python -m benchmarks.dial --little`)."""
_LITTLE = 0.5e6
"""Bytes of text below which the loss to expect is that of parts of books."""
_SAMPLED, _SPARE = 4.0, 2.0
"""Ratio of a text to what a training reads of it from which documents are sampled, and the ratio that is left."""
_PROMPT, _LEAST_PROMPT = 4 / 7, 2
"""Share of the prompt in a completion of the evaluation, as in `tiny`, and its fewest tokens."""


class Reason(NamedTuple):
    """A choice: what it is about, what was chosen, and why."""

    what: str
    chosen: str
    why: str


@dataclass(frozen=True)
class Choice:
    """A recipe with the time that it is expected to take; `reasons` has what was chosen and why.

    `where` is the device that it was chosen for.
    """

    recipe: Recipe
    seconds: float
    reasons: list[Reason]
    where: str


@dataclass(frozen=True)
class Dialed(Choice):
    """The choice of a new model, with what it is expected to reach."""

    bits_per_byte: float
    least_and_most: tuple[float, float]
    """Bits per byte between which the loss is expected; equal for text like that of the measurements."""
    parameters: int
    tokens: int
    epochs: float

    @property
    def expected_loss(self) -> str:
        """Return the expected bits per byte, or between which ones they are expected."""
        return _loss(self.bits_per_byte, self.least_and_most)

    def without(self, dropped: dict[str, int]) -> "Dialed":
        """Return it with the documents that each stage dropped in the row of the text."""
        counts = ", ".join(f"{stage} {number:,}" for stage, number in dropped.items() if number)
        if not counts:
            return self
        text, *others = self.reasons
        why = f"{text.why}; documents dropped: {counts} (`homegrown report corpus` shows them)"
        return replace(self, reasons=[text._replace(why=why), *others])

    def beside(self, starter: float, command: str) -> "Dialed":
        """Return it beside the bits per byte of the starter on the text; `command` trains that further."""
        why = "more than is expected above; the end of the run compares them"
        if starter < self.bits_per_byte:
            why = f"before it reads any of your text; `{command}` trains it further"
        row = Reason("the starter", f"{starter:.2f} bits per byte", why)
        return replace(self, reasons=[*self.reasons, row])


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
    recipe: Recipe,
    budget: Budget,
    text: TextFacts,
    speed: Speed,
    machine: Machine,
    gpu: Gpu | None = None,
    change: Callable[[Recipe], Recipe] = lambda chosen: chosen,
) -> Dialed:
    """Return the recipe with size, vocabulary, context and training chosen for the budget, and then changed.

    `speed` and `machine` are those of a `gpu` that is not at hand, if it is given. Of all sizes that fit the memory,
    the recipe has the one with the lowest expected loss in the given time. `change` returns the recipe with a user's
    own settings of what is chosen; the expectations are those of its sizes and steps.

    Raises:
        UserError: no model fits the budget and the memory, or the text is too little.
    """
    if text.train_bytes < 1:
        raise UserError("The training text is empty; `homegrown report corpus` shows what was dropped.")
    candidates = _of_budget(recipe, budget, text, speed, machine)
    fitting = [one for one in candidates if _fits(recipe, one, machine)]
    if not fitting:
        raise UserError(
            f"The memory does not suffice to train {count(candidates[0].config.parameter_count())} parameters on "
            f"{gpu.name if gpu else 'this machine'}; set a smaller {'--tokens' if budget.tokens else '--size'}."
        )
    # The smallest of those that promise nearly the same: it takes less memory and answers sooner.
    least = min(one.bits_per_byte for one in fitting)
    best = next(one for one in fitting if one.bits_per_byte <= _NEARLY * least)
    tokenizer = recipe.tokenizer.model_copy(update={"vocabulary_size": best.config.vocabulary_size})
    chosen = recipe.model_copy(
        update={
            "model": best.model,
            "training": best.training,
            "tokenizer": tokenizer,
            "evaluation": _evaluation(recipe.evaluation, best, text),
        }
    )
    chosen = Recipe.model_validate(chosen.model_dump())
    final = change(chosen)
    if final != chosen:
        best = _priced(final.new_model, final.tokenizer.vocabulary_size, final.training, recipe, text, speed)
    return Dialed(
        recipe=final,
        seconds=best.seconds,
        bits_per_byte=best.bits_per_byte,
        least_and_most=_least_and_most(best, text),
        parameters=best.config.parameter_count(),
        tokens=best.tokens,
        epochs=best.epochs,
        reasons=_reasons(best, fitting, budget, text, speed, gpu, recipe, chosen, final),
        where=gpu.name if gpu else "this machine",
    )


def sample_share(text_bytes: float, recipe: Recipe, budget: Budget, speed: Speed, machine: Machine) -> float:
    """Return the share of the documents to read: 1 unless the text is several times what any training here reads."""
    if budget.seconds is None:
        tokens = budget.tokens or rules.compute_optimal(budget.parameters or 0.0)
        read = tokens * bytes_per_token(rules.VOCABULARIES[-1])
    else:
        endless = TextFacts(_ENDLESS, counted=False, bz2_bits=None)
        found = [_longest(rules.DEPTHS[0], one, recipe, budget, endless, speed, machine) for one in rules.VOCABULARIES]
        read = max((one.text_bytes for one in found if one is not None), default=math.inf)
    return 1.0 if text_bytes <= _SAMPLED * read else float(f"{_SPARE * read / text_bytes:.2g}")


def _of_budget(recipe: Recipe, budget: Budget, text: TextFacts, speed: Speed, machine: Machine) -> list[Candidate]:
    """Return the trainings within the budget, from the smallest model on: of the given size only, if there is one.

    Raises:
        UserError: none takes so little time, or the text is too little for the fewest steps.
    """
    if budget.parameters is not None:
        wanted = budget.parameters
    elif budget.tokens is not None:
        # What is beyond 15 readings of the text is not read, and so needs no larger model.
        most = rules.MOST_EPOCHS * text.train_bytes / text.bytes_per_token(rules.VOCABULARIES[-1])
        wanted = min(budget.tokens, most) / rules.compute_optimal(1)
    else:
        of_sizes = [of_size(depth, recipe, budget, text, speed, machine) for depth in rules.DEPTHS]
        found = [one for one in of_sizes if one is not None]
        if not found:
            raise _too_little(recipe, budget, text, speed, machine)
        return found

    def distance(size: int) -> float:
        return abs(math.log(size / wanted))

    sizes = {
        (depth, vocabulary): ModelConfig.from_settings(rules.shape(depth), vocabulary, 0.0).parameter_count()
        for depth in rules.DEPTHS
        for vocabulary in rules.vocabulary_sizes(text.train_bytes, epochs=1)
    }
    alike = [one for one, size in sizes.items() if distance(size) <= math.log(_LIKE)]
    alike = alike or [min(sizes, key=lambda one: distance(sizes[one]))]
    trained = [_longest(depth, vocabulary, recipe, budget, text, speed, machine) for depth, vocabulary in alike]
    found = [one for one in trained if one is not None]
    if not found:
        raise _too_little(recipe, budget, text, speed, machine, alike[0])
    least = min(found, key=lambda one: (round(one.bits_per_byte, 3), -one.config.vocabulary_size))
    return [least]


def _too_little(
    recipe: Recipe,
    budget: Budget,
    text: TextFacts,
    speed: Speed,
    machine: Machine,
    sized: tuple[int, int] = (rules.DEPTHS[0], rules.VOCABULARIES[0]),
) -> UserError:
    """Return the error of a text or a time that is too little for the fewest steps of a depth and a vocabulary."""
    depth, vocabulary = sized
    once = text.train_bytes / text.bytes_per_token(vocabulary)
    most = _training(depth, vocabulary, recipe, math.inf, text, speed, machine)
    if most.training.max_steps < rules.LEAST_STEPS:
        needed = text.train_bytes * rules.LEAST_STEPS / most.training.max_steps
        return UserError(
            f"The text is too little: {rules.MOST_EPOCHS:g} readings of its {file_size(text.train_bytes)} to train on "
            f"are {most.training.max_steps} steps, not {rules.LEAST_STEPS}; add text, about {file_size(needed)} in all."
        )
    least = most
    low, high = math.log(1024), math.log(rules.MOST_EPOCHS * once)
    while high - low > 0.01:  # the fewest tokens with enough steps
        middle = (low + high) / 2
        one = _training(depth, vocabulary, recipe, math.exp(middle), text, speed, machine)
        if one.training.max_steps < rules.LEAST_STEPS:
            low = middle
        else:
            high, least = middle, one
    what = f"{count(least.config.parameter_count())} parameters"
    what = what if budget.parameters else f"the smallest model, {what}"
    smaller = "a smaller --size" if budget.parameters else "--size with --tokens for fewer steps"
    return UserError(
        f"--time is too short for {what}: {rules.LEAST_STEPS} steps take {duration(least.seconds)} here; set a longer "
        f"--time, or {smaller}."
    )


def _evaluation(settings: EvaluationSettings, best: Candidate, text: TextFacts) -> EvaluationSettings:
    """Return the settings with shorter completions where no test document is long enough for them."""
    if text.longest_test is None:
        return settings
    # Twice the usual bytes for each token: those of one document can differ from the mean.
    most = int(text.longest_test / (2 * text.bytes_per_token(best.config.vocabulary_size)))
    if settings.prompt_tokens + settings.continuation_tokens <= most:
        return settings
    prompt = max(_LEAST_PROMPT, int(most * _PROMPT))
    return settings.model_copy(update={"prompt_tokens": prompt, "continuation_tokens": max(1, most - prompt)})


def table(found: Choice) -> Table:
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
    return _priced(model, vocabulary, training, recipe, text, speed)


def _priced(
    model: ModelSettings,
    vocabulary: int,
    training: TrainingSettings,
    recipe: Recipe,
    text: TextFacts,
    speed: Speed,
) -> Candidate:
    """Return a training with the time and the loss to expect of it."""
    devices, once = recipe.compute.processes, text.train_bytes / text.bytes_per_token(vocabulary)
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


def _schedule(training: TrainingSettings) -> str:
    end = f" to {training.final_learning_rate_share:g}" if training.final_learning_rate_share else ""
    return f"{training.schedule}{end}, {training.warmup_steps} steps of warm-up"


def _fits(recipe: Recipe, one: Candidate, machine: Machine) -> bool:
    """Return whether the training fits the memory of the recipe's device."""
    made = recipe.model_copy(update={"training": one.training})
    target = this_machine_as_target(machine, made, watts=None)
    return layouts(made, one.config, target.device, target.value_bytes, target.count, target.memory_bytes)[0].fits


_CHOSEN = {
    "size": ("model.hidden", "model.layers", "model.feed_forward", "model.heads", "model.kv_heads", "model.tied"),
    "vocabulary": ("tokenizer.vocabulary_size", "tokenizer.path"),
    "context": ("model.context",),
    "training": ("training.max_steps",),
    "batch": ("training.batch_size",),
    "rates": ("training.learning_rate", "training.matrix_learning_rate", "training.optimizer"),
    "decay": ("training.weight_decay",),
    "dropout": ("training.dropout",),
    "averaging": ("training.averaging",),
    "schedule": ("training.schedule", "training.warmup_steps", "training.final_learning_rate_share"),
}
"""The settings of each row of the table."""
_OF_LOSS = ("rates", "decay", "dropout", "averaging", "schedule")
"""Rows that the expected loss does not follow if they are changed."""


def _reasons(
    best: Candidate,
    candidates: list[Candidate],
    budget: Budget,
    text: TextFacts,
    speed: Speed,
    gpu: Gpu | None,
    given: Recipe,
    chosen: Recipe,
    final: Recipe,
) -> list[Reason]:
    """Return the rows of the table; `given` is the recipe before the choice, `final` the one with own settings."""
    model, training, tokens, evaluation = best.model, best.training, best.tokens, final.evaluation
    others = sorted(candidates, key=lambda one: one.bits_per_byte)[1:3]
    beside = ", ".join(
        f"{count(one.config.parameter_count())} {one.bits_per_byte:.2f}"
        for one in sorted(others, key=lambda one: one.config.parameter_count())
    )
    why_size = "lowest loss in time" + (f" (bits per byte of others: {beside})" if beside else "")
    if budget.tokens:
        why_size = "20 tokens per parameter"
    if budget.parameters:
        near = 1 / _LIKE <= best.config.parameter_count() / budget.parameters <= _LIKE
        why_size = "as given" if near else f"the nearest to {count(budget.parameters)}"
    timed = "training with validations, on an idle machine"
    if speed.busy:
        timed += "; it was busy when it was measured"
    if gpu is not None:
        timed = f"assumed: {ASSUMED_UTILISATION:.0%} of {gpu.teraflops:g} TFLOP/s each"
    why_tokens = "what the budget allows"
    if best.epochs > 0.99 * rules.MOST_EPOCHS:
        wanted = f"; {count(budget.tokens)} were given" if budget.tokens and budget.tokens > 1.01 * tokens else ""
        why_tokens = f"more than {rules.MOST_EPOCHS:g} epochs gain nothing{wanted}"
    elif budget.tokens and tokens > 1.5 * budget.tokens:
        why_tokens = f"the fewest steps; {count(budget.tokens)} were given"
    rows = [
        Reason("text", file_size(text.train_bytes), "counted" if text.counted else "estimated; counted in a run"),
        Reason("size", f"{count(best.config.parameter_count())}, {model.layers} layers of {model.hidden}", why_size),
        Reason("vocabulary", f"{best.config.vocabulary_size:,}", "lowest loss in time for this text"),
        Reason("context", f"{model.context:,}", "for this width"),
        Reason("training", f"{count(tokens)} tokens, {best.epochs:.2g} epochs", why_tokens),
        Reason("batch", f"{training.batch_size * model.context:,} tokens, {training.max_steps:,} steps", "by tokens"),
        Reason(
            "rates",
            f"Muon {training.matrix_learning_rate:g}, AdamW {training.learning_rate:g}",
            "by tokens; by width",
        ),
        Reason("decay", f"{training.weight_decay:g}", "time constant: a share of the run"),
        Reason("dropout", f"{training.dropout:g}", "by epochs"),
        Reason("averaging", f"{training.averaging or 'none'}", "by epochs: share of the steps"),
        Reason("schedule", _schedule(training), "best at every size"),
    ]
    before, after = _named(chosen), _named(final)
    own = {row: [name for name in names if before[name] != after[name]] for row, names in _CHOSEN.items()}
    rows = [
        Reason(row.what, row.chosen, "changed: " + ", ".join(own[row.what])) if own.get(row.what) else row
        for row in rows
    ]
    if evaluation != given.evaluation:
        lengths = f"{evaluation.prompt_tokens} tokens and {evaluation.continuation_tokens} to complete"
        rows.append(Reason("evaluation", lengths, "test documents are short"))
    unfollowed = ", ".join(row for row in _OF_LOSS if own[row])
    return [
        *rows,
        Reason(
            "expected loss",
            f"{_loss(best.bits_per_byte, _least_and_most(best, text))} bits per byte",
            _loss_source(best, text, unfollowed),
        ),
        Reason("expected time", duration(best.seconds), timed),
    ]


def _least_and_most(best: Candidate, text: TextFacts) -> tuple[float, float]:
    """Return the bits per byte between which the loss is expected; before the text is read, that of Wikipedia."""
    bits = text.bz2_bits or rules.REFERENCE
    return rules.promised_range(best.bits_per_byte, text.train_bytes, bits, text.foreign, text.unlike)


def _loss(bits_per_byte: float, least_and_most: tuple[float, float]) -> str:
    least, most = least_and_most
    return f"{bits_per_byte:.2f}" if least == most else f"{least:.2f} to {most:.2f}"


def _loss_source(best: Candidate, text: TextFacts, unfollowed: str) -> str:
    """Return what the expected loss comes from, and what it leaves out: `unfollowed`, or an unmeasured size."""
    source = "for text like Wikipedia; yours in a run"
    if text.bz2_bits is not None:
        source = f"measured curve, for text of {text.bz2_bits:.2f} bits per byte by bz2"
        least, most = _least_and_most(best, text)
        if not rules.is_measured(text.train_bytes, text.bz2_bits, text.foreign):
            source += "; measured for English and German prose, unlike yours"
        elif least != most:
            source += "; the few held-out documents are unlike the rest"
        elif text.train_bytes < _LITTLE:
            source += "; three books of this length were within 5%, a third of each held out"
    if unfollowed:
        source += f"; for the chosen {unfollowed}"
    weights, (few, many) = hidden_parameters(best.config), _MEASURED_WEIGHTS
    fewest, most = _MEASURED_TOKENS
    if not (few <= weights <= many and fewest <= best.tokens <= most and text.train_bytes >= _MEASURED_BYTES):
        source += (
            f"; extrapolated: measured for {count(few)} to {count(many)} hidden weights, {count(fewest)} to "
            f"{count(most)} tokens and {file_size(_MEASURED_BYTES)} of text or more"
        )
    return source


def _named(recipe: Recipe) -> dict[str, object]:
    """Return the values of the settings of the table's rows by their names."""
    values = recipe.model_dump()
    paths = [name.split(".") for names in _CHOSEN.values() for name in names]
    return {f"{group}.{name}": values[group][name] for group, name in paths}
