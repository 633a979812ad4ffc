"""Instructions: conversations as token shards of which only the answers are learned."""

from pathlib import Path

from homegrown.config.finetune_recipe import ConversationRows, InstructionSettings
from homegrown.reporting.numbers import share, shown
from homegrown.store.artifacts import Artifact
from homegrown.store.digests import Digests
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
    "dropped_duplicate": "dropped: there already",
    "dropped_too_long": "dropped: the first answer is beyond the context",
    "shortened": "shortened: later exchanges are beyond the context",
}


def _content(settings: InstructionSettings) -> dict[str, str]:
    from homegrown.data import instruction_files

    with Digests(store().root / ".state" / "raw.sqlite") as digests:
        return {file: instruction_files.identity(file, digests) for file in instruction_files.find(settings.files)}


def _report(artifact: Artifact) -> str:
    """Show what was read, what became of it, and the first conversations that are held out."""
    metrics, read = artifact.manifest.metrics, artifact.manifest.rows_in
    shapes = [[name, shown(metrics[key])] for key, name in _SHAPES.items() if key in metrics]
    losses = [[name, shown(metrics[key]), share(float(metrics[key]), read)] for key, name in _LOSSES.items()]
    return "\n\n".join(
        [
            _excerpt(artifact),
            "### What was read",
            table(["shape", "conversations"], shapes),
            "### What was left out",
            table(["", "conversations", "of all"], losses),
            "### Held out",
            *(_conversation(row["messages"]) for row in _first(artifact.path / "held_out")),
        ]
    )


def _excerpt(artifact: Artifact) -> str:
    """Show the conversations and tokens of each split, and how many are learned."""
    metrics = artifact.manifest.metrics
    rows = []
    for split in ("train", "validation"):
        tokens, learned = metrics[f"{split}_tokens"], metrics[f"{split}_learned_tokens"]
        counts = [shown(metrics[f"{split}_conversations"]), shown(tokens), shown(learned)]
        rows.append([split, *counts, share(float(learned), float(tokens))])
    shown_as = table(["split", "conversations", "tokens", "learned (answers)", "of all"], rows)
    return f"### Conversations\n\n{shown_as}"


def _first(folder: Path) -> list[dict[str, list[dict[str, str]]]]:
    return [row for row, _ in zip(rows_of(folder), range(_EXAMPLES), strict=False)]


def _conversation(messages: list[dict[str, str]]) -> str:
    return quoted("\n".join(f"{message['role']}: {message['content']}" for message in messages))


@stage("instructions", engine=["homegrown.data.instructions"], raw=_content, panel=Panel(_report, _excerpt))
def instructions(work: Work, settings: InstructionSettings, rows: ConversationRows, tokenizer: Handle) -> Outcome:
    """Encode conversations for training on their answers; the tokenizer is its stage's, or a trained model's."""
    from homegrown.data import instructions as engine

    own = tokenizer.path / "model"
    folder = own if own.is_dir() else tokenizer.path
    return engine.prepare(work.out, folder, settings, context=rows.context, progress=work.progress)
