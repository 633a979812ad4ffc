"""What the Prefect UI shows of a run: pages, story, progress."""
