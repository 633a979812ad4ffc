"""The contestants of `benchmarks.training`: each takes steps and measures its bits per byte of held-out text."""

import math
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from benchmarks.training_peers import CONTEXT, VOCABULARY, GPT2Style, NanochatLoop, PlainLoop, llama
from homegrown.config.model import ModelSettings
from homegrown.config.pipelines import load_recipe
from homegrown.config.training import TrainingSettings
from homegrown.data.loader import Batches, TokenSplit
from homegrown.model.config import ModelConfig
from homegrown.model.transformer import Transformer
from homegrown.planning import scaling_rules as rules
from homegrown.tokenizer.loading import load, token_bytes
from homegrown.training import trainer
from homegrown.training.callbacks import standard
from homegrown.training.distributed import Worker
from homegrown.training.initialisation import choose
from homegrown.training.job import PROGRESS
from homegrown.training.precision import choose_precision
from homegrown.training.pretraining import Job
from homegrown.training.progress_file import Report
from homegrown.training.schedule import lr_share
from homegrown.training.stopping import Stop

SEED = 1
BATCH = 4
"""Batch size of the peers: small ones are best for them in so little time."""
NANOCHAT_TOKENS_PER_SECOND = 5000
"""About what two cores of a processor with bf16 do; its rule for decay asks for the tokens of the run."""
HELD_OUT_WINDOWS = 134
_MANY = 100_000
"""More steps than any contestant takes: the time is divided into so many when a learning rate follows the clock."""

ADAMW = {"optimizer": "adamw", "learning_rate": 3e-3, "batch_size": 4}
"""AdamW's best in benchmarks/results/sweeps.md."""
GUIDE = {
    "initialisation": "random",
    "optimizer": "adamw",
    "batch_size": 8,
    "learning_rate": 5e-5,
    "schedule": "linear",
    "final_learning_rate_share": 0.0,
    "weight_decay": 0.01,
    "beta2": 0.999,
    "dropout": 0.1,
}
"""The guide's learning rate and schedule, and the other defaults of the trainer that it uses."""
RULED = (
    *("batch_size", "learning_rate", "matrix_learning_rate", "momentum", "weight_decay", "dropout"),
    *("orthogonalization_steps", "averaging", "final_learning_rate_share"),
)
"""The settings of the rules that do not follow from the number of steps, which a clock decides here."""
CLASSIC = {"family": "classic", "kv_heads": 4, "feed_forward": 1024}


def processor_seconds() -> float:
    """Return the processor time of this process per thread: its wall time on an idle machine."""
    return time.process_time() / torch.get_num_threads()


class Contestant(Protocol):
    """A contestant; `gone` is the share of its time that it has used, which the benchmark updates.

    `spent` is what it used before its first step, in seconds, to begin with better weights than random ones.
    """

    gone: float
    spent: float

    def steps(self) -> Iterator[int]:
        """Take one training step for each value, the number of its tokens."""

    def bits_per_byte(self) -> float:
        """Return the loss on the held-out windows, the same for all."""


def build(name: str, data: Path, seconds: float) -> Contestant:
    """Return a contestant that is ready to train on the shards in `data` for `seconds`."""
    torch.manual_seed(SEED)
    kind, _, rate = name.partition("-")
    if kind == "nanogpt":
        gpt2 = GPT2Style()
        return Peer(data, PlainLoop(gpt2, gpt2, float(rate)))
    if kind == "nanochat":
        multiple, _, batch = rate.partition("x")
        tokens = seconds * NANOCHAT_TOKENS_PER_SECOND
        return Peer(data, NanochatLoop(float(multiple), int(batch), tokens), int(batch))
    if kind == "llama":
        model = llama()
        return Peer(data, PlainLoop(model, lambda tokens: model(tokens, use_cache=False).logits, 1e-3))
    changes: dict[str, dict[str, Any]] = {"modern": {}, "modern-adamw": ADAMW, "classic": GUIDE}
    if name == "modern-auto":
        return Ours(data, {}, by_rules(data, seconds), seconds=seconds)
    return Ours(data, CLASSIC if name == "classic" else {}, changes[name], seconds=seconds)


def by_rules(data: Path, seconds: float) -> dict[str, Any]:
    """Return the settings that the rules of `run auto` give `tiny`'s model for as many tokens as fit the time."""
    tiny, once = load_recipe("tiny"), TokenSplit(data / "packed", "train").tokens
    tokens = seconds * _tokens_per_second(tiny.new_model, tiny.training.batch_size)
    chosen = rules.training(tiny.training, tiny.new_model, VOCABULARY, tokens, once, device="cpu", devices=1)
    return chosen.model_dump(include={*RULED})


class HeldOut:
    """The windows of the validation split that measure all contestants, spread evenly over it."""

    def __init__(self, data: Path):
        split = TokenSplit(data / "packed", "validation")
        windows = min(HELD_OUT_WINDOWS, split.windows(CONTEXT))
        chosen = np.linspace(0, split.windows(CONTEXT) - 1, windows).round().astype(np.int64)
        self._windows = split.read(chosen, CONTEXT)
        self._bytes = int(token_bytes(load(data / "tokenizer"))[self._windows[:, 1:]].sum())

    @torch.no_grad()
    def bits_per_byte(self, model: torch.nn.Module, nats: Callable[[Tensor], Tensor]) -> float:
        """Return the bits per byte of a model whose summed loss on windows is `nats`."""
        model.eval()
        total = math.fsum(float(nats(rows)) for rows in torch.split(torch.from_numpy(self._windows), 8))
        model.train()
        return total / math.log(2) / self._bytes


