"""Tokenizer: a byte-level BPE trained on the train shards, or one that is given."""

from pathlib import Path

from homegrown.digests import Digests
from homegrown.files import read_parquet
from homegrown.outcome import Outcome
from homegrown.recipe import TokenizerSettings
from tasks.figures import shown
from tasks.panels import Panel
from tasks.stage import Handle, Work, stage, store

_LONGEST = 20


def _content(settings: TokenizerSettings) -> dict[str, str]:
    if settings.path is None:
        return {}
    from homegrown.tokens.existing import tokenizer_file

    with Digests(store().root / ".state" / "raw.sqlite") as digests:
        return {"tokenizer": digests.file(tokenizer_file(Path(settings.path)))}


def _report(folder: Path) -> str:
    """Show bytes per token by source and by language, the longest tokens, and how many are not used."""
    parts = []
    for column in ("source", "language"):
        rows = read_parquet(folder / f"{column}s").to_pylist()
        lines = [f"| {row[column]} | {shown(row['documents'])} | {shown(row['bytes_per_token'])} |" for row in rows]
        parts.append("\n".join([f"| {column} | documents | bytes per token |", "| --- | ---: | ---: |", *lines]))
    tokens = read_parquet(folder / "vocabulary").sort_by([("bytes", "descending"), ("id", "ascending")]).to_pylist()
    longest = ", ".join(f"`` {token['token']!r} ``" for token in tokens[:_LONGEST])
    unused = sum(token["bytes"] > 0 and token["count"] == 0 for token in tokens)
    parts.append(f"The longest tokens: {longest}\n\nTokens that the sample does not use: {shown(unused)}")
    return "\n\n".join(parts)


@stage("tokenizer", engine=["homegrown.tokens.train"], raw=_content, panel=Panel(markdown=_report))
def tokenizer(work: Work, settings: TokenizerSettings, shard: Handle) -> Outcome:
    """Train the tokenizer, or take over the one given, and count what it does to the text."""
    from homegrown.tokens import train as engine

    return engine.train_tokenizer(work.out, shard.path, settings, progress=work.progress)
