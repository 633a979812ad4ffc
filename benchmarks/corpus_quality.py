"""The quality chain (Gopher quality and repetition, C4, FineWeb) compared with datatrove's; language identification.

    python -m benchmarks.corpus_quality

Documents come from ../shared/corpora, or, where that is missing, from the documentation of the installed packages.
CPU seconds of one core each. datatrove is timed as it is, splitting words with spaCy, and again splitting them at white
space, which is also what agreement is measured with; its C4 filter keeps lines without a full stop, as in FineWeb.
"""

import gzip
import importlib
import json
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from random import Random

import numpy as np
import pyarrow as pa

from benchmarks.peers import call
from homegrown.config.filter import C4, FilterSettings, FineWeb, GopherQuality, GopherRepetition
from homegrown.corpus.languages import identify, known_languages
from homegrown.corpus.quality import signals
from homegrown.corpus.quality.rules import failures, rules

CORPORA = Path(__file__).parents[2] / "shared" / "corpora"
SETTINGS = FilterSettings(
    min_characters=0,
    max_characters=10**9,
    min_alphabetic_share=None,
    gopher_quality=GopherQuality(),
    gopher_repetition=GopherRepetition(),
    c4=C4(),
    fineweb=FineWeb(),
)
# ISO 639-3 codes of the declarations to those of the model, if different; a macrolanguage is its main member.
_CODES = dict(
    pair.split(":")
    for line in (
        "afr:af als:sq amh:am arb:ar azj:az bel:be ben:bn bos:bs bre:br bul:bg cat:ca ces:cs cmn:zh cym:cy dan:da",
        "deu:de dzo:dz ell:el eng:en epo:eo est:et eus:eu fao:fo fin:fi fra:fr fri:fy gla:gd gle:ga glg:gl guj:gu",
        "hat:ht hau:ha heb:he hin:hi hrv:hr hun:hu hye:hy ibo:ig ind:id isl:is ita:it jav:jv jpn:ja kan:kn kat:ka",
        "kaz:kk khk:mn khm:km kin:rw kir:ky kor:ko lao:lo lat:la lav:lv lin:ln lit:lt ltz:lb lug:lg mal:ml mar:mr",
        "mkd:mk mlt:mt mya:my nep:ne nld:nl nno:nn nob:no pan:pa pes:fa plt:mg pol:pl por:pt ron:ro rus:ru san:sa",
        "slk:sk slv:sl sme:se sna:sn som:so sot:st spa:es srp:sr swe:sv swh:sw tam:ta tat:tt tgk:tg tgl:tl tha:th",
        "tuk:tk tur:tr uig:ug ukr:uk urd:ur uzn:uz vie:vi wln:wa xho:xh yor:yo zul:zu",
    )
    for pair in line.split()
)
_IDENTIFIED = 5  # passes over the declarations


def measure(agreed: int = 3_000, timed: int = 300) -> dict[str, float]:
    """Print the tables; return `quality_vs_datatrove` (by documents per CPU second), `quality_agreement` and others.

    Timed are `timed` passages of about 3,000 characters; the two agree or not on `agreed` documents of all sorts.
    """
    found = _speed(_passages(timed))
    found |= _agreement(_documents(agreed))
    found |= _wikipedia()
    found |= _languages()
    return found


