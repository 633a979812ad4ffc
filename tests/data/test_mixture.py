"""Mixtures compared with counting draws one by one, and with the documents of each source."""

from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from homegrown.config.pipelines import load_recipe
from homegrown.config.tokens import PackSettings
from homegrown.data.index import read_index
from homegrown.data.loader import Batches, TokenSplit
from homegrown.data.mixture import Order, phase_ends
from homegrown.data.packing import pack
from homegrown.tokenizer.loading import load
from homegrown.util.errors import UserError

Pack = Callable[..., Path]
NAMES = ("source-0", "source-1", "source-2")


@pytest.fixture(scope="module")
def mixed(shards: Path, tokenizer_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Pack:
    def packed(*phases: dict[str, Any], layout: str = "contiguous") -> Path:
        folder = tmp_path_factory.mktemp("mixed")
        settings = PackSettings.model_validate({"layout": layout, "mixture": phases})
        context = 64 if layout == "best_fit" else None
        with ThreadPoolExecutor(1) as executor:
            pack(folder, shards, tokenizer_folder, settings, context=context, shard_tokens=1000, executor=executor)
        return folder

    return packed


def epochs(*weights: float, share: float = 1) -> dict[str, Any]:
    return {"share": share, "weights": {name: {"epochs": many} for name, many in zip(NAMES, weights, strict=True)}}


def one_by_one(order: Order, windows: int) -> list[tuple[int, int]]:
    drawn: list[tuple[int, int]] = []
    while len(drawn) < windows:
        block = order.block(len(drawn))
        assert block.first == len(drawn)
        drawn += zip(block.sources.tolist(), block.draws.tolist(), strict=True)
    return drawn[:windows]


@given(
    counts=st.lists(st.lists(st.integers(0, 9000), min_size=3, max_size=3).filter(any), min_size=1, max_size=3),
    lengths=st.lists(st.integers(0, 12_000), min_size=2, max_size=2),
    windows=st.integers(1, 20_000),
)
def test_each_source_has_its_share_and_its_own_sequence(
    counts: list[list[int]], lengths: list[int], windows: int
) -> None:
    order = Order(counts, lengths[: len(counts) - 1], seed=5)
    drawn = one_by_one(order, windows)
    for source in range(3):
        own = [draw for which, draw in drawn if which == source]
        assert own == list(range(len(own)))
        assert order.drawn(windows)[source] == len(own)
    ends = np.cumsum([*lengths[: len(counts) - 1], 10**6]).tolist()
    for phase, (begin, end) in enumerate(zip([0, *ends], ends, strict=False)):
        given_ = Counter(source for source, _ in drawn[begin : min(end, windows)])
        for source, count in enumerate(counts[phase]):
            expected = sum(given_.values()) * count / sum(counts[phase])
            assert abs(given_[source] - expected) <= 4096


def test_a_reading_is_exact() -> None:
    order = Order([[7, 5000, 20_000]], [], seed=1)
    assert Counter(source for source, _ in one_by_one(order, 25_007)) == {0: 7, 1: 5000, 2: 20_000}


@pytest.mark.parametrize("layout", ["contiguous", "best_fit"])
def test_files_have_one_source_and_its_documents(
    shards: Path, tokenizer_folder: Path, mixed: Pack, layout: str
) -> None:
    packed = mixed(epochs(1, 2, 0.5), layout=layout)
    tokenizer, split = load(tokenizer_folder), TokenSplit(packed, "train")
    documents = [split.document(number)[1:-1].tolist() for number in range(split.documents)]
    sources = [file.source for file in read_index(packed).splits["train"] for _ in range(file.documents)]
    found = Counter((source, tokenizer.decode(tokens)) for source, tokens in zip(sources, documents, strict=True))
    rows = [row for part in sorted((shards / "train").iterdir()) for row in pq.read_table(part).to_pylist()]
    assert found == Counter((row["source"], row["text"]) for row in rows)
    assert sources == sorted(sources)


def places(batches: Batches, split: TokenSplit, steps: int) -> list[tuple[str, int]]:
    """Return the source and the first token of each window."""
    flat = split.read_at([0], split.tokens)[0]
    windows = np.concatenate([batches.batch(step) for step in range(steps)])
    found = []
    for window in windows:
        starts = np.flatnonzero(flat[: len(flat) - len(window) + 1] == window[0])
        (start,) = [start for start in starts.tolist() if (flat[start : start + len(window)] == window).all()]
        found.append(next((name, start) for name, stretch in split.stretches.items() if start in stretch))
    return found


def test_a_source_is_repeated_in_another_order(mixed: Pack) -> None:
    split = TokenSplit(mixed(epochs(1, 3, 0)), "train")
    batches = Batches(split, 32, 4, seed=2)
    counts = {name: (len(split.stretches[name]) - 32) // 32 for name in NAMES[:2]}
    steps = (counts["source-0"] + 3 * counts["source-1"]) // 4
    drawn = places(batches, split, steps)
    own = [start for name, start in drawn if name == "source-1"]
    first, second = own[: counts["source-1"]], own[counts["source-1"] : 2 * counts["source-1"]]
    assert len(set(first)) == len(set(second)) == counts["source-1"]
    assert first != second
    assert {name for name, _ in drawn} == {"source-0", "source-1"}
    for name, stretch in split.stretches.items():
        assert all(start + 32 in stretch for source, start in drawn if source == name)
    tokens = {name: sum(32 for source, _ in drawn if source == name) for name in counts}
    assert {name: tokens_ for name, (tokens_, _) in batches.drawn(steps).items()} == tokens
    assert batches.drawn(steps)["source-1"][1] == pytest.approx(3, rel=0.1)
    assert (Batches(split, 32, 4, seed=2).batch(5) == batches.batch(5)).all()


def test_the_last_tenth_has_its_own_mixture(mixed: Pack) -> None:
    split = TokenSplit(mixed(epochs(1, 1, 0, share=0.9), epochs(0, 0, 1, share=0.1)), "train")
    batches = Batches(split, 32, 2, seed=2, steps=40)
    drawn = [name for name, _ in places(batches, split, 40)]
    assert set(drawn[:72]) == {"source-0", "source-1"}
    assert set(drawn[72:]) == {"source-2"}
    assert phase_ends([0.9, 0.1], 40) == [36, 40]


def test_weights_in_tokens_are_proportions(mixed: Pack) -> None:
    weights = {"source-0": {"tokens": 3e6}, "source-1": {"tokens": 1e6}, "source-2": {"epochs": 0}}
    batches = Batches(TokenSplit(mixed({"weights": weights}), "train"), 16, 8, seed=1)
    tokens = {name: count for name, (count, _) in batches.drawn(4000).items()}
    assert tokens["source-0"] / tokens["source-1"] == pytest.approx(3, rel=0.01)


def test_rows_are_mixed_too(mixed: Pack) -> None:
    split = TokenSplit(mixed(epochs(0, 2, 0), layout="best_fit"), "train")
    batches = Batches(split, 64, 2, seed=1)
    rows = len(split.stretches["source-1"])
    drawn = np.concatenate([batches.batch(step) for step in range(rows // 2)])
    own = split.read(list(split.stretches["source-1"]), 64)
    assert {row.tobytes() for row in drawn} <= {row.tobytes() for row in own}


def test_a_source_without_text_is_an_error(shards: Path, tokenizer_folder: Path, tmp_path: Path) -> None:
    settings = PackSettings.model_validate({"mixture": [{"weights": {"other": {"epochs": 1}}}]})
    with ThreadPoolExecutor(1) as executor, pytest.raises(UserError, match="other, which has no training text"):
        pack(tmp_path, shards, tokenizer_folder, settings, executor=executor)


@pytest.mark.parametrize(
    ("mixture", "message"),
    [
        ("[{weights: {web: {epochs: 1}}}]", "names web, but the sources are packages"),
        ("[{weights: {packages: {epochs: 1, tokens: 5}}}]", "either tokens or epochs"),
        ("[{weights: {packages: {epochs: 1.0e+30}}}]", "epochs: .* less than or equal to 1000000"),
        ("[{weights: {packages: 2}}]", "weights.packages: .*a weight needs its unit, such as {epochs: 2}"),
        ("[{weights: {packages: {epochs: 0}}}]", "all weights of a phase are 0"),
        ("[{share: 0.5, weights: {packages: {epochs: 1}}}]", "add up to 0.5; make it 1"),
    ],
)
def test_a_wrong_mixture_is_refused(mixture: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_recipe("tiny", [f"pack.mixture={mixture}"])
