"""Byte-level BPE: training, encoding, special tokens, chat template."""
