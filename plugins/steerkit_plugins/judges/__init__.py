"""Texts to labels and numbers."""
