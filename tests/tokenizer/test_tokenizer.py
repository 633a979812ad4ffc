"""The tokenizer: ids, round trip, splitting, sample and statistics."""

import subprocess
import sys
from pathlib import Path

import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from tokenizers import Tokenizer

from homegrown.config.tokens import TokenizerSettings
from homegrown.tokenizer import usage
from homegrown.tokenizer.encoding import Encoder, to_bytes
from homegrown.tokenizer.loading import load, token_bytes
from homegrown.tokenizer.special import SPECIAL_TOKENS, special_ids
from homegrown.tokenizer.train import train_tokenizer
from homegrown.util.errors import UserError
from tests.tokenizer.texts import VOCABULARY, make_texts, split_texts, write_shard


@pytest.fixture(scope="session")
def tokenizer(tokenizer_folder: Path) -> Tokenizer:
    return load(tokenizer_folder)


def test_special_tokens_come_first_then_all_bytes_then_merges(tokenizer: Tokenizer) -> None:
    specials = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", "<|im_start|>", "<|im_end|>"]
    assert [tokenizer.token_to_id(token) for token in specials] == list(range(7))
    sizes = token_bytes(tokenizer)
    assert sizes.shape == (VOCABULARY,)
    assert sizes[:7].tolist() == [0] * 7
    assert sizes[7:263].tolist() == [1] * 256
    assert sizes[263:].min() >= 2


@given(text=st.text())
def test_round_trip_is_exact_and_bytes_add_up(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text).ids
    assert tokenizer.decode(ids) == text
    assert token_bytes(tokenizer)[ids].sum() == len(text.encode())


@given(data=st.binary())
def test_any_bytes_round_trip(tokenizer: Tokenizer, data: bytes) -> None:
    """Invalid UTF-8 too: each byte has a token, and complete characters decode."""
    names = [tokenizer.id_to_token(7 + number) for number in range(256)]
    number_of = {to_bytes(name): 7 + number for number, name in enumerate(names)}
    ids = [number_of[bytes([byte])] for byte in data]
    assert tokenizer.decode(ids) == data.decode(errors="replace")
    text = data.decode("latin-1")
    encoded = tokenizer.encode(text).ids
    assert b"".join(to_bytes(tokenizer.id_to_token(number)) for number in encoded) == text.encode()
    assert tokenizer.decode(encoded).encode("latin-1") == data


@given(pieces=st.lists(st.sampled_from([*SPECIAL_TOKENS, " ", "a", "<", "|>", "\n"]), max_size=12))
def test_the_text_of_a_special_token_is_text(tokenizer: Tokenizer, pieces: list[str]) -> None:
    ids = tokenizer.encode("".join(pieces)).ids
    assert all(number >= len(SPECIAL_TOKENS) for number in ids)
    assert tokenizer.decode(ids) == "".join(pieces)


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("I'M sure, don't", ["I", "'M", " sure", ",", " don", "'t"]),
        ("x=12", ["x", "=", "1", "2"]),
        ("a   b\n\n  c ", ["a", "  ", " b", "\n\n", " ", " c", " "]),
        ("(it) ...\n\nno", ["(it", ")", " ...\n\n", "no"]),
        ("zażółć 語言", ["zażółć", " 語言"]),
    ],
)
def test_text_is_split_as_by_qwen2(tokenizer: Tokenizer, text: str, pieces: list[str]) -> None:
    assert [text[start:end] for _, (start, end) in tokenizer.pre_tokenizer.pre_tokenize_str(text)] == pieces


