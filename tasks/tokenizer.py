"""tokenizer: a byte-level BPE trained on the train shards, or an existing one."""

from pathlib import Path

from homegrown.config.tokens import TokenizerSettings
from homegrown.reporting.numbers import file_size, shown
from homegrown.store.digests import Digests
from homegrown.store.manifest import Artifact
from homegrown.util.progress import Outcome
from tasks.stage import Handle, Work, stage, store
from tasks.ui.markdown import quoted, table
from tasks.ui.panels import Panel, rows_of

_LONGEST = 20
_ROWS = 20


def _content(settings: TokenizerSettings) -> dict[str, str]:
    if settings.path is None:
        return {}
    from homegrown.tokenizer.existing import tokenizer_file

    with Digests(store().root / ".state" / "raw.sqlite") as digests:
        return {"tokenizer": digests.file(tokenizer_file(Path(settings.path)))}


def _report(artifact: Artifact) -> str:
    """Show bytes per token by source and language, unused tokens and the longest tokens."""
    tokens = sorted(rows_of(artifact.path / "vocabulary"), key=lambda token: (-token["bytes"], token["id"]))
    unused = sum(token["bytes"] > 0 and token["count"] == 0 for token in tokens)
    return "\n\n".join(
        [
            "### Bytes per token",
            *(_bytes_per_token(artifact, column) for column in ("source", "language")),
            "### Vocabulary",
            f"The sample uses all but {shown(unused)} of {shown(len(tokens))} tokens. The longest tokens:",
            quoted("\n".join(repr(token["token"]) for token in tokens[:_LONGEST])),
        ]
    )


def _bytes_per_token(artifact: Artifact, column: str) -> str:
    rows = sorted(rows_of(artifact.path / f"{column}s"), key=lambda row: -row["bytes"])
    cells = [
        [
            row[column],
            shown(row["documents"]),
            file_size(row["bytes"]),
            shown(row["tokens"]),
            shown(row["bytes_per_token"]),
        ]
        for row in rows[:_ROWS]
    ]
    return table([column, "documents", "text", "tokens", "bytes per token"], cells)


def _excerpt(artifact: Artifact) -> str:
    return f"### Bytes per token\n\n{_bytes_per_token(artifact, 'source')}"


@stage("tokenizer", engine=["homegrown.tokenizer.train"], raw=_content, panel=Panel(_report, _excerpt))
def tokenizer(work: Work, settings: TokenizerSettings, shard: Handle, base: Handle | None = None) -> Outcome:
    """Train the tokenizer, import an existing one, or take that of the base; count its tokens in the text."""
    from homegrown.tokenizer import train as engine

    return engine.train_tokenizer(
        work.out, shard.path, settings, base=base.path / "model" if base else None, progress=work.progress
    )
