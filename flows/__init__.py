"""Prefect flows: which stages run, in what order."""

import os

# Turns off the telemetry of Prefect's client, which reads this at import; child processes inherit it.
os.environ.setdefault("DO_NOT_TRACK", "1")