def test_tokens_of_ones_own_follow_the_special_ones_and_are_found_in_text(tmp_path: Path) -> None:
    texts = [text + "<|de|>ka" for text in make_texts(0, 60)]
    write_shard(tmp_path / "train" / "part-00000.parquet", texts)
    own = ["<|de|>", "[task]"]
    settings = TokenizerSettings(vocabulary_size=560, sample_mb=1, special_tokens=own)
    train_tokenizer(tmp_path, tmp_path, settings)
    tokenizer = load(tmp_path)
    assert [tokenizer.token_to_id(name) for name in own] == [7, 8]
    assert tokenizer.get_vocab_size() == 560
    plain = TokenizerSettings(vocabulary_size=558, sample_mb=1)
    write_shard(
        tmp_path / "other" / "train" / "part-00000.parquet",
        [piece for text in make_texts(0, 60) for piece in (text, "ka")],
    )
    train_tokenizer(tmp_path / "other", tmp_path / "other", plain)
    assert set(tokenizer.get_vocab()) == {*load(tmp_path / "other").get_vocab(), *own}
    text = "lo<|de|> mi[task]</s>"
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    assert (ids.count(7), ids.count(8), ids.count(tokenizer.token_to_id("</s>"))) == (1, 1, 0)
    assert tokenizer.decode(ids) == text
    assert Encoder(tokenizer).encode(text).tolist() == ids
    assert token_bytes(tokenizer)[ids].sum() == len(text)


def test_the_guides_special_tokens(tmp_path: Path) -> None:
    write_shard(tmp_path / "train" / "part-00000.parquet", make_texts(0, 60))
    train_tokenizer(tmp_path, tmp_path, TokenizerSettings(vocabulary_size=500, sample_mb=1, special="guide"))
    tokenizer = load(tmp_path)
    names = ["<PAD>", "<UNK>", "<CLS>", "<SEP>", "<MASK>", "<BOS>", "<EOS>"]
    assert [tokenizer.token_to_id(name) for name in names] == list(range(7))
    ids = special_ids(tokenizer)
    assert (ids.bos, ids.eos, ids.message_start, ids.message_end) == (5, 6, None, None)


@pytest.mark.parametrize("tokens", [["<|de|>", "<|de|>"], [" x"], ["x"], ["a b "]])
def test_tokens_that_cannot_be_added_are_an_error(tokens: list[str]) -> None:
    with pytest.raises(ValidationError, match="special_tokens"):
        TokenizerSettings(vocabulary_size=500, sample_mb=1, special_tokens=tokens)


@pytest.mark.slow
def test_the_same_file_whatever_the_number_of_threads(shards: Path, tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path\n"
        "from homegrown.config.tokens import TokenizerSettings\n"
        "from homegrown.tokenizer.train import train_tokenizer\n"
        "train_tokenizer(Path(sys.argv[1]), Path(sys.argv[2]), TokenizerSettings(vocabulary_size=700, sample_mb=1))"
    )
    for threads in ("1", "5"):
        subprocess.run(
            [sys.executable, "-c", code, tmp_path / threads, shards],
            env={"RAYON_NUM_THREADS": threads, "TOKENIZERS_PARALLELISM": str(threads != "1").lower()},
            cwd=Path(__file__).parents[2],
            check=True,
        )
    for name in (
        "tokenizer.json",
        "vocabulary/part-00000.parquet",
        "sources/part-00000.parquet",
        "languages/part-00000.parquet",
    ):
        assert (tmp_path / "1" / name).read_bytes() == (tmp_path / "5" / name).read_bytes()


def test_only_the_first_documents_up_to_the_limit_are_used(tmp_path: Path) -> None:
    texts = make_texts(0, 60)
    limit = sum(len(text.encode()) for text in texts[:30])
    write_shard(tmp_path / "more" / "train" / "part-00000.parquet", texts)
    write_shard(tmp_path / "less" / "train" / "part-00000.parquet", texts[:30])
    settings = TokenizerSettings(vocabulary_size=400, sample_mb=limit / 1e6)
    outcomes = [train_tokenizer(tmp_path / name / "out", tmp_path / name, settings) for name in ("more", "less")]
    assert [outcome.rows_in for outcome in outcomes] == [30, 30]
    files = [(tmp_path / name / "out" / "tokenizer.json").read_bytes() for name in ("more", "less")]
    assert files[0] == files[1]


