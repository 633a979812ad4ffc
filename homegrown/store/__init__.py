"""Versioned artifacts and the record of runs."""
