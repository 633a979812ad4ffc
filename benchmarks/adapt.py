"""Continued pretraining beside its peers: `python -m benchmarks.adapt`.

The base is SmolLM2-135M-Instruct from the extra `starter`. It learns documents of the installed packages, and a novel:
by our adapter, by all weights, and by peft's adapter on transformers in a plain loop, in float32 and in bfloat16.
`tiny` learns the same text from scratch. Each contestant trains for the same processor seconds, in a process of its
own, whose peak memory is reported, on the same batches of the same tokens. All results are measured by our evaluation,
on the same held-out documents. The last line is JSON: the figures of the documentation, and the gain on the novel.
"""

import argparse
import dataclasses
import json
import math
import shutil
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from benchmarks.measuring import CORPORA, cpu_seconds, measured, table
from homegrown.config.adaptation import AdaptationSettings
from homegrown.config.pipelines import load_recipe
from homegrown.config.recipe import Recipe
from homegrown.config.tokens import PackSettings
from homegrown.config.training import TrainingSettings
from homegrown.data.loader import Batches, TokenSplit
from homegrown.evaluation.costs import Costs, by_document
from homegrown.evaluation.heldout import open_held_out
from homegrown.evaluation.perplexity import predict
from homegrown.evaluation.windows import slide, thin
from homegrown.model import weights
from homegrown.model.transformer import Transformer
from homegrown.tokenizer.loading import load, token_bytes
from homegrown.util.seeds import derive

SEED, CONTEXT, BATCH, RATE = 1, 512, 4, 1e-3
FULL_RATE = 5e-5
HELD_OUT_TOKENS = 12_000
NOVEL = "chesterton-thursday.txt"
_MANY = 100_000  # steps: the clock ends a run, not their number


class Learned(NamedTuple):
    """What a contestant reports: its speed, its loss on the first batch before any update, and the cost of its text."""

    tokens: int
    tokens_per_second: float
    first_loss: float
    costs: Costs


def main(seconds: float, threads: int, texts: list[str]) -> None:
    """Run all contestants on each text, and print a table of each."""
    found: dict[str, float | bool | None] = {}
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        base = prepare_base(work / "base")
        for text in texts:
            data = prepare(work / text, text, base)
            found |= contest(text, data, base, seconds, threads)
    print(json.dumps(found))


def contest(text: str, data: Path, base: Path, seconds: float, threads: int) -> dict[str, float | bool | None]:
    """Run the contestants on a prepared text; return the figures of the last line."""
    before: Costs = measured(evaluate_base, data, base, threads).result
    documentation = text == "documentation"
    contestants: dict[str, Callable[..., Learned]] = {
        "ours, LoRA": partial(_ours, data, base, "lora", RATE, seconds, threads),
        "ours, all weights": partial(_ours, data, base, "full", FULL_RATE, seconds, threads),
        "transformers and peft, float32": partial(_peft, data, base, torch.float32, seconds, threads),
    }
    if documentation:
        contestants["transformers and peft, bfloat16"] = partial(_peft, data, base, torch.bfloat16, seconds, threads)
        contestants["tiny, from scratch"] = partial(_scratch, data, seconds, threads)
    results = {name: measured(one) for name, one in contestants.items()}
    rows = [("the base", "", "", f"{before.bits_per_byte:.4f}", "", "")]
    for name, one in results.items():
        learned: Learned = one.result
        gain = 1 - learned.costs.bits_per_byte / before.bits_per_byte
        rows.append(
            (
                name,
                f"{learned.tokens:,}",
                f"{learned.tokens_per_second:,.0f}",
                f"{learned.costs.bits_per_byte:.4f}",
                f"{gain:+.1%}",
                f"{one.peak_gb:.2f}",
            )
        )
    head = ("what", "tokens", "tokens per processor second", "bits per byte", "gain", "peak GB")
    table(f"{text}, {seconds:.0f} processor seconds each, {threads} threads", head, rows)
    ours, peer = results["ours, LoRA"], results["transformers and peft, float32"]
    gain = 1 - ours.result.costs.bits_per_byte / before.bits_per_byte
    if not documentation:
        return {f"{text}_gain_vs_base": round(gain, 4)}
    _, interval = ours.result.costs.above(before, SEED)
    best = results["transformers and peft, bfloat16"]
    return {
        "gain_vs_base": round(gain, 4),
        "gain_significant": interval.is_significant if interval else None,
        "vs_from_scratch": round(
            ours.result.costs.bits_per_byte / results["tiny, from scratch"].result.costs.bits_per_byte, 4
        ),
        "tokens_per_second_vs_transformers": round(ours.result.tokens_per_second / peer.result.tokens_per_second, 3),
        "tokens_per_second_vs_transformers_bf16": round(
            ours.result.tokens_per_second / best.result.tokens_per_second, 3
        ),
        "peak_memory_vs_transformers": round(ours.peak_gb / peer.peak_gb, 3),
        "first_loss_difference_vs_transformers": float(f"{abs(ours.result.first_loss - peer.result.first_loss):.2g}"),
    }


