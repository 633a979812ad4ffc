"""The commands of `homegrown`, one module each, imported only when it is called."""

from typing import NamedTuple


class Lazy(NamedTuple):
    """A command that is not imported yet."""

    place: str
    """`module:attribute` of the click command."""
    summary: str
    """What `homegrown --help` says of it."""


COMMANDS = {
    "artifacts": Lazy("homegrown.commands.artifacts:artifacts", "List every version of every artifact."),
    "chat": Lazy("homegrown.commands.chat:chat", "Talk with a model in the terminal."),
    "compare": Lazy("homegrown.commands.compare:compare", "Say what differs between runs, as tables and a picture."),
    "doctor": Lazy("homegrown.commands.doctor:doctor", "Look at this machine: does homegrown run on it?"),
    "gc": Lazy("homegrown.commands.gc:gc", "Free what no recent run and no kept artifact stands on."),
    "generate": Lazy("homegrown.commands.generate:generate", "Have a pretrained model continue a text."),
    "lm-eval": Lazy("homegrown.commands.lm_eval:lm_eval", "Measure a model by lm-evaluation-harness."),
    "plan": Lazy("homegrown.commands.plan:plan", "Say what a pipeline will take, before anything is spent."),
    "rate": Lazy("homegrown.commands.rate:rate", "Ask a person what the texts are worth, blind and shuffled."),
    "report": Lazy("homegrown.commands.report:report", "Write a report: of the corpus, an evaluation, or ratings."),
    "runs": Lazy("homegrown.commands.runs:runs", "List every run: what it changed and how it came out."),
    "serve": Lazy("homegrown.commands.serve:serve", "Serve models to OpenAI's clients and on a page."),
    "similar": Lazy("homegrown.commands.similar:similar", "Print what in the corpus is like a text."),
    "sql": Lazy("homegrown.commands.sql:sql", "Run SQL (DuckDB) over views of every artifact."),
}
