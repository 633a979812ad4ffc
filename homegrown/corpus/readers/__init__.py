"""Readers of files by format: bounded memory whatever the size of a file, a line or a row; what fails is a fault."""
