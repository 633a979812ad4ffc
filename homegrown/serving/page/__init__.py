"""The web page for talking to models."""