def _documents(count: int) -> list[str]:
    """Return a seeded mixture: articles, stubs, stories, documentation."""
    pools = [docstrings()]
    if CORPORA.is_dir():
        pools.append([row["text"] for row in _rows("wikipedia-2015.jsonl.gz")])
        pools.append([row["text"] for row in _rows("wikipedia-stubs.jsonl.gz")])
        pools.append((CORPORA / "tinystories-sample.txt").read_text().split("<|endoftext|>"))
    else:
        print(f"{CORPORA.name} is not beside the project: only installed documentation is measured.")
    random = Random(1)
    chosen = [text for pool in pools for text in random.sample(pool, min(len(pool), count // len(pools)))]
    random.shuffle(chosen)
    return [text for text in chosen if text.strip()]


def _passages(count: int) -> list[str]:
    """Return lines of articles, or of documentation, joined to at least 3,000 characters."""
    texts = [row["text"] for row in _rows("wikipedia-2015.jsonl.gz")] if CORPORA.is_dir() else docstrings()
    passages: list[str] = [""]
    for line in "\n".join(texts).split("\n"):
        if len(passages[-1]) >= 3_000:
            passages.append("")
        passages[-1] += line + "\n"
    return [passage.strip() for passage in Random(1).sample(passages, min(count, len(passages)))]


def _rows(name: str) -> list[dict[str, str]]:
    with gzip.open(CORPORA / name, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def docstrings() -> list[str]:
    """Return the documentation of functions and classes of some packages."""
    names = ("numpy", "numpy.linalg", "pyarrow", "pyarrow.compute", "pandas", "scipy.stats", "scipy.signal", "duckdb")
    modules = [importlib.import_module(name) for name in names]
    texts = {getattr(vars(module)[name], "__doc__", None) for module in modules for name in vars(module)}
    return sorted(text for text in texts if isinstance(text, str) and len(text) > 200)


def _ours(texts: list[str]) -> list[tuple[str, str]]:
    """Return by text the rule that drops it, or none and the kept text."""
    names = [rule.name for rule in rules(SETTINGS)]
    verdicts: list[tuple[str, str]] = []
    ids = [str(number) for number in range(len(texts))]
    for documents in signals.slices(pa.record_batch({"id": ids, "text": texts})):
        measured, kept = signals.measure(documents["id"], documents["text"], SETTINGS)
        fails = failures(measured, SETTINGS)
        first = np.where(fails.any(axis=0), fails.argmax(axis=0), -1)
        rows = zip(first, kept.to_pylist(), strict=True)
        verdicts += [("", text) if rule < 0 else (names[rule], "") for rule, text in rows]
    return verdicts


def _theirs(texts: list[str]) -> list[tuple[str, str]]:
    """Return datatrove's verdicts, words split at white space."""
    return [(reason, text) for reason, text in call("datatrove_verdicts", texts=texts, at_white_space=True)["verdicts"]]


def _rate(judge: Callable[[list[str]], object], texts: list[str], repeat: int = 1) -> float:
    """Return documents per CPU second, after a warm-up."""
    judge(texts[:5])
    start = time.process_time()
    for _ in range(repeat):
        judge(texts)
    return len(texts) * repeat / (time.process_time() - start)


def _speed(texts: list[str]) -> dict[str, float]:
    rates = {
        "homegrown": _rate(_ours, texts, repeat=20),
        "datatrove": call("datatrove_verdicts", texts=texts, at_white_space=False, timed=True)["rate"],
        "datatrove, words split at white space": call(
            "datatrove_verdicts", texts=texts, at_white_space=True, timed=True
        )["rate"],
    }
    mean = sum(map(len, texts)) / len(texts)
    print(f"\nQuality chain, {len(texts)} documents of {mean:,.0f} characters, one core")
    print(f"{'':42}{'documents/CPU s':>16}{'MB/CPU s':>10}{'ours is':>10}")
    for name, rate in rates.items():
        print(f"{name:42}{rate:16,.0f}{rate * mean / 1e6:10.2f}{rates['homegrown'] / rate:9.0f}x")
    return {
        "quality_vs_datatrove": rates["homegrown"] / rates["datatrove"],
        "quality_vs_datatrove_white_space": rates["homegrown"] / rates["datatrove, words split at white space"],
        "quality_documents_per_second": rates["homegrown"],
    }


def _agreement(texts: list[str]) -> dict[str, float]:
    stripped = [text.strip() for text in texts]
    ours = _ours(stripped)
    others = _theirs(stripped)
    differences = _differences(ours, others)
    agreement = 1 - differences.total() / len(texts)
    both = [(our[1], other[1]) for our, other in zip(ours, others, strict=True) if not our[0] and not other[0]]
    same = sum(our == other for our, other in both)
    print(f"\nVerdicts on {len(texts):,} mixed documents, white space around them removed: {agreement:.2%} the same;")
    print(f"{len(both):,} are kept by both, {same:,} of them with the same text.")
    _print_differences(differences)
    padded = [text for text in texts if text[0].isspace()]
    print(f"The {len(padded):,} of them that begin with white space, as they are:")
    _print_differences(_differences(_ours(padded), _theirs(padded)))
    return {"quality_agreement": agreement, "quality_same_text": same / max(1, len(both))}


def _differences(ours: list[tuple[str, str]], theirs: list[tuple[str, str]]) -> Counter[tuple[str, str]]:
    """Return the counts of pairs of reasons, datatrove's and ours, if only one drops the document."""
    pairs = ((other[0] or "kept", our[0] or "kept") for our, other in zip(ours, theirs, strict=True))
    return Counter(pair for pair in pairs if (pair[0] == "kept") != (pair[1] == "kept"))


def _print_differences(differences: Counter[tuple[str, str]]) -> None:
    for (their, our), count in differences.most_common():
        print(f"{count:6}  datatrove: {their}, homegrown: {our} ({_explained(their + our)})")
    if not differences:
        print("     0  differences")


def _explained(reasons: str) -> str:
    """Return the known cause of a difference."""
    if "sentences" in reasons:
        return "sentences: spaCy knows abbreviations and emoticons that we do not"
    if "dup_line" in reasons or "max_duplicate_line" in reasons:
        return "datatrove counts the nothing before a first and after a last newline as lines, and as equal ones"
    return "not explained"


def _wikipedia() -> dict[str, float]:
    if not CORPORA.is_dir():
        return {}
    texts = [row["text"] for row in _rows("wikipedia-2015.jsonl.gz")]
    articles = [text for text in texts if len(text) > 1_000]
    dropped = Counter(rule for rule, _ in _ours(articles) if rule.startswith("gopher_quality."))
    share = dropped.total() / len(articles)
    print(f"\nGopher quality drops {share:.2%} of {len(articles):,} Wikipedia articles over 1,000 characters:")
    print(", ".join(f"{rule} {count}" for rule, count in dropped.most_common()) or "none")
    return {"quality_wikipedia_dropped": share}


def _languages() -> dict[str, float]:
    if not CORPORA.is_dir():
        return {}
    known = set(known_languages())
    coded = [(language_code(row["lang"]), row["text"]) for row in _rows("udhr-languages.jsonl.gz")]
    rows = [(code, text) for code, text in coded if code in known]
    texts = pa.array([text for _, text in rows])
    found = identify(texts, [])  # loads the models and compiles the kernels
    start = time.process_time()
    for _ in range(_IDENTIFIED):
        identify(texts, [])
    rate = _IDENTIFIED * len(rows) / (time.process_time() - start)
    pairs = [(code, guess) for (code, _), guess in zip(rows, found.codes, strict=True)]
    right = [code == guess for code, guess in pairs]
    print(
        f"\nLanguages: {np.mean(right):.3f} of {len(rows)} declarations in {len({code for code, _ in rows})} languages"
    )
    print(f"that the model claims, {rate:,.0f} documents/CPU s; wrong:", end=" ")
    print(", ".join(sorted({f"{code} as {guess}" for code, guess in pairs if code != guess})) or "none")
    return {"language_accuracy": float(np.mean(right)), "language_documents_per_second": rate}


def language_code(language: str) -> str:
    """Return the code of a declaration, as the model names it."""
    language = language.partition("_")[0]
    return _CODES.get(language, language)


if __name__ == "__main__":
    print(json.dumps(measure()))
