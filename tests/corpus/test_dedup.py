"""Deduplication against datasketch's LSH with brute-force clusters, and what must not change the result."""

import shutil
from concurrent.futures import Executor, ThreadPoolExecutor
from itertools import combinations
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from homegrown.config.corpus import DedupSettings
from homegrown.corpus import components, duplicates
from homegrown.corpus.dedup import dedup
from homegrown.corpus.exchange import write_buckets
from homegrown.corpus.lsh import WINDOW, Documents, banding, link, roots
from homegrown.util.seeds import derive
from tests.corpus.made_up import corpus, digests, jaccard, rows_of, write_documents

SETTINGS = DedupSettings(verification="signature", linkage="single")


def run(base: Path, texts: list[str], executor: Executor | None = None, rows: int = 50) -> Path:
    write_documents(base / "in", texts, rows)
    with executor or ThreadPoolExecutor(2) as pool:
        dedup(base / "out", base / "in", SETTINGS, seed=5, memory_gb=0.5, executor=pool)
    return base / "out"


def test_candidates_and_clusters_are_those_of_datasketchs_lsh(tmp_path: Path) -> None:
    from datasketch import MinHash, MinHashLSH

    out = run(tmp_path, corpus(11, 300))
    seed = derive(5, "dedup") % 2**32
    documents = {row["id"]: row["text"] for row in rows_of(tmp_path / "in" / "documents")}
    lengths = {key: len(text) for key, text in documents.items()}
    by_text: dict[str, str] = {}
    for key in sorted(documents):
        by_text.setdefault(documents[key].lower(), key)
    sketches = {
        row["id"]: MinHash(hashvalues=np.frombuffer(row["signature"], "<u4"), seed=seed, scheme="affine32")
        for row in rows_of(out / "signatures")
        if row["id"] in by_text.values()
    }
    index = MinHashLSH(num_perm=126, params=(21, 6))
    for key, minhash in sketches.items():
        index.insert(key, minhash)
    cluster = {key: {key} for key in sketches}
    for key, minhash in sketches.items():
        for other in index.query(minhash):
            if minhash.jaccard(sketches[other]) >= SETTINGS.threshold and cluster[key] is not cluster[other]:
                joined = cluster[key] | cluster[other]
                for member in joined:
                    cluster[member] = joined
    expected = {min(members, key=lambda key: (-lengths[key], key)) for members in cluster.values()}
    assert {row["id"] for row in rows_of(out / "documents")} == expected
    dropped = rows_of(out / "dropped")
    near = [row for row in dropped if row["kind"] == "near"]
    assert len(near) > 30
    for row in near:
        assert row["similarity"] == sketches[row["id"]].jaccard(sketches[row["duplicate_of"]]) >= SETTINGS.threshold
        assert {row["duplicate_of"], row["cluster"]} <= cluster[row["id"]]
        assert row["cluster"] in expected


def test_exact_duplicates_differ_in_case_and_white_space_only(tmp_path: Path) -> None:
    base = "The quick brown fox jumps over the lazy dog while seven wizards watch from the hill in silence."
    texts = [base, base.upper(), base.replace(" ", "\n  "), base + "  ", base + "!!", "?!", "!?", "... "]
    out = run(tmp_path, texts)
    ids = {row["text"]: row["id"] for row in rows_of(tmp_path / "in" / "documents")}
    dropped = {row["id"]: row for row in rows_of(out / "dropped")}
    longest = ids[base.replace(" ", "\n  ")]
    for text in texts[:2] + texts[3:4]:
        row = dropped[ids[text]]
        assert (row["duplicate_of"], row["kind"], row["similarity"], row["cluster"]) == (longest, "exact", 1.0, longest)
    near = dropped[ids[base + "!!"]]
    assert (near["kind"], near["similarity"], near["cluster"]) == ("near", 1.0, longest)
    kept = {row["text"] for row in rows_of(out / "documents")}
    assert kept == {base.replace(" ", "\n  "), "?!", "!?", "... "}, "texts without words are alike only when equal"


def test_a_row_repeated_in_a_file_stays_once(tmp_path: Path) -> None:
    out = run(tmp_path, ["the same text"] * 5 + ["another one"])
    assert sorted(row["text"] for row in rows_of(out / "documents")) == ["another one", "the same text"]
    assert len(rows_of(out / "dropped")) == 4


def test_what_an_exact_duplicate_names_may_be_dropped_itself(tmp_path: Path) -> None:
    words = [f"word{i}" for i in range(200)]
    short, long = " ".join(words), " ".join([*words, "end"])
    out = run(tmp_path, [short, short.upper(), long])
    ids = {row["text"]: row["id"] for row in rows_of(tmp_path / "in" / "documents")}
    exact, near = sorted(rows_of(out / "dropped"), key=lambda row: row["kind"])
    assert {exact["id"], exact["duplicate_of"]} == {ids[short], ids[short.upper()]}
    assert near["id"] == exact["duplicate_of"]
    assert exact["cluster"] == near["cluster"] == near["duplicate_of"] == ids[long]


