"""Prefect tasks: one module per stage, inputs and settings in, a call into the engine, an artifact out."""

from homegrown.util.parallel import spin_less

spin_less()
