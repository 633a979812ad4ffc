"""The commands of `homegrown` that need Prefect, one module each; `homegrown.cli` finds them by an entry point."""

from homegrown.commands import Lazy

COMMANDS = {
    "export": Lazy("flows.commands.export:export", "Write a model as other programs run it: hf, gguf, onnx, ollama."),
    "finetune": Lazy("flows.commands.finetune:finetune", "Have a trained model learn from conversations."),
    "run": Lazy("flows.commands.run:run", "Run a pipeline; what is already made is taken as it is."),
    "status": Lazy("flows.commands.status:status", "Say what runs: server, worker, deployments, runs."),
    "up": Lazy("flows.commands.up:up", "Start what this machine needs for runs in the Prefect UI."),
    "sweep": Lazy("flows.commands.sweep:sweep", "Run a pipeline once for each of several values of a setting."),
}