@settings(max_examples=8, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 90))
def test_order_and_shard_size_do_not_change_what_is_kept(seed: int, rows: int) -> None:
    texts = corpus(seed, 60)
    with TemporaryDirectory() as folder:
        one = run(Path(folder, "one"), texts)
        Random(seed).shuffle(texts)
        other = run(Path(folder, "other"), texts, rows=rows)
        for table, columns in (
            ("documents", ["id"]),
            ("dropped", ["id", "duplicate_of", "kind", "similarity", "cluster"]),
        ):
            found = [
                sorted(tuple(row[name] for name in columns) for row in rows_of(out / table)) for out in (one, other)
            ]
            assert found[0] == found[1]


def test_workers_do_not_change_a_byte(tmp_path: Path, processes: Executor) -> None:
    out = run(tmp_path / "threads", corpus(3), rows=20)
    dedup(tmp_path / "processes", tmp_path / "threads" / "in", SETTINGS, seed=5, memory_gb=0.5, executor=processes)
    assert digests(tmp_path / "processes") == digests(out)
    assert {path.name for path in out.iterdir()} == {"documents", "dropped", "signatures", "clusters.parquet"}
    outcome_again = dedup(
        out, tmp_path / "threads" / "in", SETTINGS, seed=5, memory_gb=0.5, executor=ThreadPoolExecutor(1)
    )
    assert outcome_again.rows_in == 120 and outcome_again.rows_out == len(rows_of(out / "documents"))


@pytest.mark.parametrize("linkage", ["star", "single"])
def test_partitions_chunks_and_label_passing_do_not_change_a_byte(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, linkage: str
) -> None:
    texts = corpus(3, 400) + windows(40, 12) + [f"{windows(1, 1)[0]} {number}" for number in range(70)]
    settings = DedupSettings.model_validate({"linkage": linkage})
    write_documents(tmp_path / "in", texts, 90)

    def digest(name: str) -> dict[str, str]:
        with ThreadPoolExecutor(2) as pool:
            dedup(tmp_path / name, tmp_path / "in", settings, seed=5, memory_gb=0.5, executor=pool)
        return digests(tmp_path / name)

    expected = digest("one")
    monkeypatch.setattr(duplicates, "SMALL", 100)  # 5 partitions
    monkeypatch.setattr(duplicates, "CHUNK", 40)  # fewer than the documents of one key
    assert digest("parts") == expected
    monkeypatch.setattr(components, "UNION_MEMORY", 0)
    monkeypatch.setattr(components, "_RANGE", 60)
    assert digest("passed") == expected


def test_label_passing_finds_the_components_of_union_find(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    draw = np.random.default_rng(2)
    chain = np.arange(400, 500)
    pairs = np.concatenate([draw.integers(0, 400, (150, 2)), np.stack([chain[:-1], chain[1:]], axis=1)]).astype(
        np.uint32
    )
    links = pa.table({"left": pairs.min(axis=1), "right": pairs.max(axis=1)})
    write_buckets(tmp_path / "links", links, np.arange(len(pairs)) % 3, {})
    found = []
    for memory in (10**9, 0):
        monkeypatch.setattr(components, "UNION_MEMORY", memory)
        monkeypatch.setattr(components, "_RANGE", 90)
        with ThreadPoolExecutor(2) as pool:
            components.label((tmp_path / "links",), 520, tmp_path / f"labels-{memory}", tmp_path / "passed", pool)
        found.append(np.fromfile(tmp_path / f"labels-{memory}", np.uint32))
    assert np.array_equal(*found) and set(found[0][400:500]) == {400} and len(set(found[0])) > 200


def test_nothing_and_one_document(tmp_path: Path) -> None:
    assert rows_of(run(tmp_path / "none", []) / "documents") == []
    assert len(rows_of(run(tmp_path / "one", ["a text"]) / "documents")) == 1


@pytest.mark.parametrize("size", [3, 500])
def test_a_bucket_of_two_groups_makes_two_clusters(size: int) -> None:
    groups = np.random.default_rng(1).integers(0, 2, size + WINDOW).astype(np.uint32)
    signatures = np.stack([np.full(12, group, np.uint32) for group in groups])
    nodes = np.arange(len(groups), dtype=np.uint32)
    parents = nodes.copy()
    documents = Documents(signatures, np.empty(0, np.uint32), np.empty(0, np.int64))
    pairs, similarities = link(np.zeros(len(nodes), np.uint64), nodes, nodes, documents, 0.7, parents)
    tree = roots(parents)
    assert all((tree[a] == tree[b]) == (groups[a] == groups[b]) for a, b in combinations(range(len(nodes)), 2))
    assert len(pairs) == len(nodes) - 2 and set(similarities) == {1.0}


def test_leftovers_of_a_killed_run_do_not_matter(tmp_path: Path) -> None:
    out = run(tmp_path, corpus(4))
    expected = digests(out)
    shutil.rmtree(out / "documents")
    (out / "spill").mkdir()
    (out / "spill" / "spill.duckdb").write_bytes(b"torn")
    run(tmp_path, corpus(4))
    assert digests(out) == expected


def test_verification_by_jaccard_reports_the_true_one(tmp_path: Path) -> None:
    write_documents(tmp_path / "in", corpus(12, 300))
    with ThreadPoolExecutor(2) as pool:
        dedup(tmp_path / "out", tmp_path / "in", DedupSettings(), seed=5, memory_gb=0.5, executor=pool)
    texts = {row["id"]: row["text"] for row in rows_of(tmp_path / "in" / "documents")}
    near = [row for row in rows_of(tmp_path / "out" / "dropped") if row["kind"] == "near"]
    assert len(near) > 30
    for row in near:
        true = jaccard(texts[row["id"]], texts[row["duplicate_of"]])
        assert row["similarity"] == pytest.approx(true, abs=1e-12) and true >= 0.7
    kept = [row["text"] for row in rows_of(tmp_path / "out" / "documents")]
    missed = sum(jaccard(one, other) >= 0.8 for one, other in combinations(kept, 2))
    assert missed <= 1  # a pair at 0.8 is no candidate with a probability of 0.0017
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "documents", "dropped", "signatures", "clusters.parquet"
    }  # fmt: skip


