"""What experiments on models that a run trains have in common: values by prompt and training seed, and their words."""
