"""The engine: text in, a language model out. Never imports prefect, `flows` or `tasks`."""

__version__ = "0.1.0"
