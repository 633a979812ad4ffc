"""Good prose kept and junk dropped, in 16 languages, by the filters of `tiny` and `medium` with `language: auto`.

    python -m benchmarks.corpus_languages

Good are passages of the declaration of human rights and, in eight languages, prose written for this benchmark
(`prose.json`). Junk is made of them, each kind in two ways: gibberish (letters of the language in random order, by the
lengths of its words; as often as in the language, or all alike), menus (lines of one to three words; or entries of one
to four words between bars or after bullets), shuffled words (of all the passages, in random order; in one line, or in
lines that end with full stops). The rules and thresholds were chosen on declarations in other languages, English
articles and the documentation of installed packages; but that texts with few repeats are judged by two letters, and
that short sentences count, was found to be missing here.
"""

import gzip
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any
from unicodedata import normalize

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from homegrown.config.filter import FilterSettings
from homegrown.corpus.compiled import buffers
from homegrown.corpus.documents import SCHEMA
from homegrown.corpus.filter import filter_documents
from homegrown.corpus.segmenter import word_ends
from homegrown.util.files import write_parquet
from homegrown.util.parallel import process_pool

ROOT = Path(__file__).parents[1]
DECLARATIONS = ROOT.parent / "shared" / "corpora" / "udhr-languages.jsonl.gz"
LANGUAGES = {
    "en": "eng",
    "zh": "cmn_hans",
    "ja": "jpn",
    "th": "tha",
    "hi": "hin",
    "ar": "arb",
    "ru": "rus",
    "de": "deu",
}
LANGUAGES |= {"fr": "fra", "es": "spa", "ko": "kor", "vi": "vie", "tr": "tur", "km": "khm", "bn": "ben", "sw": "swh"}
RECIPES = {"tiny": "filter_documentation", "medium": "filter_prose"}
KINDS = ("good", "gibberish", "menu", "shuffled")
_PASSAGE = 1_500  # characters of a passage of a declaration
_PARAGRAPH = 60  # bytes: shorter ones are headings
_JUNK = 20  # documents of each kind
_FULL_STOPS = {"zh": "。", "ja": "。", "hi": "।", "bn": "।", "km": "។", "th": ""}


def measure() -> dict[str, float]:
    """Print the table; return the least share of good documents kept in a language, and of junk dropped."""
    documents = list(_documents())
    found: dict[str, float] = {}
    for recipe, name in RECIPES.items():
        kept = _kept(documents, name)
        print(f"\n{recipe}: share kept, good and junk by kind")
        print(f"{'':10}" + "".join(f"{kind:>11}" for kind in KINDS))
        shares = {}
        for language in LANGUAGES:
            row = [_share(documents, kept, language, kind) for kind in KINDS]
            shares[language] = row
            print(f"{language:10}" + "".join(f"{share:11.1%}" for share in row))
        junk = [place for place, (_, kind, _) in enumerate(documents) if kind != "good"]
        found[f"{recipe}_least_good_kept"] = min(row[0] for row in shares.values())
        found[f"{recipe}_junk_dropped"] = 1 - sum(place in kept for place in junk) / len(junk)
        for number, kind in enumerate(KINDS[1:], 1):
            found[f"{recipe}_{kind}_dropped"] = 1 - sum(row[number] for row in shares.values()) / len(shares)
    return found


