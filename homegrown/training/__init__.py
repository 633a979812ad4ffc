"""The pretraining loop, schedules, checkpoints and the workers that run it."""
