"""Prefect flows: which stages run, in what order."""

import os

# Prefect's client would count its users; it asks this when it is imported, and so do the processes started from here.
os.environ.setdefault("DO_NOT_TRACK", "1")
