"""Prefect flows: which stages run, in what order."""
