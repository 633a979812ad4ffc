"""The pages, run summary and progress that the Prefect UI shows."""
