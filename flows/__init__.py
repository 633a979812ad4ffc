"""Prefect flows: which stages run, in what order."""

import os

# Turns off the telemetry of Prefect's client, which reads this at import; child processes inherit it.
os.environ.setdefault("DO_NOT_TRACK", "1")

AUTHOR_TAG = "author:"
"""Prefix of the tag of a flow run with its author; the user's name follows."""
