"""replay: other text mixed into the training documents."""

from homegrown.config.adaptation import ReplaySettings
from homegrown.config.corpus import IngestSettings, ShardSettings
from homegrown.reporting.numbers import shown
from homegrown.store.digests import Digests
from homegrown.store.manifest import Artifact
from homegrown.util.progress import Outcome
from tasks.stage import Handle, Work, artifact_of, stage, store
from tasks.ui.panels import Panel


def _content(settings: ReplaySettings) -> dict[str, str]:
    from homegrown.corpus import sources
    from homegrown.data import instruction_files

    with Digests(store().root / ".state" / "raw.sqlite") as digests:
        files = instruction_files.find(settings.conversations, "replay.conversations")
        found = {file: instruction_files.identity(file, digests) for file in files}
        if settings.sources:
            found |= sources.content(IngestSettings(sources=settings.sources), digests)
        return found


def _report(artifact: Artifact) -> str:
    """Show the documents that were added."""
    metrics, manifest = artifact.manifest.metrics, artifact.manifest
    share = f"{float(metrics['replay_share']):.1%} of the training text"
    return (
        f"### Replay\n\n{shown(manifest.rows_out)} of {shown(manifest.rows_in)} other documents were added: {share}. "
        f"{shown(metrics['similar_to_held_out'])} are similar to a held-out document and were left out."
    )


@stage("replay", engine=["homegrown.data.replay"], seeded=True, raw=_content, panel=Panel(_report, _report))
def replay(
    work: Work,
    settings: ReplaySettings,
    reading: IngestSettings,
    splitting: ShardSettings,
    shard: Handle,
    base: Handle,
) -> Outcome:
    """Mix other text and conversations into the training documents."""
    from homegrown.data.replay import replay as engine

    store().fetch(artifact_of(shard))
    with work.processes() as executor:
        return engine(
            work.out,
            shard.path,
            base.path / "model",
            settings,
            reading,
            splitting,
            seed=work.seed,
            executor=executor,
            progress=work.progress,
        )
