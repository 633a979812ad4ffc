"""Pack: memory-mapped token shards."""

from homegrown.outcome import Outcome
from homegrown.recipe import PackSettings, RowSettings
from tasks.stage import Handle, Work, stage


@stage("pack", engine=["homegrown.tokens.packing"])
def pack(work: Work, settings: PackSettings, rows: RowSettings, shard: Handle, tokenizer: Handle) -> Outcome:
    """Encode the shards into flat files of tokens."""
    from homegrown.tokens import packing as engine

    with work.executor() as executor:
        return engine.pack(
            work.out,
            shard.path,
            tokenizer.path,
            settings,
            context=rows.context,
            executor=executor,
            progress=work.progress,
        )
