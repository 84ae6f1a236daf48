"""What a run will take, before it runs: texts, tokens, memory, time."""
