"""Levers of training that change no architecture, one training each: what each gains over the engine as it is.

    python -m benchmarks.levers [NAME ...] [--text wikipedia] [--tokens 3000000] [--vocabulary 4096] [--depth 4]
                                [--seed 1] [--repeat]

Without a NAME it trains the levers that the table lacks, `baseline` first. Settings are those that
`homegrown.planning.scaling_rules` gives for so many tokens, with a final rate of 0; `--depth 4` is `tiny`'s model,
`--depth 2` has half its width and layers. Each lever is a variant in this file, put in place of the engine's own for
one process. One thread; losses by tokens do not depend on the machine's load. Rows are added to
benchmarks/results/levers.csv; one that is there is trained again only with `--repeat`.

Needs ../shared/corpora beside the repository. The last line is one JSON object: bits per byte of each lever less those
of `baseline` with the same seed.
"""

import argparse
import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from benchmarks.measuring import CORPORA, add_row, rows_of
from benchmarks.scaling import VALIDATION_TOKENS, in_a_process, tokens_of, train_once
from benchmarks.training import TEXTS
from homegrown.config.pipelines import load_recipe
from homegrown.config.training import TrainingSettings
from homegrown.data.loader import Batches, Tokens, TokenSplit
from homegrown.data.rows import NO_TARGET, parts
from homegrown.model.loss import linear_cross_entropy
from homegrown.planning import scaling_rules
from homegrown.training import muon, next_token, trainer
from homegrown.training.muon import Muon
from homegrown.training.next_token import NextToken
from homegrown.training.optimizer import optimizers
from homegrown.training.schedule import lr_share
from homegrown.training.worker import prepare_environment

TABLE = Path(__file__).parent / "results" / "levers.csv"
SETTINGS = ["lever", "text", "tokens", "vocabulary", "depth", "seed"]
COLUMNS = [*SETTINGS, "epochs", "bits_per_byte", "cpu_seconds"]
BASELINE = "baseline"

Row = dict[str, str]
Change = Callable[[list[Optimizer], "Clock"], None]


@dataclass
class Clock:
    """How far a training is: the step in progress, counted from 1, of how many."""

    steps: int
    step: int = 0

    @property
    def share(self) -> float:
        """The share of the training that is over."""
        return (self.step - 1) / self.steps


@dataclass(frozen=True)
class Lever:
    """A variant of training: changed settings, optimizers, objective, batches or numbers of steps."""

    settings: dict[str, Any] = field(default_factory=dict)
    change: Change | None = None
    objective: "Callable[[Clock], type[NextToken]] | None" = None
    batches: type[Batches] | None = None


# --- optimizers -------------------------------------------------------------------------------------------------------


def nor_muon(made: list[Optimizer], _: Clock) -> None:
    """Divide each row of an orthogonal update by the root of its mean square's average (Li et al., arXiv 2510.05491).

    The update keeps its norm.
    """
    hidden = next(one for one in made if isinstance(one, Muon))
    decay, averages = 0.95, hidden.state
    batch: list[Tensor] = []
    move, orthogonal = hidden._move, muon.orthogonal

    def remember(matrices: Sequence[Tensor], directions: Sequence[Tensor], group: dict[str, Any]) -> None:
        batch[:] = matrices
        move(matrices, directions, group)

    def evened(matrices: Sequence[Tensor], steps: int, dtype: torch.dtype) -> list[Tensor]:
        updates = orthogonal(matrices, steps, dtype)
        for place, (matrix, update) in enumerate(zip(batch, updates, strict=True)):
            squares = update.float().square().mean(1, keepdim=True)
            average = averages[matrix].setdefault("rows", torch.zeros_like(squares)).lerp_(squares, 1 - decay)
            even = update / (average.sqrt() + 1e-8)
            updates[place] = even * (update.norm() / even.norm())
        return updates

    hidden._move = remember  # type: ignore[method-assign]
    muon.orthogonal = evened


def cautious_decay(made: list[Optimizer], _: Clock) -> None:
    """Decay only weights that the update moves towards 0 anyway (Chen et al., arXiv 2510.12402)."""
    for optimizer in made:
        decays = [group["weight_decay"] for group in optimizer.param_groups]
        for group in optimizer.param_groups:
            group["weight_decay"] = 0.0
        before: list[list[Tensor]] = []

        def remember(optimizer: Optimizer, *_: Any, before: list[list[Tensor]] = before) -> None:
            before[:] = [[one.detach().clone() for one in group["params"]] for group in optimizer.param_groups]

        @torch.no_grad()
        def decay(
            optimizer: Optimizer, *_: Any, before: list[list[Tensor]] = before, decays: list[float] = decays
        ) -> None:
            for group, olds, share in zip(optimizer.param_groups, before, decays, strict=True):
                for weight, old in zip(group["params"], olds, strict=True) if share else ():
                    inwards = (weight - old) * old <= 0
                    weight.sub_(old * inwards, alpha=group["lr"] * share)

        optimizer.register_step_pre_hook(remember)
        optimizer.register_step_post_hook(decay)


