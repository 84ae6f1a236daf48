"""Invariants that steering and extraction must keep, measured on the user's own model: `steerkit check`."""
