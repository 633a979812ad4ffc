"""Models served over HTTP, by OpenAI's API and on a page."""