def cautious_decay_of_hidden(made: list[Optimizer], clock: Clock) -> None:
    """Decay only hidden matrices cautiously, all else as before."""
    cautious_decay([one for one in made if isinstance(one, Muon)], clock)


def half_decay(made: list[Optimizer], _: Clock) -> None:
    """Halve the decay: about what `cautious_decay` leaves of it."""
    for group in (group for optimizer in made for group in optimizer.param_groups):
        group["weight_decay"] /= 2


def embedding_without_decay(made: list[Optimizer], _: Clock) -> None:
    """Decay the hidden matrices only."""
    made[0].param_groups[0]["weight_decay"] = 0.0


def ema_nesterov(made: list[Optimizer], clock: Clock) -> None:
    """Step from where the average of the last updates leads (Yau et al., arXiv 2605.25395), until the last third."""
    smooth, ahead = 0.95, 0.5
    weights = [one for optimizer in made for group in optimizer.param_groups for one in group["params"]]
    trends = [torch.zeros_like(one) for one in weights]
    begins = [one.detach().clone() for one in weights]

    @torch.no_grad()
    def look_ahead(*_: Any) -> None:
        moves = torch._foreach_sub(weights, begins)
        torch._foreach_lerp_(trends, moves, 1 - smooth)
        torch._foreach_copy_(begins, weights)
        if clock.share < 2 / 3:
            torch._foreach_add_(weights, trends, alpha=ahead)

    made[-1].register_step_post_hook(look_ahead)


# --- what is predicted ------------------------------------------------------------------------------------------------


def two_tokens(clock: Clock) -> type[NextToken]:
    """Predict the token after the next as well, with a weight that falls from 0.25 to 0 at two thirds.

    Both predictions have one output projection, so the model has no more weights.
    """

    class TwoTokens(NextToken):
        def forward(self, windows: Tensor) -> Tensor:
            weight = 0.25 * (1 - 1.5 * clock.share)
            if weight <= 0 or not torch.is_grad_enabled():
                return super().forward(windows)
            tokens, targets, starts = parts(windows)
            hidden = self.model.hidden_states(tokens, starts=starts).flatten(0, 1)
            later = targets.roll(-1, 1)
            later[:, -1] = NO_TARGET
            output = self.model.output_weight, self.model.output_bias
            first, second = (linear_cross_entropy(hidden, *output, one.flatten()) for one in (targets, later))
            return first + weight * second

    return TwoTokens


def half_windows(clock: Clock) -> type[NextToken]:
    """Halve the windows, which are then twice as many, for the first third of the tokens."""

    class HalfWindows(NextToken):
        def forward(self, windows: Tensor) -> Tensor:
            if clock.share < 1 / 3 and torch.is_grad_enabled():
                half = windows.shape[1] // 2
                windows = torch.cat([windows[:, : half + 1], windows[:, half:]])
            return super().forward(windows)

    return HalfWindows


def counted(_: Clock) -> type[NextToken]:
    """Count the tokens of a batch, whose size changes."""

    class Counted(NextToken):
        def count(self, windows: Tensor) -> Tensor | None:
            _, targets, _ = parts(windows)
            return (targets != NO_TARGET).sum()

    return Counted


# --- batches ----------------------------------------------------------------------------------------------------------


