"""Weights in other formats: quantized variants."""
