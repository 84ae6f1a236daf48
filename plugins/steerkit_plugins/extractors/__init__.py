"""Where activations are read."""
