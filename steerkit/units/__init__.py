"""What a model's units respond to: read at every token, changed, and held against labels."""
