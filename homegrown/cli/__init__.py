"""The commands of `homegrown`, one module each, imported only when it is called."""

from typing import NamedTuple


class Lazy(NamedTuple):
    """A command that is imported when it is called."""

    place: str
    """`module:attribute` of the click command."""
    summary: str
    """Its line in `homegrown --help`; the first sentence of its own help."""


COMMANDS = {
    "adapt": Lazy("homegrown.cli.adapt:adapt", "Continue pretraining a model on your own text."),
    "artifacts": Lazy("homegrown.cli.artifacts:artifacts", "List all artifacts, with their runs and sizes."),
    "chat": Lazy("homegrown.cli.chat:chat", "Chat with a model in the terminal."),
    "compare": Lazy("homegrown.cli.compare:compare", "Compare runs: settings, stages and metrics."),
    "doctor": Lazy("homegrown.cli.doctor:doctor", "Check whether PIPELINE runs on this machine."),
    "dpo": Lazy("homegrown.cli.dpo:dpo", "Train a model on preferences (DPO)."),
    "export": Lazy("homegrown.cli.export:export", "Export a model for other programs."),
    "feedback": Lazy("homegrown.cli.feedback:feedback", "List or export preferences that people gave."),
    "finetune": Lazy("homegrown.cli.finetune:finetune", "Fine-tune a model on conversations."),
    "gc": Lazy("homegrown.cli.gc:gc", "Delete artifacts that no recent run needs."),
    "generate": Lazy("homegrown.cli.generate:generate", "Generate text from a prompt."),
    "lm-eval": Lazy("homegrown.cli.lm_eval:lm_eval", "Evaluate a model with lm-evaluation-harness."),
    "plan": Lazy("homegrown.cli.plan:plan", "Predict text, memory, time and energy of PIPELINE."),
    "rate": Lazy("homegrown.cli.rate:rate", "Rate completions of models, blind and shuffled."),
    "report": Lazy("homegrown.cli.report:report", "Write a report as one HTML file."),
    "run": Lazy("homegrown.cli.run:run", "Run a pipeline; cached stages are reused."),
    "runs": Lazy("homegrown.cli.runs:runs", "List all runs, the oldest first."),
    "serve": Lazy("homegrown.cli.serve:serve", "Serve models over OpenAI's API and a page."),
    "similar": Lazy("homegrown.cli.similar:similar", "List documents similar to the text in FILE."),
    "sql": Lazy("homegrown.cli.sql:sql", "Query the artifacts in SQL (DuckDB)."),
    "status": Lazy("homegrown.cli.status:status", "Show the server, workers, deployments and runs."),
    "sweep": Lazy("homegrown.cli.sweep:sweep", "Run a pipeline for several setting values."),
    "up": Lazy("homegrown.cli.up:up", "Start the Prefect server, worker and deployments."),
    "verify": Lazy("homegrown.cli.verify:verify", "Read all artifacts and report damaged ones."),
    "worker": Lazy("homegrown.cli.worker:worker", "Train together with a run on another machine."),
    "why": Lazy("homegrown.cli.why:why", "Explain why a stage ran again."),
}
