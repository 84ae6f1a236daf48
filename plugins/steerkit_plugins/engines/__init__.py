"""Built-in engines: what generates texts."""