def letters_and_runs(text: str) -> float:
    words = text.split()
    runs = [tuple(words[i : i + 5]) for i in range(len(words) - 4)]
    return sum(map(str.isalpha, text)) / len(text) * len(set(runs)) / len(runs)


def test_the_kept_one_is_the_longest_or_first_or_best(tmp_path: Path) -> None:
    words = [f"word{i}x" for i in range(300)]
    cuts = (words[:280], [*words[:298], "77777", "88888"], [*words[:297], *words[:9]], words[:296])
    texts = [" ".join(cut) for cut in cuts]
    first = [-place for place in range(len(texts))]
    orders = {"longest": list(map(len, texts)), "first": first, "best_quality": list(map(letters_and_runs, texts))}
    for keep, order in orders.items():
        base = tmp_path / keep
        write_documents(base / "in", texts)
        settings = DedupSettings.model_validate({"keep": keep})
        with ThreadPoolExecutor(1) as pool:
            dedup(base / "out", base / "in", settings, seed=5, memory_gb=0.5, executor=pool)
        assert [row["text"] for row in rows_of(base / "out" / "documents")] == [texts[order.index(max(order))]]
        largest = pq.read_table(base / "out" / "clusters.parquet").to_pylist()
        assert [row["documents"] for row in largest] == [4] and len(largest[0]["examples"]) == 3


