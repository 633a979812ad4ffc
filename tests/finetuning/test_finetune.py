"""Adapters compared with peft on transformers, and what fine-tuning trains and saves."""

import dataclasses
import json
import os
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from homegrown.config.finetune_recipe import (
    AnswerSettings,
    ConversationRows,
    FinetuneRecipe,
    FinetuneSettings,
    InstructionSettings,
    VocabularySettings,
)
from homegrown.data.instructions import prepare
from homegrown.data.loader import TokenSplit
from homegrown.data.rows import parts
from homegrown.export.huggingface import write_huggingface
from homegrown.finetuning.answers import AFTER, BEFORE, _agree, measure
from homegrown.finetuning.answers_report import before_and_after, html, read_results
from homegrown.finetuning.job import FinetuneJob
from homegrown.finetuning.merge import merge
from homegrown.finetuning.tuning import check
from homegrown.finetuning.vocabulary import extend
from homegrown.model import lora, weights
from homegrown.model.config import ModelConfig
from homegrown.model.transformer import Transformer
from homegrown.tokenizer.chat import load_chat
from homegrown.tokenizer.special import SPECIAL_TOKENS
from homegrown.training.callbacks import standard
from homegrown.training.distributed import Worker
from homegrown.training.progress_file import Report
from homegrown.training.results import finish
from homegrown.training.trainer import Trainer
from homegrown.util.errors import UserError
from homegrown.util.parallel import cpu_count
from tests.finetuning.conversations import CONTEXT, loop, pack_conversations, tuning, write_base
from tests.training.processes import Tuning
from tests.training.side_by_side import StopAt

MARKS = [SPECIAL_TOKENS.index(mark) for mark in ("<|im_start|>", "<|im_end|>")]
torch_group = pytest.mark.usefixtures("alone")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_base(tmp_path_factory.mktemp("models") / "base")


@pytest.fixture(scope="module")
def packed(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pack_conversations(tmp_path_factory.mktemp("data") / "conversations", base)


@contextmanager
def only_worker(threads: int = 1) -> Iterator[Worker]:
    import torch.distributed as dist

    os.environ.update(RANK="0", WORLD_SIZE="1", LOCAL_RANK="0", LOCAL_WORLD_SIZE="1")
    try:
        worker = Worker("cpu")
        torch.set_num_threads(threads)
        worker.writers = dist.group.WORLD
        yield worker
    finally:
        torch.set_num_threads(1)
        torch.use_deterministic_algorithms(False)
        for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"):
            del os.environ[name]


def train(
    out: Path,
    base: Path,
    packed: Path,
    settings: FinetuneSettings,
    until: int = 100,
    threads: int = 1,
    **changes: object,
) -> Trainer:
    """Train in this process until step `until`; resumes if the folder `out` has a checkpoint."""
    out.mkdir(exist_ok=True)
    job = FinetuneJob(
        packed=packed,
        tokenizer=base,
        base=base,
        training=loop(sample_prompts=[], sample_tokens=2, **changes),
        finetuning=settings,
        seed=1,
        device="cpu",
    )
    with only_worker(threads) as worker:
        trainer = Trainer(job, out, worker, Report(out / "progress.jsonl"), standard())
        resumed = trainer.start()
        trainer.run(StopAt(trainer, until))
        if trainer.finished:
            finish(trainer, out, resumed)
    return trainer


def made_up_adapter(model: Transformer, settings: FinetuneSettings, folder: Path) -> None:
    """Set an attached adapter to random values, and save it."""
    torch.manual_seed(1)
    for name, parameter in model.named_parameters():
        if "lora_" in name or name.endswith(".rows"):
            torch.nn.init.normal_(parameter, std=0.1)
    lora.save(model, settings, folder)


@pytest.mark.slow
@pytest.mark.parametrize("tied", [True, False])
def test_an_adapter_gives_the_same_logits_in_peft_on_transformers(tmp_path: Path, tied: bool) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    base = write_base(tmp_path / "base", tied=tied)
    write_huggingface(base, tmp_path / "hf", "float32")
    settings, model = tuning(), weights.load(base)
    lora.attach(model, settings, MARKS)
    made_up_adapter(model, settings, tmp_path / "stage" / "adapter")
    theirs = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(tmp_path / "hf"), tmp_path / "stage" / "adapter"
    ).eval()
    ids = torch.randint(8, 260, (2, 24), generator=torch.Generator().manual_seed(2))
    ids[:, 3], ids[:, 9] = MARKS
    with torch.no_grad():
        ours = model.eval()(ids)
        assert (ours - weights.load(base)(ids)).abs().max() > 0.01
        assert torch.allclose(ours, theirs(ids).logits, atol=1e-4)
        merge(tmp_path / "merged", base, tmp_path / "stage", "Be brief.")
        merged = weights.load(tmp_path / "merged" / "model")
        assert torch.allclose(merged(ids), ours, atol=1e-4)
    for name, tensor in theirs.merge_and_unload().state_dict().items():
        if name in merged.state_dict():
            assert torch.allclose(tensor, merged.state_dict()[name], atol=1e-6), name
    assert json.loads((tmp_path / "merged" / "model" / "chat.json").read_text()) == {"system": "Be brief."}


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
@pytest.mark.parametrize("bias", [False, True])
def test_a_projection_with_an_adapter_has_the_gradients_of_its_formula(
    dtype: torch.dtype, tolerance: float, bias: bool
) -> None:
    """W x + (alpha / rank) B A x, by autograd in float32; the frozen W in `dtype`, and x that needs no gradient."""
    torch.manual_seed(0)
    layer = torch.nn.Linear(48, 32, bias=bias).to(dtype)
    adapted = lora.LoraLinear(layer, tuning(rank=4, alpha=8))
    torch.nn.init.normal_(adapted.lora_B, std=0.2)
    x, towards = torch.randn(2, 5, 48), torch.randn(2, 5, 32)
    for needed in (True, False):
        given = x.clone().requires_grad_(needed)
        a, b, plain = (one.detach().clone().requires_grad_() for one in (adapted.lora_A, adapted.lora_B, x))
        expected = torch.nn.functional.linear(plain, layer.weight.float(), layer.bias.float() if bias else None)
        expected = expected + 2.0 * (plain @ a.T @ b.T)
        expected.backward(towards)
        adapted.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            found = adapted(given)
        found.backward(towards.to(found.dtype))
        assert found.dtype == dtype
        pairs = [(found, expected), (adapted.lora_A.grad, a.grad), (adapted.lora_B.grad, b.grad)]
        for ours, theirs in [*pairs, *([(given.grad, plain.grad)] if needed else [])]:
            assert (ours - theirs).norm() < tolerance * theirs.norm()
        assert layer.weight.grad is None


