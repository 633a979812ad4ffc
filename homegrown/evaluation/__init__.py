"""Perplexity, bits per byte, BLEU, ROUGE and samples of trained weights."""
