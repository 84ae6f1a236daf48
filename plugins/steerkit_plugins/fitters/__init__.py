"""Statistics to directions."""