def prepare_base(folder: Path) -> Path:
    """Import the starter, and write it for transformers too; return the folder of our model."""
    from homegrown.export.bases import read_base
    from homegrown.export.huggingface import write_huggingface

    read_base("starter", folder / "model")
    write_huggingface(folder / "model", folder / "hf", "float32")
    return folder / "model"


def prepare(folder: Path, text: str, base: Path, kilobytes: int | None = None) -> Path:
    """Run the stages of `tiny` up to `pack` on a text, once with the tokenizer of the base and once with its own.

    With `kilobytes`, the text is about so much of it.
    """
    from homegrown.corpus.dedup import dedup
    from homegrown.corpus.filter import filter_documents
    from homegrown.corpus.ingest import ingest
    from homegrown.corpus.shard import shard
    from homegrown.data.packing import pack
    from homegrown.tokenizer.train import train_tokenizer
    from homegrown.util.parallel import process_pool

    recipe = load_recipe("tiny", _changes(folder, text, kilobytes))
    stages = {name: folder / name for name in ("ingest", "dedup", "filter", "shard", "tokenizer", "pack", "tiny")}
    for path in stages.values():
        path.mkdir(parents=True)
    memory = recipe.compute.memory_gb
    with process_pool(0) as executor:
        ingest(stages["ingest"], recipe.ingest, executor=executor)
        dedup(stages["dedup"], stages["ingest"], recipe.dedup, seed=SEED, memory_gb=memory, executor=executor)
        filter_documents(stages["filter"], stages["dedup"], recipe.filter, executor=executor)
        shard(stages["shard"], stages["filter"], recipe.shard, seed=SEED, executor=executor)
        train_tokenizer(stages["tokenizer"], stages["shard"], recipe.tokenizer)
        settings = PackSettings(layout="contiguous")
        pack(stages["pack"], stages["shard"], base, settings, executor=executor)
        pack(stages["tiny"], stages["shard"], stages["tokenizer"], settings, executor=executor)
    return folder


def _changes(folder: Path, text: str, kilobytes: int | None) -> list[str]:
    """Return the source of a text as changes of a recipe; a novel comes in passages of about 3,000 characters."""
    if text == "documentation":
        return [f"ingest.sources=[{{kind: packages, name: packages, limit_mb: {(kilobytes or 4000) / 1000:g}}}]"]
    passages, size = [[]], 0  # type: list[list[str]], int
    for paragraph in (CORPORA / "gutenberg" / NOVEL).read_text(encoding="utf-8").split("\n\n"):
        if size >= 3000:
            passages.append([])
            size = 0
        passages[-1].append(paragraph)
        size += len(paragraph)
    lengths = accumulate(sum(map(len, passage)) for passage in passages)
    passages = [one for one, end in zip(passages, lengths, strict=True) if end <= 1000 * (kilobytes or math.inf)]
    file = folder / "novel.jsonl"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps({"text": "\n\n".join(passage)}) + "\n" for passage in passages))
    sources = f"[{{kind: files, name: novel, path: {json.dumps(str(file))}}}]"
    return [f"ingest.sources={sources}", "shard.test_share=0.1", "tokenizer.vocabulary_size=2048"]


def evaluate_base(data: Path, base: Path, threads: int) -> Costs:
    """Return the cost of the held-out documents before any training."""
    torch.set_num_threads(threads)
    return held_out_costs(weights.load(base, dtype=torch.float32), data, base)