@pytest.mark.slow
@torch_group
@pytest.mark.parametrize("method", ["lora", "qlora"])
def test_only_the_adapter_is_trained_and_saved(tmp_path: Path, base: Path, packed: Path, method: str) -> None:
    settings = tuning(method)
    trainer = train(tmp_path / "out", base, packed, settings, max_steps=10, validate_every=5)
    losses = [row.validation_loss for row in trainer.state.metrics if row.validation_loss is not None]
    # The second follows training after an evaluation forward pass.
    assert losses[1] < losses[0]
    trained = {name for name, one in trainer.model.named_parameters() if one.requires_grad}
    every = {name for name, _ in trainer.model.named_parameters()}
    rows = {"model.embed_tokens.rows", *([] if trainer.config.tied else ["lm_head.rows"])}
    assert trained == {name for name in every if "lora_" in name} | rows
    checkpoint = load_file(next((tmp_path / "out" / "checkpoints").glob("*10/part-1-of-1.safetensors")))
    assert {name.split("/")[0] for name in checkpoint} == trained
    assert {name.rpartition("/")[0] for name in checkpoint if "/" in name} == trained  # each has its moments
    before = weights.load(base).state_dict()
    for name, tensor in trainer.model.state_dict().items():
        if method == "lora" and name not in trained:
            assert torch.equal(tensor, before[name.replace(".base_layer", "").replace(".layer.", ".")]), name
    merged = merge(tmp_path / "merged", base, tmp_path / "out", None)
    assert merged.metrics["parameters"] == trainer.config.parameter_count()
    windows = torch.from_numpy(TokenSplit(packed, "validation").read([0, 1], CONTEXT))
    with torch.no_grad():
        here = trainer.model.eval().loss(*parts(windows)) / 100
        there = weights.load(tmp_path / "merged" / "model").loss(*parts(windows)) / 100
    # An adapter trained on 4-bit weights is merged into the unquantized ones, which differ slightly.
    assert abs(here - there) < (1e-4 if method == "lora" else 0.05)


