"""Fixtures of the quantization tests."""

from tests.quantization.conftest import one_thread, packed, pretrain, text

__all__ = ["one_thread", "packed", "pretrain", "text"]
