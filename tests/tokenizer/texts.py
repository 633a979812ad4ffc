"""Made-up documents in many scripts, and shards of them."""

import random
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

VOCABULARY = 700
SYLLABLES = (
    *("ka", "lo", "mi", "ter", "sun", "ba", "'re", "12", "Ω", "жи", "ein", "ция", "語", "é", "\u0301", "🙂"),
    *("<s>", "</s>", "==", "\t", "\n\n", "(x)", "don't"),
)


def write_shard(path: Path, texts: list[str], source: str = "made-up") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [
        {"id": str(number), "text": text, "source": source, "path": "-", "position": number}
        for number, text in enumerate(texts)
    ]
    pq.write_table(pa.Table.from_pylist(rows), path)


def make_texts(seed: int, count: int) -> list[str]:
    dice = random.Random(seed)
    words = ["".join(dice.choices(SYLLABLES, k=dice.randint(1, 3))) for _ in range(1000)]
    return [" ".join(dice.choices(words, k=dice.randint(5, 80))) for _ in range(count)]


def split_texts(shards: Path, split: str) -> list[str]:
    return [text for part in sorted((shards / split).iterdir()) for text in pq.read_table(part)["text"].to_pylist()]
