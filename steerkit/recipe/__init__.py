"""YAML to checked settings, every problem with its place; what needs the user's permission."""
