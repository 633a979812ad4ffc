"""DPO beside the loss of its paper, computed pair by pair; and what training on preferences does."""

import copy
import json
import random
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from torch import Tensor

from homegrown.config.finetune_recipe import (
    ConversationRows,
    DpoSettings,
    PairSettings,
    PreferenceSettings,
    ReferenceSettings,
)
from homegrown.data.conversations import Malformed, pair
from homegrown.data.loader import Batches, TokenSplit
from homegrown.export.huggingface import write_huggingface
from homegrown.finetuning.answers import AFTER, BEFORE
from homegrown.finetuning.base_model import load_base
from homegrown.finetuning.dpo import DpoJob, dpo
from homegrown.finetuning.merge import merge
from homegrown.finetuning.pairs import PreferencePairs
from homegrown.finetuning.reference import prepare
from homegrown.finetuning.win_rate import before_and_after, html, measure, read_results
from homegrown.model import weights
from homegrown.model.transformer import Transformer
from homegrown.tokenizer.chat import Chat, Message, load_chat
from homegrown.training.precision import choose_precision
from homegrown.training.task import keep_model
from homegrown.util.errors import UserError
from homegrown.util.progress import Metric
from tests.corpus.made_up import digests
from tests.finetuning.conversations import loop, training, tuning, write_base
from tests.training.processes import Signalled
from tests.training.side_by_side import Leg, run_here, run_in_two

BETA = 0.3
FP32 = ReferenceSettings(method="full", precision="fp32")


_DPO = """
import sys
from pathlib import Path
from homegrown.config.finetune_recipe import FinetuneTraining
from homegrown.finetuning.dpo import DpoJob, dpo
job = DpoJob.model_validate_json(sys.argv[2])
dpo(Path(sys.argv[1]), job.base, job.packed, job.finetuning, FinetuneTraining(**job.training.model_dump()), job.dpo,
    system=None, seed=job.seed, device=job.device, processes=1)
"""


@dataclass(frozen=True)
class DpoProcess(Signalled):
    """A DPO by one worker."""

    out: Path
    job: DpoJob

    def arguments(self) -> list[str]:
        return [_DPO, str(self.out), self.job.model_dump_json()]


def records(count: int = 40) -> list[dict[str, Any]]:
    """Pairs in TRL's two shapes: the prompt by itself, and inside both answers."""
    dice = random.Random(3)
    found: list[dict[str, Any]] = []
    for number in range(count):
        question, good, bad = f"box {number}?", f"it is red {'red ' * dice.randint(0, 4)}", f"grey {number}"
        if number % 2:
            found.append({"prompt": question, "chosen": good, "rejected": bad, "score": number})
        else:
            asked = {"role": "user", "content": question}
            answers = [[asked, {"role": "assistant", "content": one}] for one in (good, bad)]
            found.append({"chosen": answers[0], "rejected": answers[1]})
    return found


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_base(tmp_path_factory.mktemp("models") / "base")


