"""The stage `instructions` on a real server: what it makes, shows and makes anew; of gsm8k too where that is there."""

import json
from pathlib import Path
from typing import Any

import pytest
from prefect import flow
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from homegrown.config.compute import ComputeSettings
from homegrown.config.finetune_recipe import ConversationRows, InstructionSettings
from homegrown.data.loader import TokenSplit
from homegrown.store.artifacts import Store
from homegrown.store.manifest import Artifact, Order
from homegrown.tokenizer.special import SPECIAL_TOKENS
from homegrown.util.progress import Outcome
from tasks.instructions import instructions
from tasks.stage import Handle, Run, forget_flow_exception
from tasks.ui.panels import PAGE

pytestmark = pytest.mark.slow

GSM8K = Path(__file__).parents[3] / "shared" / "corpora" / "gsm8k-train.jsonl"


def handle_of(store: Store, stage: str, inside: str) -> Handle:
    """An artifact with a tokenizer of bytes."""

    def write(out: Path) -> Outcome:
        alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
        tokenizer = Tokenizer(
            models.BPE({token: number for number, token in enumerate([*SPECIAL_TOKENS, *alphabet])}, [])
        )
        tokenizer.add_special_tokens(list(SPECIAL_TOKENS))
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        (out / inside).mkdir(exist_ok=True)
        tokenizer.save(str(out / inside / "tokenizer.json"))
        return Outcome(1, 1)

    order = Order(stage, "code", {}, {})
    artifact, _ = store.make(order, store.slot(stage, order.key), write)
    return Handle(stage=stage, folder=artifact.path.name, key=artifact.manifest.key)


@flow(name="instruct", persist_result=False, on_failure=[forget_flow_exception])
def instruct(tokenizer: Handle, context: int, **settings: Any) -> Handle:
    given = InstructionSettings.model_validate(settings)
    rows = ConversationRows(context=context)
    return instructions(Run(1, ComputeSettings()), settings=given, rows=rows, tokenizer=tokenizer)


def made(store: Store, handle: Handle) -> Artifact:
    return store.resolve(f"instructions@{handle.folder.split('-')[0]}")


def test_it_is_made_once_and_anew_when_a_file_says_something_else(in_prefect: Store, tmp_path: Path) -> None:
    file = tmp_path / "talks.jsonl"
    file.write_text("".join(json.dumps({"question": f"{number}|", "answer": "So."}) + "\n" for number in range(20)))
    model = handle_of(in_prefect, "pretrain", "model")
    first, again = (instruct(model, 64, files=[str(file)], held_out=0.2) for _ in range(2))
    assert first == again
    artifact = made(in_prefect, first)
    assert (artifact.manifest.rows_out, artifact.manifest.unit) == (20, "conversations")
    assert TokenSplit(artifact.path, "validation").documents == 4
    page = json.loads((artifact.path / PAGE).read_text())
    shown = json.dumps(page)
    assert "| question, answer | 20 |" in shown
    assert "assistant: So." in shown
    tokens = handle_of(in_prefect, "tokenizer", ".")
    assert instruct(tokens, 64, files=[str(file)], held_out=0.2) != first
    file.write_text(file.read_text().replace("So.", "No."))
    assert instruct(model, 64, files=[str(file)], held_out=0.2) != first


@pytest.mark.skipif(not GSM8K.exists(), reason=f"{GSM8K} is not there")
def test_every_question_of_gsm8k_is_there_once(in_prefect: Store) -> None:
    handle = instruct(handle_of(in_prefect, "tokenizer", "."), 1024, files=[str(GSM8K)], held_out=0.1)
    artifact = made(in_prefect, handle)
    metrics = artifact.manifest.metrics
    records = [json.loads(line) for line in GSM8K.read_text().splitlines()]
    fitting = [
        record
        for record in records
        if len(f"0.user\n{record['question']}.\n.assistant\n{record['answer']}.\n".encode()) <= 1025
    ]
    assert artifact.manifest.rows_out == len(fitting)
    assert metrics["dropped_too_long"] == len(records) - len(fitting)
    learned = sum(len(record["answer"].encode()) + 1 for record in fitting)
    assert learned == metrics["train_learned_tokens"] + metrics["validation_learned_tokens"]
