"""A client for OpenAI-compatible servers that pays for no answer twice."""
