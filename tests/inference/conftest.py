"""The small models of the tests of the transformer and of the server."""

from tests.model.conftest import make_model, one_thread, tokens
from tests.serving.conftest import model, tokenizer

__all__ = ["make_model", "model", "one_thread", "tokenizer", "tokens"]