class Peer:
    """A model in a loop of its own, on the batches of ours."""

    def __init__(self, data: Path, loop: PlainLoop | NanochatLoop, batch: int = BATCH):
        self.gone = self.spent = 0.0
        self._loop, self._held_out, self._batch = loop, HeldOut(data), batch
        self._batches = Batches(TokenSplit(data / "packed", "train"), CONTEXT, batch, SEED)

    def steps(self) -> Iterator[int]:
        """Train without end."""
        step = 0
        while True:
            self._loop.step(torch.from_numpy(self._batches.batch(step)), self.gone)
            step += 1
            yield self._batch * CONTEXT

    def bits_per_byte(self) -> float:
        """Measure the current model."""
        return self._held_out.bits_per_byte(self._loop.model, self._loop.nats)


class Ours:
    """The engine's own loop, with the settings of the recipe `tiny` except the given ones."""

    def __init__(
        self, data: Path, model: dict[str, Any], training: dict[str, Any], steps: int | None = None, seconds: float = 0
    ):
        """Train for `steps`; by default, until `seconds` are over, with a learning rate that follows `gone`."""
        self.gone = 0.0
        self._held_out, tiny = HeldOut(data), load_recipe("tiny")
        by_clock, steps = steps is None, steps or _MANY
        changes = {
            "max_steps": steps,
            "warmup_steps": round(steps * tiny.training.warmup_steps / tiny.training.max_steps),
            "validate_every": steps + 1,
            "checkpoint_every": steps + 1,
            "sample_every": steps + 1,
            "sample_prompts": [],
            "compile": "never",
        }
        settings = {**tiny.training.model_dump(), **training, **changes}
        settings["micro_batch_size"] = math.gcd(settings["batch_size"], tiny.training.batch_size)
        shape = ModelSettings.model_validate({**tiny.new_model.model_dump(), **model})
        if by_clock:
            batch_tokens = settings["batch_size"] * shape.context
            steps = max(1, round(seconds * _tokens_per_second(shape, settings["batch_size"]) / batch_tokens))
            expected = TrainingSettings.model_validate({**settings, "max_steps": steps, "warmup_steps": 0})
            config = ModelConfig.from_settings(shape, VOCABULARY, dropout=0.0)
            settings["initialisation"] = choose(expected, config, TokenSplit(data / "packed", "train").tokens)
        began = processor_seconds()
        job = Job(
            packed=data / "packed",
            tokenizer=data / "tokenizer",
            model=shape,
            training=TrainingSettings.model_validate(settings),
            seed=SEED,
            device="cpu",
        )
        self._batch_tokens = job.training.batch_size * job.model.context
        if by_clock:
            setattr(trainer, "lr_share", self._lr_share)  # noqa: B010 (by the clock instead of steps)
        self._folder = Path(tempfile.mkdtemp())
        report = Report(self._folder / PROGRESS)
        self._trainer = trainer.Trainer(job, self._folder, only_worker(self._folder), report, standard())
        self.spent = processor_seconds() - began if self._trainer.task.embedding_lr_share < 1 else 0.0

    def _lr_share(self, step: int, settings: TrainingSettings) -> float:
        return lr_share(max(1, math.ceil(min(1.0, self.gone) * _MANY)), settings)

    def steps(self) -> Iterator[int]:
        """Train with the engine's own loop."""
        self._trainer.start()
        for _ in self._trainer.steps(Stop()):
            yield self._batch_tokens

    def bits_per_byte(self) -> float:
        """Measure the current model."""

        def nats(windows: Tensor) -> Tensor:
            with self._trainer.precision.autocast():
                return self._trainer.model.loss(windows[:, :-1], windows[:, 1:])

        with self._trainer.averaged():
            return self._held_out.bits_per_byte(self._trainer.model, nats)


def _tokens_per_second(shape: ModelSettings, batch: int) -> float:
    """Return a model's approximate speed, in the type it trains in: how many steps there will be, rules ask for."""
    model = Transformer(ModelConfig.from_settings(shape, VOCABULARY, dropout=0.0))
    precision = choose_precision("auto", "cpu")
    model.initialize()
    windows = torch.randint(VOCABULARY, (batch, shape.context + 1))
    took = []
    for _ in range(3):
        began = processor_seconds()
        with precision.autocast():
            loss = model.loss(windows[:, :-1], windows[:, 1:])
        torch.autograd.backward(loss)
        took.append(processor_seconds() - began)
    return batch * shape.context / min(took)


def only_worker(folder: Path, device: str = "cpu") -> Worker:
    """Return the one worker of a training in this process."""
    place = {"RANK": 0, "WORLD_SIZE": 1, "LOCAL_RANK": 0, "LOCAL_WORLD_SIZE": 1}
    os.environ.update({name: str(value) for name, value in place.items()})
    worker = Worker(device)
    worker.join(folder)
    return worker
