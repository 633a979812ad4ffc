"""Recipes and pipelines: what a run is asked to do."""