@pytest.mark.parametrize(("similarity", "expected"), [(0.9, (9, 14)), (0.8, (15, 8)), (0.7, (21, 6)), (0.5, (42, 3))])
def test_bands_for_a_similarity(similarity: float, expected: tuple[int, int]) -> None:
    bands, rows = banding(similarity, 126)
    assert (bands, rows) == expected
    assert 1 - (1 - similarity**rows) ** bands >= 0.9
    assert 1 - (1 - similarity ** (rows + 1)) ** (126 // (rows + 1)) < 0.9


def test_repeated_rows_of_a_file_are_identified_by_position(tmp_path: Path) -> None:
    out = run(tmp_path, ["the same text"] * 4)
    kept, dropped = rows_of(out / "documents"), rows_of(out / "dropped")
    assert {row["id"] for row in dropped} == {kept[0]["id"]}
    assert sorted(row["position"] for row in [*kept, *dropped]) == [1, 2, 3, 4]


def windows(count: int, step: int) -> list[str]:
    words = [f"w{Random(number).randrange(10**6)}" for number in range(count * step + 200)]
    return [" ".join(words[number * step : number * step + 200]) for number in range(count)]


def similarities_to_kept(out: Path, documents: dict[str, str]) -> list[float]:
    near = [row for row in rows_of(out / "dropped") if row["kind"] == "near"]
    return [jaccard(documents[row["id"]], documents[row["cluster"]]) for row in near]


@pytest.mark.parametrize(("linkage", "least", "kept"), [("star", 0.7, range(5, 20)), ("single", 0.0, range(1, 2))])
def test_a_chain_of_windows_leaves_one_or_similar_ones(tmp_path: Path, linkage: str, least: float, kept: range) -> None:
    texts = windows(40, 12)
    write_documents(tmp_path / "in", texts, 7)
    settings = DedupSettings.model_validate({"linkage": linkage})
    with ThreadPoolExecutor(2) as pool:
        dedup(tmp_path / "out", tmp_path / "in", settings, seed=5, memory_gb=0.5, executor=pool)
    documents = {row["id"]: row["text"] for row in rows_of(tmp_path / "in" / "documents")}
    found = similarities_to_kept(tmp_path / "out", documents)
    left = [row["text"] for row in rows_of(tmp_path / "out" / "documents")]
    assert len(left) in kept and len(left) + len(found) == 40
    assert (min(found) >= least) if least else min(found) == 0
    if linkage == "star":
        assert all(jaccard(one, other) < 0.7 for one, other in combinations(left, 2))


PARAGRAPHS = ["License: " + "you may copy this as you like. " * 4, "Footer of the site. " * 5, "short footer"]


def cut_by_hand(texts: list[str], least: int, characters: int) -> list[str]:
    """The texts without the paragraphs that `least` different ones share, but for the first of each."""

    def plain(text: str) -> str:
        return " ".join(text.lower().split())

    holders: dict[str, set[str]] = {}
    for text in texts:
        for paragraph in text.split("\n\n"):
            if len(paragraph) >= characters:
                holders.setdefault(plain(paragraph), set()).add(plain(text))
    seen: set[str] = set()
    left = []
    for text in texts:
        remaining = []
        for paragraph in text.split("\n\n"):
            key = plain(paragraph)
            if len(holders.get(key, ())) < least or key not in seen:
                remaining.append(paragraph)
            seen.add(key)
        left.append("\n\n".join(remaining).strip("\n"))
    return left


@pytest.mark.parametrize("rows", [3, 50])
def test_paragraphs_that_many_share_stay_in_the_first(tmp_path: Path, rows: int) -> None:
    draw = Random(3)
    texts = []
    for text in corpus(12, 40):
        parts = [text, *draw.sample(PARAGRAPHS, draw.randrange(4))]
        parts = [part.upper() if draw.random() < 0.2 else part for part in parts]
        draw.shuffle(parts)
        texts.append("\n\n".join(parts))
    texts += [texts[3], PARAGRAPHS[0], "\n\n".join(PARAGRAPHS[:2])]
    write_documents(tmp_path / "in", texts, rows)
    settings = DedupSettings.model_validate({"paragraphs": {"min_documents": 3}, "threshold": 1.0})
    with ThreadPoolExecutor(2) as pool:
        outcome = dedup(tmp_path / "out", tmp_path / "in", settings, seed=5, memory_gb=0.5, executor=pool)
    written = [row["text"] for row in rows_of(tmp_path / "in" / "documents")]
    expected = cut_by_hand(written, 3, 60)
    places = {row["position"]: number for number, row in enumerate(rows_of(tmp_path / "in" / "documents"))}
    for row in rows_of(tmp_path / "out" / "documents"):
        assert row["text"] == expected[places[row["position"]]]
    dropped = rows_of(tmp_path / "out" / "dropped")
    emptied = {places[row["position"]] for row in dropped if row["kind"] == "paragraphs"}
    assert emptied == {number for number, text in enumerate(expected) if not text} and len(emptied) == 2
    account = rows_of(tmp_path / "out" / "cut")
    assert outcome.metrics["cut_paragraphs"] == len(account) > 20
    for row in account:
        text = written[places[row["position"]]]
        assert text[row["start"] :][: row["characters"]].strip().startswith(row["text_start"][:50])
        assert len(text) - len(expected[places[row["position"]]]) >= row["characters"]
    assert len(account) == sum(
        len(text.split("\n\n")) - len(left.split("\n\n")) + (not left)
        for text, left in zip(written, expected, strict=True)
    )


def test_a_license_in_many_texts_takes_none_of_them(tmp_path: Path) -> None:
    license_text = "\n\n".join(" ".join(f"clause{number}x{word}" for word in range(60)) for number in range(5))
    texts = [
        f"{license_text}\n\nProgram {number} does {' '.join(f'n{number}w{word}' for word in range(20))}"
        for number in range(19)
    ]
    write_documents(tmp_path / "in", texts, 50)
    left = {}
    for name, paragraphs in (("without", None), ("with", {})):
        settings = DedupSettings.model_validate({"paragraphs": paragraphs})
        with ThreadPoolExecutor(2) as pool:
            dedup(tmp_path / name, tmp_path / "in", settings, seed=5, memory_gb=0.5, executor=pool)
        left[name] = [row["text"] for row in rows_of(tmp_path / name / "documents")]
    assert (len(left["without"]), len(left["with"])) == (1, 19)
    assert sum("clause0x0" in text for text in left["with"]) == 1
