"""Measures of a text's quality, a module for each published set of rules, and what the rules make of them."""
