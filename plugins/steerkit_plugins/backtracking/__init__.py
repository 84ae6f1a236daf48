"""Backtracking (arXiv 2507.12638): a base model's vector makes the reasoning model backtrack. One experiment a file.

A recipe for it has two models, `base` and `reasoning`, and the second one is the writer.
"""
