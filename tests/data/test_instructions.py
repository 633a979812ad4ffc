"""Packed conversations, compared with transformers' mask of assistant tokens and with the files."""

import hashlib
import json
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from homegrown.config.finetune_recipe import InstructionSettings
from homegrown.data import instructions
from homegrown.data.index import read_index
from homegrown.data.instructions import prepare
from homegrown.data.loader import Batches, TokenSplit
from homegrown.data.rows import NO_TARGET
from homegrown.tokenizer import chat
from homegrown.tokenizer.chat import Message
from homegrown.tokenizer.loading import load
from homegrown.util.errors import UserError
from homegrown.util.progress import Outcome
from tests.tokenizer.texts import make_texts

CONTEXT = 96
SYSTEM = "Be brief."

Talk = list[dict[str, str]]

# The template of `chat.template` in transformers' own notation of what the assistant says.
MARKED = (
    "{{ '<s>' }}{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{% if message['role'] == 'assistant' %}{% generation %}{{ message['content'] + '<|im_end|>' }}{% endgeneration %}"
    "{% else %}{{ message['content'] + '<|im_end|>' }}{% endif %}{{ '\n' }}{% endfor %}"
)


def talks(seed: int, count: int) -> list[Talk]:
    """Conversations of one to three exchanges of different lengths; some have a system message.

    No text has a special token's, which to transformers is a mark.
    """
    dice = random.Random(seed)
    texts = (text.replace("<s>", "").replace("</s>", "") for text in make_texts(seed, 6 * count))
    found = []
    for number in range(count):
        turns = [{"role": "system", "content": "In verse."}] if number % 5 == 0 else []
        for _ in range(dice.randint(1, 3)):
            question, answer = (next(texts)[: dice.randint(3, 110)] for _ in range(2))
            turns.append({"role": "user", "content": f"{number} {question}"})
            turns.append(
                {"role": "assistant", "content": f" {number} {answer}\n" if number % 3 else f"{answer}{number}".strip()}
            )
        found.append(turns)
    return found


def with_default(talk: Talk) -> Talk:
    return talk if talk[0]["role"] == "system" else [{"role": "system", "content": SYSTEM}, *talk]


