"""Errors, files, locks, processes and devices: the base of every other package."""
