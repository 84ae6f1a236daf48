"""What steering and extraction cost beside the model's own arithmetic, measured as ratios in one run."""
