"""Transcoder adapters: what fine-tuning changed in the MLPs (arXiv 2602.20904)."""
