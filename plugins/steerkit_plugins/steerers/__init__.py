"""Edits of hidden states."""
