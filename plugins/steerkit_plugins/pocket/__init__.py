"""The pocket models: a tiny base model, its reasoning fine-tune, and one that hedges when a line asks for it."""
