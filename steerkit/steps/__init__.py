"""The common steps: prompts, traces, spans, statistics, vectors, generations, scores, findings, tables, report."""
