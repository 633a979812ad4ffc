"""Evaluation by lm-evaluation-harness: published tasks, and two made from held-out text."""