def test_shards_beyond_the_limit_are_not_even_opened(tmp_path: Path) -> None:
    texts = make_texts(0, 60)
    write_shard(tmp_path / "train" / "part-00000.parquet", texts)
    (tmp_path / "train" / "part-00001.parquet").write_bytes(b"no Parquet")
    limit = sum(len(text.encode()) for text in texts[:59])
    settings = TokenizerSettings(vocabulary_size=400, sample_mb=limit / 1e6)
    assert train_tokenizer(tmp_path / "out", tmp_path, settings).rows_in == 59


def test_languages_are_identified_on_the_first_documents(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    english = "The weather was so fine that they walked to the river and stayed there until the evening came. "
    polish = "Pogoda była tak piękna, że poszli nad rzekę i zostali tam aż do wieczora, rozmawiając o wszystkim. "
    write_shard(tmp_path / "train" / "part-00000.parquet", [english * 3, polish * 2, english] * 10)
    monkeypatch.setattr(usage, "_LANGUAGE_DOCUMENTS", 20)
    train_tokenizer(tmp_path, tmp_path, TokenizerSettings(vocabulary_size=300, sample_mb=1))
    tokenizer = load(tmp_path)
    rows = {row["language"]: row for row in pq.read_table(tmp_path / "languages").to_pylist()}
    assert {code: row["documents"] for code, row in rows.items()} == {"en": 13, "pl": 7}
    assert rows["pl"]["bytes"] == 7 * 2 * len(polish.encode())
    assert rows["pl"]["tokens"] == 7 * len(tokenizer.encode(polish * 2).ids)
    assert rows["pl"]["bytes_per_token"] == pytest.approx(rows["pl"]["bytes"] / rows["pl"]["tokens"])


def test_statistics_count_the_sample(shards: Path, tokenizer_folder: Path, tokenizer: Tokenizer) -> None:
    ids = [number for text in split_texts(shards, "train") for number in tokenizer.encode(text).ids]
    vocabulary = pq.read_table(tokenizer_folder / "vocabulary")
    assert vocabulary["count"].to_pylist() == [ids.count(number) for number in range(VOCABULARY)]
    sources = pq.read_table(tokenizer_folder / "sources")
    assert sorted(sources["source"].to_pylist()) == ["source-0", "source-1", "source-2"]
    assert pc.sum(sources["tokens"]).as_py() == len(ids)
    text_bytes = sum(len(text.encode()) for text in split_texts(shards, "train"))
    assert pc.sum(sources["bytes"]).as_py() == text_bytes
    assert pc.sum(pc.multiply(vocabulary["count"], vocabulary["bytes"])).as_py() == text_bytes


def test_too_little_text_is_an_error_with_a_size_that_works(tmp_path: Path) -> None:
    write_shard(tmp_path / "train" / "part-00000.parquet", make_texts(0, 60))
    with pytest.raises(UserError, match=r"tokenizer\.vocabulary_size is 60000") as failure:
        train_tokenizer(tmp_path / "out", tmp_path, TokenizerSettings(vocabulary_size=60_000, sample_mb=1))
    possible = int(str(failure.value).split("lower it to ")[1].split()[0])
    settings = TokenizerSettings(vocabulary_size=possible, sample_mb=1)
    assert train_tokenizer(tmp_path / "out", tmp_path, settings).rows_out == possible


def test_no_text_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="add text"):
        train_tokenizer(tmp_path / "out", tmp_path, TokenizerSettings(vocabulary_size=512, sample_mb=1))


def test_missing_and_damaged_files_are_errors(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="missing"):
        load(tmp_path)
    (tmp_path / "tokenizer.json").write_text('{"version": "1.0", "model"')
    with pytest.raises(UserError, match="damaged"):
        load(tmp_path)
