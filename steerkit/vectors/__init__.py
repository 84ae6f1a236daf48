"""SteeringVector, fitting, lens, exchange formats, model card."""