class HalfBatches(Batches):
    """Half the batch for the first third of the tokens, in twice as many steps."""

    def __init__(self, split: TokenSplit, context: int, batch_size: int, seed: int, steps: int):
        super().__init__(split, context, batch_size, seed)
        self._half, self._small = batch_size // 2, steps // 2

    def batch(self, step: int) -> Tokens:
        """See `Batches`."""
        begin = step * self._half if step < self._small else (step - self._small // 2) * self._half * 2
        size = self._half if step < self._small else 2 * self._half
        return self._split.read_at([self._start(number) for number in range(begin, begin + size)], self._context + 1)


LEVERS = {
    BASELINE: Lever(),
    "normuon": Lever(change=nor_muon),
    "cautious-decay": Lever(change=cautious_decay),
    "half-decay": Lever(change=half_decay),
    "embedding-without-decay": Lever(change=embedding_without_decay),
    "final-rate-0.05": Lever({"final_learning_rate_share": 0.05}),
    "final-rate-0.1": Lever({"final_learning_rate_share": 0.1}),
    "final-rate-0.1-cautious-decay": Lever({"final_learning_rate_share": 0.1}, change=cautious_decay),
    "final-rate-0.1-cautious-hidden": Lever({"final_learning_rate_share": 0.1}, change=cautious_decay_of_hidden),
    "final-rate-0.1-half-decay": Lever({"final_learning_rate_share": 0.1}, change=half_decay),
    "final-rate-0.1-half-batches": Lever({"final_learning_rate_share": 0.1}, objective=counted, batches=HalfBatches),
    "ema-nesterov": Lever(change=ema_nesterov),
    "two-tokens": Lever(objective=two_tokens),
    "half-batches": Lever(objective=counted, batches=HalfBatches),
    # Spikes are not looked for: the loss jumps where the windows become long.
    "half-windows": Lever({"spike_deviations": None}, objective=half_windows),
    "average-0.06": Lever({"averaging": 0.06}),
}


# --- trainings --------------------------------------------------------------------------------------------------------


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"levers: {', '.join(LEVERS)}")
    parser.add_argument("--text", choices=list(TEXTS), default="wikipedia", help="text to train on (default wikipedia)")
    parser.add_argument("--tokens", type=int, default=3_000_000, help="tokens to train on (default 3,000,000)")
    parser.add_argument("--vocabulary", type=int, default=4096, help="tokens of the vocabulary (default 4,096)")
    parser.add_argument("--depth", type=int, default=4, help="layers, each 64 wide (default 4)")
    parser.add_argument("--seed", type=int, default=1, help="seed of weights and batches (default 1)")
    parser.add_argument("--repeat", action="store_true", help="train rows of the table again")
    arguments = parser.parse_intermixed_args()
    if unknown := set(arguments.names) - set(LEVERS):
        raise SystemExit(f"{', '.join(sorted(unknown))}: unknown; levers are {', '.join(LEVERS)}.")
    if not CORPORA.is_dir():
        raise SystemExit(f"{CORPORA} is missing; this benchmark needs its texts.")
    prepare_environment()
    base = {name: str(getattr(arguments, name)) for name in SETTINGS[1:]}
    names = dict.fromkeys([BASELINE, *(arguments.names or LEVERS)])
    found: dict[str, float] = {}
    for name in names:
        wanted = {"lever": name, **base}
        row = next((one for one in reversed(rows_of(TABLE)) if wanted.items() <= one.items()), None)
        if row is None or (arguments.repeat and name in arguments.names):
            row = in_a_process(measured, wanted)
            add_row(TABLE, COLUMNS, row)
        found[name] = float(row["bits_per_byte"])
        print(f"{name:24} {found[name]:.4f} {found[name] - found[BASELINE]:+.4f} {row['cpu_seconds']:>6} s", flush=True)
    print(json.dumps({name: round(bits - found[BASELINE], 4) for name, bits in found.items() if name != BASELINE}))


def measured(row: Row) -> Row:
    """Train a row, in a process of its own, and return it with its results."""
    lever, tokens, vocabulary = LEVERS[row["lever"]], int(row["tokens"]), int(row["vocabulary"])
    data = tokens_of(row["text"], vocabulary)
    different = TokenSplit(data / "packed", "train").tokens
    model = scaling_rules.shape(int(row["depth"]), tokens / different)
    base = load_recipe("tiny").training
    rules = scaling_rules.training(base, model, vocabulary, tokens, different, device="cpu", devices=1)
    steps = rules.max_steps * 4 // 3 if lever.batches is HalfBatches else rules.max_steps
    alone = {"max_steps": steps, "validate_every": steps, "validation_tokens": VALIDATION_TOKENS, "patience": None}
    common = rules.model_dump() | alone | {"final_learning_rate_share": 0.0}
    settings = TrainingSettings.model_validate(common | lever.settings)
    with tempfile.TemporaryDirectory() as folder, in_place(lever, settings):
        trained = train_once(data, model, settings, Path(folder), seed=int(row["seed"]))
    epochs, bits, seconds = f"{tokens / different:.2f}", f"{trained.bits_per_byte:.4f}", f"{trained.seconds:.0f}"
    return row | {"epochs": epochs, "bits_per_byte": bits, "cpu_seconds": seconds}


@contextmanager
def in_place(lever: Lever, settings: TrainingSettings) -> Iterator[None]:
    """Put a lever in place of the engine's own functions and classes for the block."""
    clock = Clock(settings.max_steps)

    def share(step: int, settings: TrainingSettings) -> float:
        clock.step = step
        if lever.batches is not HalfBatches:
            return lr_share(step, settings)
        # By tokens, and in small batches less by the root.
        small, steps = settings.max_steps // 2, settings.max_steps
        gone = step / 2 if step <= small else step - small / 2
        return lr_share(round(gone * steps / (steps - small / 2)), settings) * (0.5**0.5 if step <= small else 1.0)

    def made(model: nn.Module, settings: TrainingSettings, embedding_lr_share: float) -> list[Optimizer]:
        built = optimizers(model, settings, embedding_lr_share)
        if lever.change:
            lever.change(built, clock)
        return built

    with ExitStack() as patches:
        patches.enter_context(patch.object(trainer, "lr_share", share))
        patches.enter_context(patch.object(trainer, "optimizers", made))
        if lever.objective:
            patches.enter_context(patch.object(next_token, "NextToken", lever.objective(clock)))
        if lever.batches:
            patches.enter_context(patch.object(trainer, "Batches", lever.batches))
        yield


if __name__ == "__main__":
    main()