def held_out_costs(model: Transformer, data: Path, base: Path) -> Costs:
    """Return the cost of the held-out documents of a prepared text, in the tokens of the base."""
    return _costs(model, data / "pack", data / "shard", base)


def _costs(model: Transformer, packed: Path, shards: Path, tokenizer: Path) -> Costs:
    """Return the cost of the held-out documents, in sliding windows of the training context."""
    encoding = load(tokenizer)
    held_out = open_held_out(packed, shards, encoding)
    context = min(CONTEXT, model.config.context)
    windows = thin(slide(*held_out.texts(), context, context // 2), HELD_OUT_TOKENS, context // 2)
    sizes = token_bytes(encoding)[held_out.tokens()[windows.targets]].astype("int64")
    return by_document(predict(model.eval(), held_out.split, windows), windows.targets, sizes, held_out.starts)


def _training(rate: float) -> TrainingSettings:
    recipe: Recipe = load_recipe("starter")
    changes = {
        "max_steps": _MANY,
        "batch_size": BATCH,
        "micro_batch_size": 1,
        "learning_rate": rate,
        "warmup_steps": 0,
        "validate_every": _MANY,
        "checkpoint_every": _MANY,
        "sample_every": _MANY,
        "sample_prompts": [],
    }
    return TrainingSettings.model_validate(recipe.training.model_dump() | changes)


def _by_clock(step: Callable[[float], None], seconds: float) -> tuple[int, float]:
    """Call a step with the share of the learning rate until the processor time is spent; return steps and seconds.

    The rate warms up over three steps, then falls in a line with the time that is left.
    """
    began, steps, spent = cpu_seconds(), 0, 0.0
    while spent < seconds:
        step(min(1.0, (steps + 1) / 3) * (1 - spent / seconds))
        steps += 1
        spent = cpu_seconds() - began
    return steps, spent


def _first_loss(model: Callable[[Tensor, Tensor], Tensor], data: Path) -> float:
    """Return the mean loss in nats of the first batch, computed in float32."""
    windows = _batches(data).batch(0)
    tokens = torch.from_numpy(windows[:1])
    with torch.no_grad():
        return float(model(tokens[:, :-1], tokens[:, 1:])) / tokens[:, 1:].numel()


def _batches(data: Path) -> Batches:
    return Batches(TokenSplit(data / "pack", "train"), CONTEXT, BATCH, derive(SEED, "batches"))


def _ours(data: Path, base: Path, method: str, rate: float, seconds: float, threads: int) -> Learned:
    """Train with the engine's own loop."""
    from benchmarks.training_contestants import only_worker
    from homegrown.finetuning.adaptation import AdaptationJob
    from homegrown.training import trainer
    from homegrown.training.callbacks import standard
    from homegrown.training.job import PROGRESS
    from homegrown.training.progress_file import Report
    from homegrown.training.stopping import Stop

    torch.set_num_threads(threads)
    adaptation = AdaptationSettings.model_validate({"method": method, "context": CONTEXT})
    job = AdaptationJob(
        packed=data / "pack",
        tokenizer=base,
        base=base,
        training=_training(rate),
        adaptation=adaptation,
        seed=SEED,
        device="cpu",
    )
    full = weights.load(base, dtype=torch.float32)
    first = _first_loss(full.loss, data)
    del full
    folder = Path(tempfile.mkdtemp())
    share = [0.0]
    setattr(trainer, "lr_share", lambda step, settings: share[0])  # noqa: B010 (by the clock instead of steps)
    run = trainer.Trainer(job, folder, only_worker(folder), Report(folder / PROGRESS), standard())
    run.start()
    steps: Iterator[None] = run.steps(Stop())

    def step(of_rate: float) -> None:
        share[0] = of_rate
        next(steps)

    count, spent = _by_clock(step, seconds)
    run.save()
    run.checkpoints.settle(run.state, required=True)
    run.task.keep(run.checkpoints, run.state.step, folder / "out")
    steps.close()  # type: ignore[attr-defined]
    result = weights.load(folder / "out" / "model", dtype=torch.float32)
    costs = held_out_costs(result, data, base)
    shutil.rmtree(folder)
    tokens = count * BATCH * CONTEXT
    return Learned(tokens, tokens / spent, first, costs)


def _peft(data: Path, base: Path, dtype: torch.dtype, seconds: float, threads: int) -> Learned:
    """Train peft's adapter on transformers' model, with the same settings, in a plain loop."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(threads)
    original = AutoModelForCausalLM.from_pretrained(base.parent / "hf", dtype=torch.float32)

    def nats(inputs: Tensor, targets: Tensor) -> Tensor:
        logits = original(inputs).logits.float()
        return torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="sum")

    first = _first_loss(nats, data)
    settings = AdaptationSettings.model_validate({"method": "lora", "context": CONTEXT})
    adapter = LoraConfig(
        r=settings.rank,
        lora_alpha=int(settings.alpha),
        lora_dropout=settings.dropout,
        target_modules=list(settings.targets),
        task_type="CAUSAL_LM",
    )
    model = get_peft_model(original.to(dtype), adapter)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in trained:
        parameter.data = parameter.data.float()
    training = _training(RATE)
    optimizer = torch.optim.AdamW(
        trained, lr=RATE, betas=(0.9, training.beta2), weight_decay=training.weight_decay, fused=True
    )
    batches, number = _batches(data), 0

    def step(share: float) -> None:
        nonlocal number
        for group in optimizer.param_groups:
            group["lr"] = RATE * share
        for window in torch.split(torch.from_numpy(batches.batch(number)), 1):
            with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
                loss = model(input_ids=window[:, :-1], labels=window[:, :-1]).loss
            torch.autograd.backward(loss / BATCH)
        torch.nn.utils.clip_grad_norm_(trained, training.clip_norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        number += 1

    model.train()
    count, spent = _by_clock(step, seconds)
    merged = model.merge_and_unload().float()
    config = weights.load_config(base / "config.json")
    result = Transformer(dataclasses.replace(config, context=CONTEXT))
    state: dict[str, Any] = merged.state_dict()
    result.load_state_dict({name: state[name] for name in result.state_dict()})
    costs = held_out_costs(result, data, base)
    tokens = count * BATCH * CONTEXT
    return Learned(tokens, tokens / spent, first, costs)


def _scratch(data: Path, seconds: float, threads: int) -> Learned:
    """Train `tiny` on the same text with a tokenizer of its own."""
    from benchmarks.training_contestants import only_worker
    from homegrown.training import trainer
    from homegrown.training.callbacks import standard
    from homegrown.training.job import PROGRESS
    from homegrown.training.pretraining import Job
    from homegrown.training.progress_file import Report
    from homegrown.training.schedule import lr_share
    from homegrown.training.stopping import Stop

    torch.set_num_threads(threads)
    recipe = load_recipe("tiny")
    changes = {
        "max_steps": _MANY,
        "validate_every": _MANY,
        "checkpoint_every": _MANY,
        "sample_every": _MANY,
        "sample_prompts": [],
        "initialisation": "heads",
        "compile": "never",
    }
    training = TrainingSettings.model_validate(recipe.training.model_dump() | changes)
    folder = Path(tempfile.mkdtemp())
    job = Job(
        packed=data / "tiny",
        tokenizer=data / "tokenizer",
        model=recipe.new_model,
        training=training,
        seed=SEED,
        device="cpu",
    )
    gone = [0.0]
    planned = training.model_copy(update={"max_steps": 1000, "warmup_steps": 33})
    setattr(trainer, "lr_share", lambda step, settings: lr_share(max(1, math.ceil(gone[0] * 1000)), planned))  # noqa: B010
    run = trainer.Trainer(job, folder, only_worker(folder), Report(folder / PROGRESS), standard())
    run.start()
    began, count = cpu_seconds(), 0
    for _ in run.steps(Stop()):
        count += 1
        gone[0] = min(1.0, (cpu_seconds() - began) / seconds)
        if gone[0] >= 1:
            break
    spent = cpu_seconds() - began
    costs = _costs(run.model, data / "tiny", data / "shard", data / "tokenizer")
    shutil.rmtree(folder)
    tokens = count * training.batch_size * recipe.context
    return Learned(tokens, tokens / spent, math.nan, costs)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--seconds", type=float, default=240, help="processor seconds of each contestant")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", choices=["documentation", "novel"], action="append")
    arguments = parser.parse_args()
    main(arguments.seconds, arguments.threads, arguments.only or ["documentation", "novel"])
