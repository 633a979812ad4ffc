"""Evaluation by lm-evaluation-harness: the tasks that others publish, and two made of held-out text."""
