"""The stages of a run, in order: prompts, traces, spans, statistics, vectors, generations, results, report."""
