"""Measures of text quality, one module per published set of rules, and the decisions of the rules."""