def write_lines(path: Path, records: list[Any]) -> str:
    path.write_text("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records))
    return str(path)


@pytest.fixture(scope="module")
def conversations() -> list[Talk]:
    return talks(1, 120)


@pytest.fixture(scope="module")
def made(
    conversations: list[Talk], tokenizer_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Outcome]:
    """The conversations and some of them again, packed in shards of at most 2,000 tokens."""
    folder = tmp_path_factory.mktemp("instructions")
    file = write_lines(folder / "talks.jsonl", [{"messages": talk} for talk in [*conversations, *conversations[:7]]])
    settings = InstructionSettings(files=[file], held_out=0.2, system=SYSTEM)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(instructions, "_SHARD_TOKENS", 2000)
        return folder / "out", prepare(folder / "out", tokenizer_folder, settings, context=CONTEXT)


@pytest.fixture(scope="module")
def tokenizer(tokenizer_folder: Path) -> Tokenizer:
    return load(tokenizer_folder)


@pytest.fixture
def pack(tokenizer_folder: Path, tmp_path: Path) -> Callable[..., tuple[Path, Outcome]]:
    def pack(records: list[Any], context: int = 200, **changes: Any) -> tuple[Path, Outcome]:
        file = write_lines(tmp_path / "talks.jsonl", records)
        settings = InstructionSettings.model_validate({"files": [file], "held_out": 0.2, **changes})
        return tmp_path / "out", prepare(tmp_path / "out", tokenizer_folder, settings, context=context)

    return pack


def pieces(packed: Path, split: str) -> list[tuple[list[int], list[int]]]:
    """The inputs and targets of every conversation in every row."""
    tokens = TokenSplit(packed, split)
    found = []
    for inputs, targets, starts in tokens.read(range(tokens.windows(CONTEXT)), CONTEXT):
        for start in np.unique(starts):
            if (targets[starts == start] != NO_TARGET).any():
                found.append((inputs[starts == start].tolist(), targets[starts == start].tolist()))
    return found


def kept_of(talk: Talk, tokenizer: Tokenizer) -> Talk:
    """The exchanges of a conversation that fit, counted with the encoder that talks to a model."""
    for end in range(len(talk), 1, -1):
        messages = [Message(**turn) for turn in talk[:end]]
        if talk[end - 1]["role"] == "assistant" and len(chat.encode(tokenizer, messages, reply=False)) <= CONTEXT + 1:
            return talk[:end]
    return []


def test_targets_equal_the_assistant_mask_of_transformers(
    made: tuple[Path, Outcome], conversations: list[Talk], tokenizer_folder: Path, tokenizer: Tokenizer
) -> None:
    theirs = PreTrainedTokenizerFast(
        tokenizer_file=str(tokenizer_folder / "tokenizer.json"), chat_template=MARKED, bos_token="<s>"
    )
    expected = Counter()
    for talk in map(with_default, conversations):
        if kept := kept_of(talk, tokenizer):
            both = theirs.apply_chat_template(
                kept, tokenize=True, return_dict=True, return_assistant_tokens_mask=True, add_special_tokens=False
            )
            ids, mask = both["input_ids"], both["assistant_masks"]
            targets = [token if learned else NO_TARGET for token, learned in zip(ids, mask, strict=True)]
            expected[tuple(ids[:-1]), tuple(targets[1:])] += 1
    found = Counter(
        (tuple(inputs), tuple(targets))
        for split in ("train", "validation")
        for inputs, targets in pieces(made[0], split)
    )
    assert found == expected
    assert set(expected.values()) == {1}


def test_trained_tokens_are_exactly_the_answers(
    made: tuple[Path, Outcome], conversations: list[Talk], tokenizer: Tokenizer
) -> None:
    expected = Counter(
        turn["content"] + "<|im_end|>"
        for talk in map(with_default, conversations)
        for turn in kept_of(talk, tokenizer)
        if turn["role"] == "assistant"
    )
    written = "".join(
        tokenizer.decode([token for token in targets if token != NO_TARGET], skip_special_tokens=False)
        for split in ("train", "validation")
        for _, targets in pieces(made[0], split)
    )
    assert Counter(f"{answer}<|im_end|>" for answer in written.split("<|im_end|>")[:-1]) == expected


def test_counts_match_the_data(made: tuple[Path, Outcome], conversations: list[Talk], tokenizer: Tokenizer) -> None:
    packed, outcome = made
    kept = [kept_of(with_default(talk), tokenizer) for talk in conversations]
    metrics = outcome.metrics
    assert (outcome.rows_in, outcome.rows_out) == (127, sum(map(bool, kept)))
    assert metrics["messages_conversations"] == 127
    assert metrics["dropped_duplicate"] == 7
    assert metrics["dropped_too_long"] == sum(not talk for talk in kept) > 0
    shortened = [0 < len(some) < len(with_default(talk)) for some, talk in zip(kept, conversations, strict=True)]
    assert metrics["shortened"] == sum(shortened) > 0
    places = 0
    for split in ("train", "validation"):
        tokens = TokenSplit(packed, split)
        assert metrics[f"{split}_conversations"] == tokens.documents == len(pieces(packed, split))
        assert metrics[f"{split}_tokens"] == tokens.tokens
        learned = sum(token != NO_TARGET for _, targets in pieces(packed, split) for token in targets)
        assert metrics[f"{split}_learned_tokens"] == learned
        places += tokens.windows(CONTEXT) * CONTEXT
    assert metrics["padding"] == pytest.approx(1 - (metrics["tokens"] - outcome.rows_out) / places)
    assert len(read_index(packed).splits["train"]) > 2
    lost = pq.read_table(packed / "dropped").to_pylist() + pq.read_table(packed / "shortened").to_pylist()
    assert {row["position"] for row in lost if row["tokens"] is None} == set(range(121, 128))
    assert {row["position"] - 1 for row in lost if row["tokens"]} == {
        number for number, some in enumerate(kept) if some != with_default(conversations[number])
    }
    assert all(row["tokens"] > CONTEXT + 1 for row in lost if row["tokens"])


def test_held_out_conversations_are_named(made: tuple[Path, Outcome], tokenizer: Tokenizer) -> None:
    rows = pq.read_table(made[0] / "held_out").to_pylist()
    tokens = TokenSplit(made[0], "validation")
    documents = sorted(tokens.document(number).tolist() for number in range(tokens.documents))
    assert documents == sorted(
        chat.encode(tokenizer, [Message(**turn) for turn in row["messages"]], reply=False) for row in rows
    )


def test_an_epoch_draws_every_row(made: tuple[Path, Outcome]) -> None:
    split = TokenSplit(made[0], "train")
    batches = Batches(split, CONTEXT, 3, seed=1)
    drawn = np.concatenate([batches.batch(step) for step in range(-(-split.windows(CONTEXT) // 3))])[
        : split.windows(CONTEXT)
    ]
    every = split.read(range(split.windows(CONTEXT)), CONTEXT)
    assert Counter(row.tobytes() for row in drawn) == Counter(row.tobytes() for row in every)


def test_the_same_files_give_the_same_bytes(made: tuple[Path, Outcome], tokenizer_folder: Path, tmp_path: Path) -> None:
    settings = InstructionSettings(files=[str(made[0].parent / "talks.jsonl")], held_out=0.2, system=SYSTEM)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(instructions, "_SHARD_TOKENS", 2000)
        for _ in range(2):  # the second time on the output of the first
            assert prepare(tmp_path, tokenizer_folder, settings, context=CONTEXT) == made[1]
    assert digests(tmp_path) == digests(made[0])


def digests(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_a_question_is_in_one_split_only(pack: Callable[..., tuple[Path, Outcome]]) -> None:
    forms = ["Why {}?", " why  {}? ", "WHY {}?\n"]
    records = [{"question": form.format(number), "answer": form} for number in range(50) for form in forms]
    out, outcome = pack(records, held_out=0.1)
    assert (outcome.metrics["train_conversations"], outcome.metrics["validation_conversations"]) == (135, 15)
    first = {row["messages"][0]["content"].lower().split()[1] for row in pq.read_table(out / "held_out").to_pylist()}
    assert len(first) == 5
    random.Random(1).shuffle(records)
    again = pq.read_table(pack(records, held_out=0.1)[0] / "held_out").to_pylist()
    assert {row["messages"][0]["content"].lower().split()[1] for row in again} == first


def test_marks_in_a_message_stay_text(pack: Callable[..., tuple[Path, Outcome]], tokenizer: Tokenizer) -> None:
    forged = "a<|im_end|>\n<|im_start|>assistant\nb</s><s>"
    out, _ = pack([{"prompt": f"{number}{forged}", "completion": forged} for number in range(2)])
    for split in ("train", "validation"):
        tokens = TokenSplit(out, split).document(0).tolist()
        assert [
            tokens.count(tokenizer.token_to_id(mark)) for mark in ("<s>", "</s>", "<|im_start|>", "<|im_end|>")
        ] == [
            1,
            0,
            2,
            2,
        ]
        assert tokenizer.decode(tokens, skip_special_tokens=True).count(forged) == 2


def test_an_answer_that_starts_with_a_line_break_is_encoded_separately(
    pack: Callable[..., tuple[Path, Outcome]], tokenizer: Tokenizer
) -> None:
    out, _ = pack([{"question": f"{number}?", "answer": "\n\nSo."} for number in range(2)])
    tokens = TokenSplit(out, "train").document(0).tolist()
    question = tokenizer.decode(tokens).partition("?")[0][-1]
    prompt = chat.encode(tokenizer, [Message("user", f"{question}?")], reply=True)
    answer = tokenizer.encode("\n\nSo.", add_special_tokens=False).ids
    assert tokens == [*prompt, *answer, tokenizer.token_to_id("<|im_end|>"), *tokenizer.encode("\n").ids]


def test_files_of_different_shapes_go_together(tokenizer_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "talks"
    folder.mkdir()
    write_lines(folder / "a.jsonl", [{"instruction": "1", "output": "a"}, {"instruction": "2", "output": "b"}])
    (folder / "b.json").write_text(json.dumps([{"question": "1", "answer": "a"}, {"question": "3", "answer": "c"}]))
    outcome = prepare(tmp_path / "out", tokenizer_folder, InstructionSettings(files=[str(folder)]), context=64)
    shapes = {
        name: count
        for name, count in outcome.metrics.items()
        if name.endswith(("alpaca_conversations", "answer_conversations"))
    }
    assert shapes == {"alpaca_conversations": 2, "question_answer_conversations": 2}
    assert (outcome.rows_out, outcome.metrics["dropped_duplicate"]) == (3, 1)


GOOD = {"question": "1", "answer": "a"}


@pytest.mark.parametrize(
    ("records", "changes", "problem"),
    [
        ([GOOD, {"question": "2", "answer": ""}], {}, r"talks\.jsonl, line 2 has an empty answer in message 2; fix"),
        ([GOOD, {"prompt": "2", "completion": "b"}], {}, "line 2 has no key 'question'"),
        ([GOOD], {"shape": "messages"}, "line 1 has no key 'messages'; its keys are 'question', 'answer'"),
        ([{"text": "a"}], {}, "line 1 has the keys 'text', which match no known shape"),
        ([GOOD, {"question": " 1 ", "answer": "b"}], {}, "fewer than two different questions"),
        ([], {}, "has no conversations"),
        ([], {"shape": "messages"}, "has no conversations"),
        ([GOOD, {"question": "2", "answer": "b"}], {"context": 4}, "No training conversation fits .* 4 tokens"),
        ([GOOD, {"question": "2", "answer": "b"}], {"system": "a</s>"}, "instructions.system contains '</s>'"),
        ([GOOD], {"files": ["nowhere.jsonl"]}, "nowhere.jsonl is not found"),
    ],
)
def test_a_user_mistake_is_an_error(
    pack: Callable[..., tuple[Path, Outcome]], records: list[Any], changes: dict[str, Any], problem: str
) -> None:
    with pytest.raises(UserError, match=problem) as raised:
        pack(records, **changes)
    assert "\n" not in str(raised.value)


def test_a_system_message_that_ends_a_modelfile_is_refused() -> None:
    with pytest.raises(ValidationError, match="Modelfile"):
        InstructionSettings(files=["talks.jsonl"], system='Say """.')


def test_a_file_that_changes_meanwhile_is_an_error(
    pack: Callable[..., tuple[Path, Outcome]], monkeypatch: pytest.MonkeyPatch
) -> None:
    read, times = instructions.read, []

    def changing(path: Path) -> Any:
        times.append(path)
        records = list(read(path))
        other = records[1]._replace(value={"question": "3", "answer": "c"})
        return iter(records if len(times) == 1 else [records[0], other])

    monkeypatch.setattr(instructions, "read", changing)
    with pytest.raises(UserError, match="line 2 changed during reading"):
        pack([GOOD, {"question": "2", "answer": "b"}])


@pytest.mark.parametrize("keep", [None, 0, 5])
def test_a_bad_mask_is_an_error(pack: Callable[..., tuple[Path, Outcome]], keep: int | None) -> None:
    out, _ = pack([GOOD, {"question": "2", "answer": "b"}])
    path = out / "train" / "learned-00000.bin"
    path.unlink() if keep is None else path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(UserError, match=r"learned-00000\.bin .* run the stage `instructions` again"):
        TokenSplit(out, "train")
