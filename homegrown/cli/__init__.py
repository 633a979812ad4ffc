"""The commands of `homegrown`, one module each, imported only when it is called."""

from typing import NamedTuple


class Lazy(NamedTuple):
    """A command that is not imported yet."""

    place: str
    """`module:attribute` of the click command."""
    summary: str
    """What `homegrown --help` says of it."""


COMMANDS = {
    "artifacts": Lazy("homegrown.cli.artifacts:artifacts", "List every version of every artifact."),
    "chat": Lazy("homegrown.cli.chat:chat", "Talk with a model in the terminal."),
    "compare": Lazy("homegrown.cli.compare:compare", "Say what differs between runs, as tables and a picture."),
    "doctor": Lazy("homegrown.cli.doctor:doctor", "Look at this machine: does homegrown run on it?"),
    "export": Lazy("homegrown.cli.export:export", "Write a model as other programs run it: hf, gguf, onnx, ollama."),
    "finetune": Lazy("homegrown.cli.finetune:finetune", "Have a trained model learn from conversations."),
    "gc": Lazy("homegrown.cli.gc:gc", "Free what no recent run and no kept artifact stands on."),
    "generate": Lazy("homegrown.cli.generate:generate", "Have a pretrained model continue a text."),
    "lm-eval": Lazy("homegrown.cli.lm_eval:lm_eval", "Measure a model by lm-evaluation-harness."),
    "plan": Lazy("homegrown.cli.plan:plan", "Say what a pipeline will take, before anything is spent."),
    "rate": Lazy("homegrown.cli.rate:rate", "Ask a person what the texts are worth, blind and shuffled."),
    "report": Lazy("homegrown.cli.report:report", "Write a report: of the corpus, an evaluation, or ratings."),
    "run": Lazy("homegrown.cli.run:run", "Run a pipeline; what is already made is taken as it is."),
    "runs": Lazy("homegrown.cli.runs:runs", "List every run: what it changed and how it came out."),
    "serve": Lazy("homegrown.cli.serve:serve", "Serve models to OpenAI's clients and on a page."),
    "similar": Lazy("homegrown.cli.similar:similar", "Print what in the corpus is like a text."),
    "sql": Lazy("homegrown.cli.sql:sql", "Run SQL (DuckDB) over views of every artifact."),
    "status": Lazy("homegrown.cli.status:status", "Say what runs: server, worker, deployments, runs."),
    "sweep": Lazy("homegrown.cli.sweep:sweep", "Run a pipeline once for each of several values of a setting."),
    "up": Lazy("homegrown.cli.up:up", "Start what this machine needs for runs in the Prefect UI."),
}
