"""Steering while a model learns, and asking for the trait while it learns (arXiv 2604.16423)."""
