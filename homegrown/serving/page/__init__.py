"""The web page to chat with models."""
