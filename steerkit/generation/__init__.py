"""Steered decoding of a stream of rows, and the contract of the engines that do it."""
