"""Files that are whole or absent: atomic writes, digests, run folders with their seals, bounded YAML."""
