"""A language model that gives texts points."""
