"""Tokenizer: a byte-level BPE trained on the train shards."""

from homegrown.outcome import Outcome
from homegrown.recipe import TokenizerSettings
from tasks.stage import Handle, Work, stage


@stage("tokenizer", engine=["homegrown.tokens.tokenizer"])
def tokenizer(work: Work, settings: TokenizerSettings, shard: Handle) -> Outcome:
    """Train the tokenizer and count what it does to the text."""
    from homegrown.tokens import tokenizer as engine

    return engine.train_tokenizer(work.out, shard.path, settings, progress=work.progress)
