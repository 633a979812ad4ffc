"""Prefect tasks: one module per stage; each calls the engine with inputs and settings and makes an artifact."""

from homegrown.util.parallel import spin_less

spin_less()
