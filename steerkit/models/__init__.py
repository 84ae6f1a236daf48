"""A transformers model opened up: loading and its checks, blocks, adapters, families, fingerprints, devices."""
