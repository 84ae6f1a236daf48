"""Settings of the experiment `graph`, which its step reads."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from steerkit.context import Run
from steerkit_plugins.transcoder.arms import OneAdapterConfig

GRAPH = "graph"
"""The experiment."""
FOLDER = "graphs"
"""Where the graphs' files are."""


class GraphConfig(OneAdapterConfig):
    how = frozenset({"batch_tokens"})

    label: str = "backtracking"
    """Graphs are made right before sentences with this label begin in the run's traces."""
    places: int = Field(default=4, ge=0)
    """Such places, drawn by the run's seed, of as many traces as can be."""
    max_tokens: int = Field(default=512, ge=1)
    """Tokens of prompt and trace before a place, at most; places further on are not taken."""
    texts: tuple[str, ...] = ()
    """Further texts, as they stand, whose next token is explained."""
    max_nodes: int = Field(default=10_000, ge=1)
    """Features that are nodes, at most, those with most influence first; 10,000 in the author's code."""
    max_logits: int = Field(default=10, ge=1)
    """Next tokens that are nodes, at most."""
    logit_share: float = Field(default=0.95, gt=0, le=1)
    """Probability at which no more next tokens are taken."""
    node_threshold: float = Field(default=0.8, gt=0, le=1)
    """Share of the nodes' influence that pruning keeps."""
    edge_threshold: float = Field(default=0.98, gt=0, le=1)
    """Share of the edges' influence that pruning keeps."""
    edge_target: Literal["pre_activation", "resid_pre"] = "pre_activation"
    """Where a feature reads: the input of its encoder, so that its edges sum to its value, or its block's input, which
    leaves out the block's norm and attention (the author's code)."""
    bos_nodes: Literal["kept", "zeroed"] = "kept"
    """Whether features at the first token are nodes, or left out (the author's code), so that sums miss them."""
    lens_tokens: int = Field(default=3, ge=1)
    """Tokens that name a feature: those that its decoder makes likelier by itself."""
    lens_norm: bool = True
    """Whether decoder columns go through the model's final norm before the unembedding."""
    figures: int = Field(default=2, ge=0)
    """Graphs that are drawn in the report."""
    drawn: int = Field(default=40, ge=1)
    """Features in a figure, at most, those with most influence."""
    batch_tokens: int = Field(default=8192, ge=1)
    """Tokens of a backward pass, over the rows of all targets in it."""


def config_of(run: Run) -> GraphConfig:
    """The experiment's settings; those of a recipe without it are the defaults."""
    found = run.experiments.get(GRAPH)
    config: GraphConfig = found.config if found else GraphConfig()
    return config
