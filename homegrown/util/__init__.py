"""Errors, files, locks, processes and devices: what every other package builds on."""
