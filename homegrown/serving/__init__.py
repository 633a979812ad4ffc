"""The HTTP server: OpenAI's API and a page."""
