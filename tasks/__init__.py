"""Prefect tasks: one module per stage, inputs and settings in, a call into the engine, an artifact out."""
