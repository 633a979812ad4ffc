"""Tokenizer training, packing and the token loader."""
