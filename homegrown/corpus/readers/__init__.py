"""Readers by format: memory is bounded for any size of file, line or row; unreadable input is a fault."""
