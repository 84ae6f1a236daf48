"""Sparse autoencoders on the vector of all of an adapter's scalars at a token (arXiv 2511.06739, section on SAEs)."""
