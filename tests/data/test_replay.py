"""Replay: how much is added, what is left out, and conversations as tokens of the base's template."""

import json
import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from homegrown.config.adaptation import ReplaySettings
from homegrown.config.corpus import IngestSettings, ShardSettings
from homegrown.config.tokens import PackSettings
from homegrown.data.loader import TokenSplit
from homegrown.data.packing import pack
from homegrown.data.replay import replay
from homegrown.tokenizer.chat import Message, load_chat
from homegrown.util.errors import UserError
from homegrown.util.files import parquet_parts, write_parquet
from homegrown.util.progress import Outcome
from tests.finetuning.conversations import write_base

WORDS = ["river", "stone", "hill", "cloud", "meadow", "turning", "slowly", "around", "before", "larger", "morning"]


def text(seed: int, words: int = 60) -> str:
    return " ".join(random.Random(seed).choices(WORDS, k=words)) + f" {seed}."


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    folder = tmp_path / "shards"
    for split, first, count in (("train", 0, 40), ("validation", 100, 5), ("test", 200, 5)):
        rows = [
            {"id": f"{split}{number}", "text": text(first + number), "source": "own", "path": "a", "position": number}
            for number in range(count)
        ]
        write_parquet(folder / split / "part-00000.parquet", pa.Table.from_pylist(rows))
    return folder


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base") / "model"
    write_base(folder, "modern")
    return folder


def run(out: Path, shards: Path, base: Path, **settings: Any) -> Outcome:
    with ThreadPoolExecutor(1) as executor:
        return replay(
            out,
            shards,
            base,
            ReplaySettings.model_validate(settings),
            IngestSettings.model_validate({"sources": [{"kind": "packages", "name": "unused"}]}),
            ShardSettings(validation_share=0.1, test_share=0.1),
            seed=3,
            executor=executor,
        )


def rows(folder: Path) -> list[dict[str, Any]]:
    return [row for part in parquet_parts(folder) for row in pq.ParquetFile(part).read().to_pylist()]


def size(documents: list[dict[str, Any]]) -> int:
    return sum(len(row["text"].encode()) for row in documents)


@pytest.mark.parametrize("share", [0.05, 0.5])
def test_other_text_makes_its_share_and_nothing_else_changes(
    shards: Path, base: Path, tmp_path: Path, share: float
) -> None:
    other = tmp_path / "other.jsonl"
    leaked = text(200)  # a test document
    other.write_text("".join(json.dumps({"text": one}) + "\n" for one in [leaked, *(text(n) for n in range(500, 700))]))
    sources = [{"kind": "files", "name": "general", "path": str(other)}]
    outcome = run(tmp_path / "out", shards, base, sources=sources, share=share)
    for split in ("validation", "test"):
        assert rows(tmp_path / "out" / split) == rows(shards / split)
    own, added = rows(shards / "train"), rows(tmp_path / "out" / "train")[40:]
    assert rows(tmp_path / "out" / "train")[:40] == own
    assert {row["source"] for row in added} == {"general"}
    assert size(added) / (size(added) + size(own)) == pytest.approx(share, abs=1e-3)
    assert outcome.metrics["replay_share"] == pytest.approx(share, abs=1e-3)
    assert leaked not in {row["text"] for row in added}
    assert (outcome.rows_in, outcome.rows_out, outcome.metrics["similar_to_held_out"]) == (201, len(added), 1)
    assert not (tmp_path / "out" / "work").exists()
    run(tmp_path / "again", shards, base, sources=sources, share=share)
    assert rows(tmp_path / "again" / "train") == rows(tmp_path / "out" / "train")


def test_conversations_are_tokens_of_the_template(shards: Path, base: Path, tmp_path: Path) -> None:
    chat = load_chat(base)
    forged = chat.tokenizer.id_to_token(chat.turn_end or 0)
    talks = [
        [{"role": "user", "content": f"box {number}?"}, {"role": "assistant", "content": f"it is {number}."}]
        for number in range(9)
    ]
    bad = [{"messages": [{"role": "user", "content": f"a {forged}"}, {"role": "assistant", "content": "b"}]}, {"x": 1}]
    file = tmp_path / "talks.jsonl"
    file.write_text("".join(json.dumps(one) + "\n" for one in [*({"messages": talk} for talk in talks), *bad]))
    outcome = run(tmp_path / "out", shards, base, conversations=[str(file)], share=0.9)
    assert outcome.rows_out == 9
    assert [row["position"] for row in rows(tmp_path / "out" / "quarantine")] == [10, 11]
    with ThreadPoolExecutor(1) as executor:
        pack(tmp_path / "packed", tmp_path / "out", base, PackSettings(), executor=executor)
    split = TokenSplit(tmp_path / "packed", "train")
    packed = {tuple(split.document(number)[1:-1].tolist()) for number in range(40, 49)}
    expected = [chat.encode([Message(**turn) for turn in talk], reply=False) for talk in talks]
    start, end = split.document(40)[0], split.document(40)[-1]
    assert packed == {tuple(ids[int(ids[0] == start) : len(ids) - int(ids[-1] == end)]) for ids in expected}


def test_conversations_of_which_none_can_be_used_are_refused(shards: Path, base: Path, tmp_path: Path) -> None:
    file = tmp_path / "talks.jsonl"
    file.write_text('{"x": 1}\n')
    with pytest.raises(UserError, match=r"replay\.conversations has no usable conversation; the first is in .*talks"):
        run(tmp_path / "out", shards, base, conversations=[str(file)])
    with pytest.raises(UserError, match=r"replay\.conversations: .*nowhere.* is not found"):
        run(tmp_path / "out", shards, base, conversations=[str(tmp_path / "nowhere.jsonl")])