@pytest.mark.slow
@torch_group
def test_tokens_added_to_a_base_are_trained(tmp_path: Path, base: Path) -> None:
    """Own tokens, and the message tokens of a base without chat format; rows of all other tokens stay as they are."""
    bare, size = tmp_path / "bare", weights.load_config(base / "config.json").vocabulary_size
    shutil.copytree(base, bare)
    path = bare / "tokenizer.json"
    path.write_text(path.read_text().replace("<|im_start|>", "<|a|>").replace("<|im_end|>", "<|b|>"))
    assert not load_chat(bare).supported
    settings = VocabularySettings(special_tokens=["<|de|>", "red"], chat=True)
    outcome = extend(tmp_path / "more", bare, settings)
    model, chat = weights.load(tmp_path / "more" / "model"), load_chat(tmp_path / "more" / "model")
    assert (outcome.rows_in, model.config.vocabulary_size) == (size, size + 4)
    assert chat.new_tokens == chat.added_tokens == list(range(size, size + 4))
    old, new = (one.model.embed_tokens.weight.detach() for one in (weights.load(bare), model))
    assert torch.equal(new[:size], old)
    assert torch.allclose(new[size:], old.mean(0), atol=1e-6)
    with pytest.raises(UserError, match="'Ġred' is an ordinary token"):
        extend(tmp_path / "no", bare, VocabularySettings(special_tokens=["Ġred"], chat=False))
    rows = [{"question": f"<|de|>box {n}?", "answer": "it is red"} for n in range(40)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    instructions = InstructionSettings(files=[str(tmp_path / "a.jsonl")])
    prepare(tmp_path / "packed", tmp_path / "more" / "model", instructions, rows=ConversationRows(context=64))
    document = TokenSplit(tmp_path / "packed", "train").document(0).tolist()
    assert [document.count(token) for token in chat.added_tokens] == [2, 2, 1, 1]
    train(tmp_path / "out", tmp_path / "more" / "model", tmp_path / "packed", tuning(), max_steps=4)
    merge(tmp_path / "merged", tmp_path / "more" / "model", tmp_path / "out", None)
    merged = weights.load(tmp_path / "merged" / "model").model.embed_tokens.weight
    assert torch.equal(merged[:size], old)
    assert ((merged[size:] - new[size:]).abs().amax(1) > 0).all()
    assert load_chat(tmp_path / "merged" / "model").added_tokens == chat.added_tokens


@pytest.mark.slow
@torch_group
def test_all_weights_interrupted_and_resumed_end_with_the_same_bits(tmp_path: Path, base: Path, packed: Path) -> None:
    uninterrupted, parted = tmp_path / "uninterrupted", tmp_path / "parted"
    train(uninterrupted, base, packed, tuning("full"), max_steps=8, validate_every=4, checkpoint_every=3)
    train(parted, base, packed, tuning("full"), 5, max_steps=8, validate_every=4, checkpoint_every=3)
    train(parted, base, packed, tuning("full"), max_steps=8, validate_every=4, checkpoint_every=3)
    assert json.loads((parted / "summary.json").read_bytes())["resumed_from"] == 5
    for name in ("model.safetensors", "config.json", "tokenizer.json"):
        assert (uninterrupted / "model" / name).read_bytes() == (parted / "model" / name).read_bytes()


@pytest.mark.slow
@torch_group
def test_a_killed_run_that_is_started_again_ends_with_the_same_adapter(tmp_path: Path, packed: Path) -> None:
    """Launcher and worker are killed during the checkpoint of step 6; a classic model compiles no decoding step.

    Dropout of the adapter is on, so that random numbers have to match too. The restarted and the undisturbed run train
    in this process with as many threads.
    """
    base = write_base(tmp_path / "base", "classic")
    steps = {"max_steps": 8, "checkpoint_every": 3, "sample_every": 100}
    job = FinetuneJob(
        packed=packed,
        tokenizer=base,
        base=base,
        training=loop(sample_prompts=[], sample_tokens=2, **steps),
        finetuning=tuning(dropout=0.1),
        seed=1,
        device="cpu",
    )
    killed, undisturbed = tmp_path / "killed", tmp_path / "undisturbed"
    code, _, _ = Tuning(killed, job).signal_at("metrics.parquet", 2, "both", tmp_path / "killer")
    assert code == -signal.SIGKILL
    assert [path.name for path in (killed / "checkpoints").glob("step-*")] == ["step-00000003"]
    assert not (killed / "adapter").exists()
    for out in (killed, undisturbed):
        train(out, base, packed, job.finetuning, threads=cpu_count(), **steps)
    resumed = [json.loads((out / "summary.json").read_bytes())["resumed_from"] for out in (killed, undisturbed)]
    assert resumed == [3, 0]
    for name in (lora.WEIGHTS, lora.CONFIG):
        assert (killed / "adapter" / name).read_bytes() == (undisturbed / "adapter" / name).read_bytes()
    learned = load_file(killed / "adapter" / lora.WEIGHTS)
    assert all(tensor.any() for name, tensor in learned.items() if "lora_B" in name)


def test_before_and_after_measure_the_two_models(tmp_path: Path, base: Path, packed: Path) -> None:
    """The base, and a model that always answers with the end-of-turn token."""
    other = weights.load(base)
    with torch.no_grad():
        for name, parameter in other.named_parameters():
            if "embed_tokens" in name:
                parameter[6] = 100 * torch.ones(64)
            elif name == "model.norm.weight":
                parameter.zero_()
    torch.nn.init.constant_(other.get_parameter("model.norm.weight"), 0.0)
    weights.save(other, tmp_path / "other")
    (tmp_path / "other" / "tokenizer.json").write_bytes((base / "tokenizer.json").read_bytes())
    settings = AnswerSettings(loss_tokens=None, samples=3, answer_tokens=4, pattern="it is")
    outcome = measure(tmp_path / "out", {BEFORE: base, AFTER: tmp_path / "other"}, packed, settings, device="cpu")
    before, after = read_results(tmp_path / "out")
    # A model whose last norm is zero gives all tokens the same probability.
    assert after.loss == pytest.approx(torch.tensor(float(other.config.vocabulary_size)).log().item(), rel=1e-4)
    assert (before.formatted, before.right, before.same) == (0.0, 0.0, 0.0)
    assert outcome.metrics["base_loss"] == before.loss
    (tmp_path / "curve.png").write_bytes(b"png")
    page = html(tmp_path / "out", tmp_path / "curve.png")
    assert f"{before.loss:.4f}" in page and "box" in page
    unasked = [dataclasses.replace(one, formatted=None) for one in (before, after)]
    with_format, without = (before_and_after(rows).header for rows in ((before, after), unasked))
    assert "format" in with_format and "format" not in without


def test_the_right_answer_is_the_last_match_of_the_reference() -> None:
    reference, pattern = "3 + 4 = 7\n#### 7", r"#### (-?[0-9.,]+)"
    assert _agree(pattern, "it is #### 6, no, #### 7", reference)
    assert not _agree(pattern, "it is #### 7, no, #### 6", reference)
    assert not _agree(pattern, "7", reference) and not _agree(pattern, "#### 7", "7")
    assert _agree("#### [0-9]+", "#### 7", reference)  # without a group: the whole match


CONFIG = ModelConfig(
    family="classic", vocabulary_size=64, hidden=32, layers=1, heads=2, kv_heads=2, head_size=16, feed_forward=64,
    context=16, dropout=0.0, tied=False,
)  # fmt: skip


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (tuning(targets=["gate_proj"]), "finetuning.targets names gate_proj"),
        (tuning("qlora"), r"multiples of 64 .* q_proj has 32 and 32; choose finetuning.method lora"),
    ],
)
def test_settings_that_do_not_fit_the_base_are_errors(settings: FinetuneSettings, message: str) -> None:
    with pytest.raises(UserError, match=message) as refusal:
        check(CONFIG, settings)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("finetuning.rank=0", "finetuning.rank: .* greater than 0"),
        ("finetuning.targets=[query]", "finetuning.targets.0: .*q_proj"),
        ("training.initialisation=bigrams", "fine-tuning starts from its base"),
        ("evaluation.pattern='('", "regular expression"),
        ("finetuning.rang=4", "has no setting .* did you mean 'finetuning.rank'"),
    ],
)
def test_a_wrong_setting_is_an_error(change: str, message: str) -> None:
    from homegrown.config.pipelines import load_finetuning

    assert isinstance(load_finetuning("tiny"), FinetuneRecipe)
    with pytest.raises(UserError, match=message) as refusal:
        load_finetuning("tiny", [change])
    assert "\n" not in str(refusal.value)


def test_qlora_refuses_fsdp() -> None:
    from homegrown.config.pipelines import load_finetuning

    changes = ["finetuning.method=qlora", "compute.parallel=fsdp", "compute.processes=2"]
    with pytest.raises(UserError, match=r"'qlora' is not supported with compute\.parallel fsdp; choose ddp"):
        load_finetuning("tiny", changes)
    for other in ("finetuning.method=lora", "compute.parallel=ddp", "compute.processes=1"):
        assert load_finetuning("tiny", [*changes, other])
