"""Fine-tuning on transformers' Trainer, with interventions that are on in training alone."""
