"""The small corpus of the tests of the tokenizer."""

from tests.tokenizer.conftest import packed, packed_in_rows, shards, tokenizer_folder

__all__ = ["packed", "packed_in_rows", "shards", "tokenizer_folder"]
