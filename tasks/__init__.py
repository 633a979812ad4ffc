"""Prefect tasks: one module per stage, inputs and settings in, a call into the engine, an artifact out."""

import os

# OpenMP threads that wait in a spin share no processor: with anything else running beside, PyTorch on a CPU then slows
# down by an order of magnitude. Read once, when PyTorch is first imported, which is after this.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
