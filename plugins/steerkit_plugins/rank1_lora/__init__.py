"""Rank-1 LoRA: the smallest adapter that reasons, and what its scalars know (arXiv 2511.06739)."""