@pytest.fixture(scope="module")
def packed(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pairs")
    (folder / "data.jsonl").write_text("".join(json.dumps(one) + "\n" for one in records()))
    settings = PreferenceSettings(files=[str(folder / "data.jsonl")], held_out=0.2)
    outcome = prepare(
        folder / "packed", base, settings, rows=ConversationRows(context=64), reference=FP32, device="cpu"
    )
    assert (outcome.rows_in, outcome.rows_out, outcome.metrics["ignored_keys"]) == (40, 40, 1)
    return folder / "packed"


def log_probability(model: Transformer, chat: Chat, question: str, answer: str) -> Tensor:
    """log p of an answer and its stop token after the prompt, token by token, one sequence at a time."""
    prompt = chat.encode([Message("user", question)], reply=True)
    written = [*chat.tokenizer.encode(answer, add_special_tokens=False).ids, chat.turn_end]
    logits = model(torch.tensor([prompt + written]))[0].float()
    chances = torch.log_softmax(logits, -1)
    return sum(chances[len(prompt) + place - 1, token] for place, token in enumerate(written))  # type: ignore[return-value]


def texts(record: dict[str, Any]) -> tuple[str, str, str]:
    if "prompt" in record:
        return record["prompt"], record["chosen"], record["rejected"]
    return record["chosen"][0]["content"], record["chosen"][1]["content"], record["rejected"][1]["content"]


def test_the_loss_is_that_of_the_paper(base: Path, packed: Path) -> None:
    """Equation 7 of Rafailov et al. 2023, over all pairs, of a policy that has moved away from its reference."""
    chat, split = load_chat(base), TokenSplit(packed, "train")
    context = split.context or 0
    reference, policy = weights.load(base), weights.load(base)
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter += 0.02 * torch.randn_like(parameter)
    longer = copy.deepcopy(policy)
    longer.set_context(context)
    validation = {row["messages"][0]["content"] for row in pq.read_table(packed / "held_out").to_pylist()}
    expected = torch.zeros(())
    for record in records():
        question, *answers = texts(record)
        if question in validation:
            continue
        of_policy, of_reference = (
            [log_probability(model, chat, question, answer) for answer in answers] for model in (policy, reference)
        )
        margin = (of_policy[0] - of_policy[1]) - (of_reference[0] - of_reference[1])
        expected = expected - torch.nn.functional.logsigmoid(BETA * margin)
    windows = torch.from_numpy(split.read(range(split.windows(context)), context))
    objective = PreferencePairs(longer, BETA)
    pairs = int(objective.count(windows))
    assert pairs == 40 - len(validation) == split.documents // 2
    loss = objective(windows)
    assert loss.item() / pairs == pytest.approx(expected.item() / pairs, abs=1e-5)
    ours = torch.autograd.grad(loss, list(longer.parameters()))
    theirs = torch.autograd.grad(expected, list(policy.parameters()))
    for one, other in zip(ours, theirs, strict=True):
        assert torch.allclose(one, other, atol=1e-4 * max(1.0, float(other.abs().max())))
    measured = objective.measure(windows)
    assert (measured.terms, measured.loss.item()) == (pairs, pytest.approx(loss.item()))
    # The chosen answers as examples: the mean over their tokens, each pair with the same weight.
    nats = []
    for record in records():
        question, chosen, _ = texts(record)
        if question not in validation:
            nats.append(
                -log_probability(policy, chat, question, chosen)
                / (len(chat.tokenizer.encode(chosen, add_special_tokens=False).ids) + 1)
            )
    supervised = PreferencePairs(longer, BETA, 0.5)(windows)
    assert (supervised - loss).item() == pytest.approx(0.5 * torch.stack(nats).sum().item(), rel=1e-4)


@pytest.mark.slow
def test_the_loss_is_that_of_transformers_on_the_exported_models(base: Path, packed: Path, tmp_path: Path) -> None:
    """A padded batch with a mask of the completions, as TRL makes it, from the export's own chat template."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    policy = weights.load(base)
    torch.manual_seed(2)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter += 0.02 * torch.randn_like(parameter)
    keep_model(policy, base, tmp_path / "policy")
    sums = []
    for name, folder in (("reference", base), ("policy", tmp_path / "policy")):
        write_huggingface(folder, tmp_path / f"hf-{name}", "float32")
        tokenizer = AutoTokenizer.from_pretrained(tmp_path / f"hf-{name}")
        stop = tokenizer.convert_tokens_to_ids("<|im_end|>")
        theirs = AutoModelForCausalLM.from_pretrained(tmp_path / f"hf-{name}").eval()
        sequences, firsts = [], []
        for record in records():
            question, *answers = texts(record)
            asked = {"role": "user", "content": question}
            for answer in answers:
                talk = [asked, {"role": "assistant", "content": answer}]
                ids = tokenizer.apply_chat_template(talk, return_dict=False)
                end = max(place for place, token in enumerate(ids) if token == stop) + 1
                sequences.append(torch.tensor(ids[:end]))
                firsts.append(
                    len(tokenizer.apply_chat_template([asked], add_generation_prompt=True, return_dict=False))
                )
        batch = torch.nn.utils.rnn.pad_sequence(sequences, batch_first=True)
        attention = torch.arange(batch.shape[1]) < torch.tensor([len(one) for one in sequences])[:, None]
        completion = attention & (torch.arange(batch.shape[1]) >= torch.tensor(firsts)[:, None])
        with torch.no_grad():
            logits = theirs(input_ids=batch, attention_mask=attention.long()).logits
        chances = torch.log_softmax(logits[:, :-1].double(), -1).gather(2, batch[:, 1:, None])[..., 0]
        sums.append((chances * completion[:, 1:]).sum(1).numpy().reshape(-1, 2))
    reference, trained = sums
    margins = BETA * ((trained[:, 0] - trained[:, 1]) - (reference[:, 0] - reference[:, 1]))
    losses = np.logaddexp(0.0, -margins)
    found = 0.0
    for split in (TokenSplit(packed, "train"), TokenSplit(packed, "validation")):
        context = split.context or 0
        policy.set_context(context)
        found += PreferencePairs(policy, BETA)(
            torch.from_numpy(split.read(range(split.windows(context)), context))
        ).item()
    assert found / len(losses) == pytest.approx(losses.mean(), abs=1e-5)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_an_adapter_starts_at_the_loss_of_indifference(
    base: Path, tmp_path: Path, precision: Literal["fp32", "bf16"]
) -> None:
    """The base computes its log-probabilities as it does under the adapter: frozen in 16 bits, for example."""
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(one) + "\n" for one in records()))
    settings = PreferenceSettings(files=[str(tmp_path / "data.jsonl")])
    reference = ReferenceSettings(method="lora", precision=precision)
    prepare(tmp_path / "out", base, settings, rows=ConversationRows(context=64), reference=reference, device="cpu")
    split = TokenSplit(tmp_path / "out", "train")
    context = split.context or 0
    config = replace(weights.load_config(base / "config.json"), context=context)
    model = load_base(base, config, tuning("lora"), training(precision=precision), device="cpu", seed=1)
    windows = torch.from_numpy(split.read(range(split.windows(context)), context))
    objective = PreferencePairs(model, BETA)
    with choose_precision(precision, "cpu").autocast():
        loss = objective(windows).item() / int(objective.count(windows))
    assert loss == pytest.approx(0.693147, abs=1e-5 if precision == "fp32" else 1e-3)


def test_an_interrupted_pass_of_the_base_resumes(base: Path, packed: Path, tmp_path: Path) -> None:
    settings = PreferenceSettings(files=[str(packed.parent / "data.jsonl")], held_out=0.2)
    rows = ConversationRows(context=64)
    passed: list[float] = []

    def stop(done: float, total: float | None = None, /, **metrics: Metric) -> None:
        if metrics.get("step") == "log-probabilities of the base, train":
            passed.append(done)
            if len(passed) == 2:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare(tmp_path / "out", base, settings, rows=rows, reference=FP32, device="cpu", progress=stop)
    assert passed == [4, 8]
    with (tmp_path / "out" / "reference-train.bin").open("ab") as stream:
        stream.write(b"torn")
    prepare(tmp_path / "out", base, settings, rows=rows, reference=FP32, device="cpu", progress=stop)
    assert passed[2] == 12
    assert digests(tmp_path / "out") == digests(packed)


def test_pairs_that_do_not_fit_are_listed_with_their_reason(base: Path, tmp_path: Path) -> None:
    pairs = [{"prompt": f"box {n}?", "chosen": f"it is red {n}", "rejected": "grey"} for n in range(20)]
    bad = [
        {"prompt": "box?", "chosen": "red", "rejected": " red "},
        {"prompt": "box?", "chosen": "red", "rejected": "   "},
        {"prompt": "box?", "chosen": "red " * 100, "rejected": "grey"},
        pairs[3],
    ]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(one) + "\n" for one in [*bad[:2], *pairs, *bad[2:]]) + "{\n")
    settings = PreferenceSettings(files=[str(tmp_path / "a.jsonl")], held_out=0.2, max_skipped=0.2, system="Be kind.")

    def made(name: str) -> Path:
        rows = ConversationRows(context=64)
        outcome = prepare(tmp_path / name, base, settings, rows=rows, reference=FP32, device="cpu")
        assert (outcome.rows_in, outcome.rows_out) == (25, 20)
        assert (outcome.metrics["skipped"], outcome.metrics["dropped_duplicate"]) == (4, 1)
        return tmp_path / name

    out = made("one")
    skipped = {row["position"]: row["reason"] for row in pq.read_table(out / "skipped").to_pylist()}
    assert {place: reason.partition(";")[0][:32] for place, reason in skipped.items()} == {
        1: "has the same answer under 'chose",
        2: "has an empty answer in message 2",
        23: "is too long: the prompt with one",
        25: "is invalid JSON (unexpected end ",
    }
    assert [row["position"] for row in pq.read_table(out / "dropped").to_pylist()] == [24]
    held = pq.read_table(out / "held_out").to_pylist()
    assert {row["messages"][0]["content"] for row in held} == {"Be kind."}
    # A held-out pair is in no training row.
    chat, split = load_chat(base), TokenSplit(out, "train")
    rows = split.read(range(split.windows(split.context or 0)), split.context or 0)
    trained = chat.tokenizer.decode(rows[:, 0].ravel().tolist(), skip_special_tokens=True)
    assert len(held) == 4 and split.documents == 32
    assert not any(f"{row['messages'][1]['content']}" in trained for row in held)
    assert digests(out) == digests(made("two"))
    with pytest.raises(
        UserError, match=r"4 of 25 .* preferences\.max_skipped .*line 1 has the same.*line 2 .*line 23 is too long"
    ):
        prepare(
            *(tmp_path / "three", base, settings.model_copy(update={"max_skipped": 0.1})),
            rows=ConversationRows(context=64),
            reference=FP32,
            device="cpu",
        )


def test_records_say_which_pairs_are_held_out(base: Path, tmp_path: Path) -> None:
    """A mark counts for all pairs of a question, and more pairs move none of them."""

    def held_out(pairs: list[dict[str, Any]], name: str) -> set[str]:
        (tmp_path / name).write_text("".join(json.dumps(one) + "\n" for one in pairs))
        settings = PreferenceSettings(files=[str(tmp_path / name)], held_out=0.2)
        out = tmp_path / f"{name}-packed"
        prepare(out, base, settings, rows=ConversationRows(context=64), reference=FP32, device="cpu")
        return {row["messages"][-1]["content"] for row in pq.read_table(out / "held_out").to_pylist()}

    def one(number: int, **keys: Any) -> dict[str, Any]:
        return {"prompt": f"box {number}?", "chosen": f"it is red {keys}", "rejected": "grey", **keys}

    marked = [one(number, held_out=number in (3, 4)) for number in range(8)]
    assert held_out(marked, "a.jsonl") == {"box 3?", "box 4?"}
    assert held_out([*marked, one(3, held_out=False)], "b.jsonl") == {"box 3?", "box 4?"}
    more = held_out([*marked, *(one(number) for number in range(3, 28))], "c.jsonl")
    assert {"box 3?", "box 4?"} < more and len(more) == 2 + 4  # a fifth of the 20 without a mark
    with pytest.raises(UserError, match="hold out none of their 5 questions"):
        held_out(marked[5:] + marked[:2], "d.jsonl")


def test_the_untrained_model_has_the_loss_of_indifference(base: Path, packed: Path) -> None:
    split = TokenSplit(packed, "train")
    context = split.context or 0
    model = weights.load(base)
    model.set_context(context)
    batch = torch.from_numpy(Batches(split, context, 2, seed=0).batch(3))
    assert batch.shape[1] == 4
    objective = PreferencePairs(model, BETA)
    assert objective(batch).item() / int(objective.count(batch)) == pytest.approx(0.693147, abs=1e-5)
    assert objective(torch.zeros(1, 4, 8, dtype=torch.int64)).item() == 0.0


@pytest.mark.slow
@pytest.mark.parametrize("method", ["lora", "full"])
@pytest.mark.usefixtures("trains_here")
def test_training_prefers_the_chosen_answers(tmp_path: Path, base: Path, packed: Path, method: str) -> None:
    loop = training(max_steps=12, validate_every=6, sample_prompts=[], sample_tokens=2, learning_rate=5e-3)
    arguments = (base, packed, tuning(method), loop, DpoSettings(beta=BETA))
    outcome = dpo(tmp_path / "out", *arguments, system="Be kind.", seed=1, device="cpu", processes=1)
    losses = pq.read_table(tmp_path / "out" / "metrics.parquet")["validation_loss"].drop_null().to_pylist()
    assert losses[-1] < 0.6 < 0.7
    assert outcome.metrics["steps"] == 12
    trained = tmp_path / "out" / "model"
    if method == "lora":
        merge(tmp_path / "merged", base, tmp_path / "out", "Be kind.")
        trained = tmp_path / "merged" / "model"
    assert load_chat(trained).system == "Be kind."
    settings = PairSettings(samples=3, answer_tokens=4)
    measured = measure(
        tmp_path / "win", {BEFORE: base, AFTER: trained}, packed, settings, DpoSettings(beta=BETA), device="cpu"
    )
    before, after = read_results(tmp_path / "win")
    assert (before.win_rate, before.reward_margin) == (0.5, 0.0)
    assert after.win_rate > 0.8 and after.reward_margin > 0.15
    assert after.chosen_loss - after.rejected_loss < before.chosen_loss - before.rejected_loss
    assert measured.metrics["fine_tuned_win_rate"] == after.win_rate
    (tmp_path / "curve.png").write_bytes(b"png")
    assert f"{after.reward_margin:.3f}" in html(tmp_path / "win", tmp_path / "curve.png")
    assert before_and_after([before, after]).rows[0][1] == "50%"


@pytest.mark.slow
def test_a_killed_run_resumes_to_the_same_bits(tmp_path: Path, base: Path, packed: Path) -> None:
    loop = training(max_steps=6, checkpoint_every=3, sample_prompts=[], sample_tokens=2, sample_every=100)
    job = DpoJob(
        packed=packed,
        tokenizer=base,
        base=base,
        training=loop.resolved(1),
        finetuning=tuning("full"),
        dpo=DpoSettings(beta=BETA),
        seed=1,
        device="cpu",
    )
    DpoProcess(tmp_path / "killed", job).signal_at("metrics.parquet", 2, "both", tmp_path / "killer")
    assert not (tmp_path / "killed" / "model").exists()
    arguments = (base, packed, tuning("full"), loop, DpoSettings(beta=BETA))
    for name in ("killed", "undisturbed"):
        outcome = dpo(tmp_path / name, *arguments, system=None, seed=1, device="cpu", processes=1)
    assert outcome.metrics["resumed_from"] == 0
    files = [(tmp_path / name / "model" / "model.safetensors").read_bytes() for name in ("killed", "undisturbed")]
    assert files[0] == files[1]


@pytest.mark.slow
def test_two_workers_train_the_adapter_of_one(alone: None, tmp_path: Path, base: Path, packed: Path) -> None:
    """Workers have different numbers of pairs in a step, and the loss is a mean over those of all."""
    job = DpoJob(
        packed=packed,
        tokenizer=base,
        base=base,
        training=loop(max_steps=4, micro_batch_size=2, validate_every=2, sample_every=100, sample_tokens=1),
        finetuning=tuning("lora"),
        dpo=DpoSettings(beta=BETA),
        seed=1,
        device="cpu",
    )
    run_here([Leg(str(tmp_path / "one"))], job)
    run_in_two([Leg(str(tmp_path / name), parallel=name) for name in ("ddp", "fsdp")], job)
    by_one, *others = (json.loads((tmp_path / name / "metrics.json").read_text()) for name in ("one", "ddp", "fsdp"))
    assert by_one[-1]["validation_loss"] < 0.69
    for together in others:
        for column in ("loss", "validation_loss"):
            ours, theirs = ([row[column] for row in run if row[column] is not None] for run in (together, by_one))
            assert ours == pytest.approx(theirs, rel=2e-3), column


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        ({"prompt": "q", "chosen": "a", "rejected": "b"}, ("q", "a", "b")),
        (
            {
                "prompt": [{"role": "user", "content": "q"}],
                "chosen": [{"role": "assistant", "content": "a"}],
                "rejected": [{"role": "assistant", "content": "b"}],
            },
            ("q", "a", "b"),
        ),
        (
            {
                "prompt": "q",
                "chosen": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}],
                "rejected": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "b"}],
            },
            ("q", "a", "b"),
        ),
        ({"chosen": "The sky is blue.", "rejected": "The sky is green."}, ("The sky is", "blue.", "green.")),
    ],
)
def test_both_shapes_of_a_pair_are_read(record: dict[str, Any], expected: tuple[str, str, str]) -> None:
    found = pair(record)
    assert (found.prompt, found.chosen, found.rejected) == (
        [Message("user", expected[0])],
        Message("assistant", expected[1]),
        Message("assistant", expected[2]),
    )


@pytest.mark.parametrize(
    ("record", "problem"),
    [
        ({"prompt": "q", "chosen": "a"}, "has no key 'rejected'"),
        ({"prompt": "q", "chosen": "a", "rejected": "a"}, "the same answer under 'chosen' and 'rejected'"),
        ({"prompt": "q", "chosen": "a", "rejected": ""}, "has an empty answer in message 2"),
        ({"prompt": "q", "chosen": "a", "rejected": 3}, "has text under 'chosen' and a number under 'rejected'"),
        ({"chosen": "a", "rejected": "b"}, "has no prompt"),
        (
            {
                "prompt": "q",
                "chosen": [{"role": "user", "content": "p"}, {"role": "assistant", "content": "a"}],
                "rejected": [{"role": "user", "content": "p"}, {"role": "assistant", "content": "b"}],
            },
            "has another prompt under 'prompt'",
        ),
        (
            {
                "chosen": [{"role": "user", "content": "p"}, {"role": "assistant", "content": "a"}],
                "rejected": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "b"}],
            },
            "has different prompts under 'chosen' and 'rejected'",
        ),
        (
            {
                "prompt": "q",
                "chosen": [{"role": "user", "content": "a"}],
                "rejected": [{"role": "user", "content": "b"}],
            },
            "message 2 from 'user' where 'assistant' is expected",
        ),
    ],
)
def test_what_is_wrong_with_a_pair_is_named(record: dict[str, Any], problem: str) -> None:
    with pytest.raises(Malformed, match=problem):
        pair(record)


def test_conversations_instead_of_pairs_are_an_error(tmp_path: Path, base: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"question": "a", "answer": "b"}\n')
    settings = PreferenceSettings(files=[str(tmp_path / "a.jsonl")])
    with pytest.raises(
        UserError, match=r"1 of 1 records .* preferences\.max_skipped .* line 1 is a conversation .*finetune"
    ):
        prepare(tmp_path / "out", base, settings, rows=ConversationRows(context=64), reference=FP32, device="cpu")
