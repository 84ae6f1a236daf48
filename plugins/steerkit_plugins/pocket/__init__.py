"""The pocket pair: a tiny base model and its reasoning fine-tune, trained on a synthetic corpus."""
