"""instructions: token shards of conversations, with loss on the answers only."""

from pathlib import Path

from homegrown.config.finetune_recipe import ConversationRows, InstructionSettings
from homegrown.reporting.numbers import share, shown
from homegrown.store.digests import Digests
from homegrown.store.manifest import Artifact
from homegrown.util.progress import Outcome
from tasks.stage import Handle, Work, stage, store
from tasks.ui.markdown import quoted, table
from tasks.ui.panels import Panel, rows_of

_EXAMPLES = 3
_SHAPES = {
    "messages_conversations": "messages",
    "sharegpt_conversations": "conversations (ShareGPT)",
    "prompt_completion_conversations": "prompt, completion",
    "alpaca_conversations": "instruction, input, output (Alpaca)",
    "question_answer_conversations": "question, answer",
}
_LOSSES = {
    "dropped_duplicate": "dropped: duplicate",
    "dropped_too_long": "dropped: first answer exceeds the context",
    "shortened": "shortened: later turns exceed the context",
}


def _content(settings: InstructionSettings) -> dict[str, str]:
    from homegrown.data import instruction_files

    with Digests(store().root / ".state" / "raw.sqlite") as digests:
        return {file: instruction_files.identity(file, digests) for file in instruction_files.find(settings.files)}


def _report(artifact: Artifact) -> str:
    """Show the conversations that were read and dropped, and the first held-out ones."""
    metrics, read = artifact.manifest.metrics, artifact.manifest.rows_in
    shapes = [[name, shown(metrics[key])] for key, name in _SHAPES.items() if key in metrics]
    losses = [[name, shown(metrics[key]), share(float(metrics[key]), read)] for key, name in _LOSSES.items()]
    return "\n\n".join(
        [
            _excerpt(artifact),
            "### Input",
            table(["shape", "conversations"], shapes),
            "### Dropped or shortened",
            table(["", "conversations", "of all"], losses),
            "### Held-out conversations",
            *(_conversation(row["messages"]) for row in _first(artifact.path / "held_out")),
        ]
    )


def _excerpt(artifact: Artifact) -> str:
    """Show the conversations, tokens and trained tokens of each split."""
    metrics = artifact.manifest.metrics
    rows = []
    for split in ("train", "validation"):
        tokens, learned = metrics[f"{split}_tokens"], metrics[f"{split}_learned_tokens"]
        counts = [shown(metrics[f"{split}_conversations"]), shown(tokens), shown(learned)]
        rows.append([split, *counts, share(float(learned), float(tokens))])
    shown_as = table(["split", "conversations", "tokens", "trained (answers)", "of all"], rows)
    return f"### Conversations\n\n{shown_as}"


def _first(folder: Path) -> list[dict[str, list[dict[str, str]]]]:
    return [row for row, _ in zip(rows_of(folder), range(_EXAMPLES), strict=False)]


def _conversation(messages: list[dict[str, str]]) -> str:
    return quoted("\n".join(f"{message['role']}: {message['content']}" for message in messages))


@stage("instructions", engine=["homegrown.data.instructions"], raw=_content, panel=Panel(_report, _excerpt))
def instructions(work: Work, settings: InstructionSettings, rows: ConversationRows, tokenizer: Handle) -> Outcome:
    """Encode conversations for training on answers, with the tokenizer of its stage or of a model."""
    from homegrown.data import instructions as engine

    own = tokenizer.path / "model"
    folder = own if own.is_dir() else tokenizer.path
    return engine.prepare(work.out, folder, settings, rows=rows, progress=work.progress)