def _kept(documents: list[tuple[str, str, str]], definition: str) -> set[int]:
    """Return the places of the documents that a filter of pipelines.yaml keeps, whatever their language."""
    definitions = yaml.safe_load((ROOT / "pipelines.yaml").read_text(encoding="utf-8"))["definitions"]
    settings = FilterSettings.model_validate(definitions[definition] | {"language": "auto", "languages": []})
    columns: list[list[Any]] = [
        [str(place) for place in range(len(documents))],
        [text for *_, text in documents],
        [language for language, *_ in documents],
        [kind for _, kind, _ in documents],
        list(range(len(documents))),
        [None] * len(documents),
    ]
    with TemporaryDirectory() as folder, process_pool(1) as executor:
        write_parquet(Path(folder) / "in" / "documents" / "part-00000.parquet", pa.table(columns, schema=SCHEMA))
        filter_documents(Path(folder) / "out", Path(folder) / "in", settings, executor=executor)
        kept = pq.read_table(Path(folder) / "out" / "documents")
        dropped = pq.read_table(Path(folder) / "out" / "dropped").to_pylist()
    by_rule = Counter((row["path"], row["rule"]) for row in dropped)
    for kind in KINDS[1:]:
        print(
            f"{kind} dropped by "
            + ", ".join(f"{rule} {count}" for (one, rule), count in by_rule.most_common() if one == kind)
        )
    lost = Counter((row["source"], row["rule"]) for row in dropped if row["path"] == "good")
    for (language, rule), count in lost.items():
        print(f"{language}: {count} good documents dropped by {rule}")
    return {int(place) for place in kept["id"].to_pylist()}


def _share(documents: list[tuple[str, str, str]], kept: set[int], language: str, kind: str) -> float:
    own = [place for place, (code, sort, _) in enumerate(documents) if (code, sort) == (language, kind)]
    return sum(place in kept for place in own) / len(own)


def _documents() -> Iterator[tuple[str, str, str]]:
    """Yield language, kind and text of each document."""
    with gzip.open(DECLARATIONS, "rt", encoding="utf-8") as file:
        declarations = {row["lang"]: row["text"] for row in map(json.loads, file)}
    prose = json.loads((ROOT / "benchmarks" / "prose.json").read_text(encoding="utf-8"))
    for language, name in LANGUAGES.items():
        random = Random(language)
        lines = normalize("NFC", declarations[name]).split("\n")  # as ingest does
        paragraphs = [" ".join(line.split()) for line in lines]
        paragraphs = [line for line in paragraphs if len(line.encode()) >= _PARAGRAPH]
        for text in _passages(paragraphs):
            yield language, "good", text
        own = prose.get(language, [])
        for start in range(len(own)):
            yield language, "good", "\n\n".join(own[(start + place) % len(own)] for place in range(3))
        words, space = _words(paragraphs + own)
        letters = [letter for word in words for letter in word if letter.isalpha()]
        for number in range(_JUNK):
            second = number % 2 == 1
            choices = sorted(set(letters)) if second else letters
            gibberish = ("".join(random.choices(choices, k=len(word))) for word in random.choices(words, k=200))
            yield language, "gibberish", space.join(gibberish)
            entries = [space.join(random.choices(words, k=random.randrange(1, 4 + second))) for _ in range(60)]
            between = random.choice((" | ", "\n• ")) if second else "\n"
            yield language, "menu", between.join(entries)
            mixed = random.sample(words, len(words))
            many = 15 if second else len(mixed)
            end = _FULL_STOPS.get(language, ".") if second else ""
            parts = (space.join(mixed[first : first + many]) + end for first in range(0, len(mixed), many))
            yield language, "shuffled", "\n".join(parts)


def _passages(paragraphs: list[str]) -> Iterator[str]:
    """Yield passages of about `_PASSAGE` characters: every nth paragraph, so that each has a share of the preamble."""
    passages = max(1, sum(map(len, paragraphs)) // _PASSAGE)
    for first in range(passages):
        yield "\n".join(paragraphs[first::passages])


def _words(paragraphs: list[str]) -> tuple[list[str], str]:
    """Return the words of a language, punctuation included, and what separates two of them."""
    text = "\n".join(paragraphs)
    data, offsets = buffers(pa.array([text]))
    ends = word_ends(data, offsets)
    if len(ends) < len(text) / 20:
        return text.split(), " "
    encoded = text.encode()
    pieces = (encoded[start:end].decode() for start, end in zip([0, *ends], [*ends, len(encoded)], strict=True))
    return [piece.strip() for piece in pieces if piece.strip()], ""


if __name__ == "__main__":
    print(json.dumps(measure()))
