"""The stages of a run, in order. Each knows its inputs, makes its artifact, and can read it back."""

from steerkit.steps.agreement import agreement
from steerkit.steps.chats import chats
from steerkit.steps.generations import choose, test
from steerkit.steps.identities import identities
from steerkit.steps.lens import lens
from steerkit.steps.perplexity import perplexity
from steerkit.steps.projection import projection
from steerkit.steps.prompts import prompts
from steerkit.steps.results import report, results
from steerkit.steps.spans import spans
from steerkit.steps.traces import traces
from steerkit.steps.vectors import vectors

__all__ = [
    "agreement",
    "chats",
    "choose",
    "identities",
    "lens",
    "perplexity",
    "projection",
    "prompts",
    "report",
    "results",
    "spans",
    "test",
    "traces",
    "vectors",
]
