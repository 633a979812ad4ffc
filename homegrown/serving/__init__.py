"""Models in use: what they write, as text."""
