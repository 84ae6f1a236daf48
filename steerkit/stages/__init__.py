"""The stages of a run, in order. Each knows its inputs, makes its artifact, and can read it back."""

from steerkit.stages.agreement import agreement
from steerkit.stages.chats import chats
from steerkit.stages.generations import choose, test
from steerkit.stages.identities import identities
from steerkit.stages.lens import lens
from steerkit.stages.perplexity import perplexity
from steerkit.stages.projection import projection
from steerkit.stages.prompts import prompts
from steerkit.stages.results import report, results
from steerkit.stages.spans import spans
from steerkit.stages.traces import traces
from steerkit.stages.vectors import vectors

__all__ = [
    "agreement", "chats", "choose", "identities", "lens", "perplexity", "projection", "prompts", "report", "results",
    "spans", "test", "traces", "vectors",
]  # fmt: skip
