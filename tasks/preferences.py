"""preferences: token shards of pairs of answers, with the log-probability that the base gives each."""

from homegrown.config.finetune_recipe import ConversationRows, PreferenceSettings, ReferenceSettings
from homegrown.reporting.numbers import share, shown
from homegrown.store.digests import Digests
from homegrown.store.manifest import Artifact
from homegrown.util import devices
from homegrown.util.progress import Outcome
from tasks.locks import computing_on
from tasks.stage import Handle, Work, stage, store
from tasks.ui.markdown import quoted, table
from tasks.ui.panels import Panel, rows_of

_EXAMPLES = 3


def _content(settings: PreferenceSettings) -> dict[str, str]:
    from homegrown.data import instruction_files

    with Digests(store().root / ".state" / "raw.sqlite") as digests:
        files = instruction_files.find(settings.files, "preferences.files")
        return {file: instruction_files.identity(file, digests) for file in files}


def _report(artifact: Artifact) -> str:
    """Show the pairs of each split, those left out, and the first held-out ones."""
    metrics, read = artifact.manifest.metrics, artifact.manifest.rows_in
    losses = [
        [name, shown(metrics[key]), share(float(metrics[key]), read)]
        for key, name in (("skipped", "skipped: table `skipped`"), ("dropped_duplicate", "dropped: duplicate"))
    ]
    parts = [_excerpt(artifact), "### Skipped or dropped", table(["", "pairs", "of all"], losses)]
    parts.append("### Held-out pairs")
    for row, _ in zip(rows_of(artifact.path / "held_out"), range(_EXAMPLES), strict=False):
        prompt = [f"{message['role']}: {message['content']}" for message in row["messages"]]
        answers = [f"{name}: {row[name][0]['content']}" for name in ("chosen", "rejected")]
        parts.append(quoted("\n".join([*prompt, *answers])))
    return "\n\n".join(parts)


def _excerpt(artifact: Artifact) -> str:
    """Show the pairs of each split."""
    metrics = artifact.manifest.metrics
    rows = [
        [split, shown(metrics[f"{split}_pairs"]), shown(metrics[f"{split}_rows"])] for split in ("train", "validation")
    ]
    return f"### Preferences\n\n{table(['split', 'pairs', 'rows'], rows)}"


@stage("preferences", engine=["homegrown.finetuning.reference"], raw=_content, panel=Panel(_report, _excerpt))
def preferences(
    work: Work, settings: PreferenceSettings, rows: ConversationRows, reference: ReferenceSettings, base: Handle
) -> Outcome:
    """Encode pairs of answers, with the log-probability of each by the base."""
    from homegrown.finetuning import reference as engine

    device = devices.resolve(work.compute.device)
    with computing_on(device, 1):
        return engine.prepare(
            work.out,
            base.path / "model",
            settings,
            rows=rows,
            reference=reference,
            device=device,
            progress=work.progress,
        )
