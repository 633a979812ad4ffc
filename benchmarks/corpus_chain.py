"""The whole way from text to tokens beside datatrove's, on the same files in one run: processor seconds.

    python -m benchmarks.corpus_chain --megabytes 200

Both read the same JSONL, drop near-duplicates by MinHash (14 bands of 8 rows, word 5-grams), apply the rules of Gopher,
C4 and FineWeb, and tokenize with the same tokenizer. datatrove is as it comes: spaCy splits words, and its fourth step
filters and tokenizes without writing text in between. Homegrown verifies pairs by true similarity, and also splits
and shuffles into train, validation and test with its leak checks. One worker each; starts count, compilation does not.
The text is articles in pieces of about 3 KB, then pieces with every other line of one and of another article, and a
tenth edited copies. The last line is JSON; `ratio` is datatrove's processor seconds by Homegrown's.
"""

import argparse
import json
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa

from benchmarks.measuring import measured, real_texts, table
from benchmarks.peers import call, check

BANDS, ROWS, WORDS = 14, 8, 5
_FILE_BYTES = 16_000_000
_COPIES = 0.1  # of the documents
_SAMPLE = 4_000  # documents to train the tokenizer on
_VOCABULARY = 16_384
_WARM = 8  # megabytes to compile with; the kernel of tokens encodes from 4 on


def main() -> None:
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--megabytes", type=float, default=200)
    megabytes = arguments.parse_args().megabytes
    check()
    with TemporaryDirectory() as folder:
        print(json.dumps(compare(Path(folder), megabytes)))


def compare(folder: Path, megabytes: float) -> dict[str, Any]:
    """Run both chains; return their figures and the ratio of their processor seconds."""
    texts, name = real_texts(20_000)
    documents = write(folder / "raw", texts, megabytes)
    write(folder / "warm" / "raw", texts, _WARM)
    measured(train, folder, texts[:_SAMPLE])
    measured(homegrown, folder / "warm", folder)
    run = measured(homegrown, folder, folder)
    found: dict[str, dict[str, Any]] = {
        "homegrown": {
            **run.result,
            "cpu_seconds": run.cpu_seconds,
            "wall_seconds": run.wall_seconds,
            "peak_gb": run.peak_gb,
        },
        "datatrove": call(
            "datatrove_chain",
            folder=str(folder / "raw"),
            out=str(folder / "datatrove"),
            tokenizer=str(folder / "tokenizer" / "tokenizer.json"),
            words=WORDS,
            bands=BANDS,
            rows=ROWS,
        ),
    }
    rows = [
        (
            chain,
            *(f"{one[key]:,.1f}" for key in ("cpu_seconds", "wall_seconds")),
            f"{one['kept']:,}",
            f"{one['tokens']:,}",
        )
        for chain, one in found.items()
    ]
    header = ("", "CPU seconds", "seconds", "documents kept", "tokens")
    table(f"Text to tokens: {documents:,} documents of {name}, {megabytes:g} MB", header, rows)
    ratio = found["datatrove"]["cpu_seconds"] / found["homegrown"]["cpu_seconds"]
    return {"megabytes": megabytes, "documents": documents, **found, "ratio": round(ratio, 1)}


def write(folder: Path, texts: list[str], megabytes: float) -> int:
    """Write JSONL files of so much text; return the number of documents."""
    random = Random(1)
    folder.mkdir(parents=True)
    left, count, number = megabytes * 1e6, 0, 0
    while left > 0:
        with (folder / f"{number:04d}.jsonl").open("w", encoding="utf-8") as file:
            own = 0
            while own < min(_FILE_BYTES, left):
                text = document(random, texts, count).strip()  # datatrove counts empty lines at the ends as repeated
                file.write(json.dumps({"id": f"{count:08d}", "text": text}, ensure_ascii=False) + "\n")
                own += len(text.encode())
                count += 1
        left -= own
        number += 1
    return count


def document(random: Random, texts: list[str], number: int) -> str:
    """Return the text of a number."""
    if random.random() < _COPIES:
        lines = random.choice(texts[: number + 1]).split("\n")
        del lines[random.randrange(len(lines))]
        return "\n".join(lines)
    if number < len(texts):
        return texts[number]
    one, other = (random.choice(texts).split("\n")[first::2] for first in (0, 1))
    return "\n".join([*one, *other])


def train(folder: Path, texts: list[str]) -> None:
    """Train the tokenizer of both."""
    from homegrown.config.pipelines import load_recipe
    from homegrown.corpus.documents import SCHEMA
    from homegrown.tokenizer.train import train_tokenizer
    from homegrown.util.files import write_parquet

    rows = [{"id": str(number), "text": text, "source": "sample"} for number, text in enumerate(texts)]
    write_parquet(folder / "sample" / "train" / "part-00000.parquet", pa.Table.from_pylist(rows, SCHEMA))
    settings = load_recipe("medium").tokenizer.model_copy(update={"vocabulary_size": _VOCABULARY, "sample_mb": 12})
    train_tokenizer(folder / "tokenizer", folder / "sample", settings)


def homegrown(folder: Path, trained: Path) -> dict[str, int]:
    """Run ingest, dedup, filter, shard and pack; return the documents kept by dedup and filter, and the tokens."""
    from benchmarks.corpus_quality import SETTINGS
    from homegrown.config.corpus import FilesSource
    from homegrown.config.pipelines import load_recipe
    from homegrown.corpus.dedup import dedup
    from homegrown.corpus.filter import filter_documents
    from homegrown.corpus.ingest import ingest
    from homegrown.corpus.shard import shard
    from homegrown.data.packing import pack
    from homegrown.util.parallel import process_pool

    recipe = load_recipe("medium")
    out = {stage: folder / stage for stage in ("ingest", "dedup", "filter", "shard", "pack")}
    reading = recipe.ingest.model_copy(update={"sources": [FilesSource(name="raw", path=str(folder / "raw"))]})
    banding = recipe.dedup.model_copy(update={"bands": BANDS, "rows": ROWS})
    with process_pool(1) as pool:
        ingest(out["ingest"], reading, executor=pool)
        dedup(out["dedup"], out["ingest"], banding, seed=1, memory_gb=recipe.compute.memory_gb, executor=pool)
        kept = filter_documents(out["filter"], out["dedup"], SETTINGS, executor=pool)
        shard(out["shard"], out["filter"], recipe.shard, seed=1, executor=pool)
        context = recipe.rows.context
        packed = pack(out["pack"], out["shard"], trained / "tokenizer", recipe.pack, executor=pool, context=context)
    return {"kept": kept.rows_out, "tokens": int(packed.metrics["tokens"])}


if __name__ == "__main__":
    main()
