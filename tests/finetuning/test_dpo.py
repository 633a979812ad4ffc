"""DPO beside the loss of its paper, computed pair by pair; and what training on preferences does."""

import copy
import json
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
from homegrown.finetuning.answers import AFTER, BEFORE
from homegrown.finetuning.dpo import DpoJob, dpo, prepare
from homegrown.finetuning.merge import merge
from homegrown.finetuning.pairs import PreferencePairs
from homegrown.finetuning.win_rate import before_and_after, html, measure, read_results
from homegrown.model import weights
from homegrown.model.transformer import Transformer
from homegrown.tokenizer.chat import Chat, Message, load_chat
from homegrown.util.errors import UserError
from tests.finetuning.conversations import training, tuning, write_base
from tests.training.processes import Signalled

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
def test_training_prefers_the_chosen_answers(tmp_path: Path, base: Path, packed: Path, method: str) -> None:
    pytest.importorskip("peft")
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
    with pytest.raises(UserError, match=r"1 of 1 records .* preferences\.max_skipped .* line 1 has no key 'chosen'"):
        prepare(tmp_path / "out", base, settings, rows=ConversationRows(context=64), reference=FP32, device="cpu")
