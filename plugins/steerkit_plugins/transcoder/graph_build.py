"""Attribution graphs of a model with transcoders (arXiv 2602.20904, section 6; Ameisen et al. 2025).

Edges are gradient × activation on the linearised model (`relp`), so that a target's edges and what constants contribute
sum to its value.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from steerkit.errors import SteerkitError
from steerkit_plugins.transcoder.graph_influence import influence

if TYPE_CHECKING:
    from steerkit.models.language_model import LanguageModel
    from steerkit_plugins.transcoder.graph_edges import Edges, EdgeTarget

BOS = Literal["kept", "zeroed"]
RERANKED = 4
"""Batches of targets after which the influence of the features that are left is computed again; 4 in the author's code.
"""
ROWS = 64
"""Targets of a backward pass, at most."""


@dataclass(frozen=True, eq=False)
class AttributionGraph:
    """A graph of M = N + T + K nodes: features, tokens, next tokens (`logits`), in this order.

    Attributes:
        ids: [T] of the text.
        layers, positions, indices: [N] of the features, ordered by block, position, number.
        activations: [N] f > 0.
        logits: [K] token ids, the likeliest first.
        probabilities: [K].
        edges: [M, M] targets × sources; rows of tokens are 0.
        constants: [M] what biases, position embeddings and offsets contribute to a target; 0 for tokens.
        left_out: [M] sizes of the edges from features that are no nodes, as `max_nodes` is reached.
        values: [M] a feature's pre-activation, a logit minus the mean of all logits; 0 for tokens.
        gaps: [M] a target's value minus the sum of all its edges and constants.
        active: features above 0 in the text, nodes or not.
        depth: decoder blocks of the model.
    """

    ids: np.ndarray
    layers: np.ndarray
    positions: np.ndarray
    indices: np.ndarray
    activations: np.ndarray
    logits: np.ndarray
    probabilities: np.ndarray
    edges: np.ndarray
    constants: np.ndarray
    left_out: np.ndarray
    values: np.ndarray
    gaps: np.ndarray
    active: int
    depth: int

    @property
    def features(self) -> int:
        """N."""
        return len(self.layers)

    @cached_property
    def levels(self) -> np.ndarray:
        """[M]: a node's edges come from lower levels: tokens 0, a block's features its number from 1, logits last."""
        tokens, logits = np.zeros(len(self.ids), int), np.full(len(self.logits), self.depth + 1)
        return np.concatenate([self.layers + 1, tokens, logits])

    @cached_property
    def weights(self) -> np.ndarray:
        """[M] the logits' probabilities, 0 for all others."""
        return np.concatenate([np.zeros(self.features + len(self.ids)), self.probabilities])

    @property
    def gap(self) -> float:
        """The largest gap, relative to the mean size of a target's value: 0 where the graph is complete."""
        targets = np.r_[: self.features, self.features + len(self.ids) : len(self.edges)]
        return float(np.abs(self.gaps[targets]).max() / max(np.abs(self.values[targets]).mean(), 1e-30))

    def shares(self) -> dict[str, float]:
        """Shares of the influence on the logits, by who holds it; `left out` are features that are no nodes."""
        kinds = np.stack([np.abs(self.constants), self.left_out], 1)
        whole = np.hstack([self.edges, kinds])
        found = influence(whole, self.levels, np.arange(len(self.edges)), self.weights, whole.shape[1])
        first, second = self.features, self.features + len(self.ids)
        held = {
            "features": found[:first].sum(),
            "tokens": found[first:second].sum(),
            "constants": found[-2],
            "left out": found[-1],
        }
        return {kind: float(share / max(found.sum(), 1e-300)) for kind, share in held.items()}


def attribution_graph(
    lm: LanguageModel,
    ids: Sequence[int],
    *,
    max_nodes: int = 10_000,
    max_logits: int = 10,
    logit_share: float = 0.95,
    edge_target: EdgeTarget = "pre_activation",
    bos_nodes: BOS = "kept",
    batch_tokens: int = 8192,
    on_batch: Callable[[int, int], None] | None = None,
) -> AttributionGraph:
    """The graph of what the model predicts after a text.

    Features become nodes in the order of their influence on the logits, which is computed again after every few
    batches.

    Args:
        ids: of the text.
        max_nodes: features that are nodes, at most.
        max_logits, logit_share: the fewest next tokens whose probabilities sum to this share, at most so many.
        edge_target: see `Edges`; with `resid_pre` values are no sums of edges.
        bos_nodes: whether features at the first token are nodes; where not, they are missing from the sums.
        batch_tokens: tokens of a backward pass; how the work is cut, which changes rounding alone.
        on_batch: called as (features done, features in all).

    Raises:
        SteerkitError: see `taped`; or no feature is active.
    """
    import torch

    from steerkit_plugins.transcoder.graph_edges import Edges
    from steerkit_plugins.transcoder.graph_nodes import active_features, likeliest
    from steerkit_plugins.transcoder.graph_tape import taped

    rows = max(min(batch_tokens // max(len(ids), 1), ROWS), 1)
    with taped(lm, ids, rows) as tape:
        features = active_features(tape, first_token=bos_nodes == "kept")
        logits = likeliest(lm, tape, most=max_logits, share=logit_share)
        if not len(features):
            raise SteerkitError(f"{lm.name}: no feature is active in a text of {len(ids)} tokens: there is no graph")
        edges = Edges(tape, features, logits, edge_target)
        layers, probabilities = features.layer.cpu().numpy(), logits.probabilities.double().cpu().numpy()
        found = _Rows(edges, rows, layers, probabilities, min(max_nodes, len(features)))
        found.add_logits()
        found.add_features(on_batch)
        values = torch.cat([edges.feature_values(), edges.logit_values()]).double().cpu().numpy()
        numbers: list[Any] = [features.position, features.index, features.activation.double()]
        positions, indices, activations = (each.cpu().numpy() for each in numbers)
        return _assembled(
            found,
            values,
            {
                "ids": np.array(ids),
                "positions": positions,
                "indices": indices,
                "activations": activations,
                "logits": logits.ids.cpu().numpy(),
                "depth": lm.depth,
            },
        )


class _Rows:
    """Rows of edges as they come: those of the logits, then of features in the order of their influence.

    Attributes:
        edges: [S, N + T] of S targets.
        constants: [S].
        targets: [S] numbers of features; −1 for logits.
    """

    def __init__(self, source: Edges, rows: int, layers: np.ndarray, probabilities: np.ndarray, most: int) -> None:
        self.source, self.rows, self.layers, self.probabilities = source, rows, layers, probabilities
        self.targets = np.zeros(0, int)
        size = len(probabilities) + most
        self._edges = np.empty((size, source.columns), np.float64 if source.tape.ones.itemsize == 8 else np.float32)
        self._constants = np.empty(size)

    @property
    def edges(self) -> np.ndarray:
        return self._edges[: len(self.targets)]

    @property
    def constants(self) -> np.ndarray:
        return self._constants[: len(self.targets)]

    def _take(self, targets: np.ndarray, found: tuple[Any, Any]) -> None:
        begin, end = len(self.targets), len(self.targets) + len(targets)
        self._edges[begin:end], self._constants[begin:end] = (each.cpu().numpy() for each in found)
        self.targets = np.concatenate([self.targets, targets])

    def add_logits(self) -> None:
        count = len(self.probabilities)
        for begin in range(0, count, self.rows):
            end = min(begin + self.rows, count)
            self._take(np.full(end - begin, -1), self.source.of_logits(begin, end))

    def add_features(self, on_batch: Callable[[int, int], None] | None) -> None:
        import torch

        left, wanted, done = np.ones(len(self.layers), bool), len(self._edges) - len(self.probabilities), 0
        while done < wanted:
            order = np.flatnonzero(left)
            if wanted < len(left):
                order = order[np.argsort(-self._influence()[order], kind="stable")]
            queue = np.sort(order[: min(RERANKED * self.rows, wanted - done)])  # neighbouring blocks share a pass
            for begin in range(0, len(queue), self.rows):
                part = queue[begin : begin + self.rows]
                self._take(part, self.source.of_features(torch.from_numpy(part)))
                done += len(part)
                if on_batch:
                    on_batch(done, wanted)
            left[queue] = False

    def _influence(self) -> np.ndarray:
        """[N] of all features, by the rows that are there."""
        logits = self.targets < 0
        levels = np.where(logits, self.layers.max() + 1, self.layers[self.targets])
        weights = np.zeros(len(self.targets))
        weights[logits] = self.probabilities
        return influence(self.edges, levels, self.targets, weights, self.edges.shape[1])[: len(self.layers)]


def _assembled(found: _Rows, values: np.ndarray, given: dict[str, Any]) -> AttributionGraph:
    """Nodes in their order, and only the sources that are nodes."""
    tokens, whole, k = len(given["ids"]), len(found.layers), len(found.probabilities)
    chosen = np.sort(found.targets[found.targets >= 0])
    n = len(chosen)
    size = n + tokens + k
    columns = np.concatenate([chosen, np.arange(whole, whole + tokens)])
    order = np.concatenate([np.argsort(found.targets[k:], kind="stable") + k, np.arange(k)])
    targets = np.r_[:n, n + tokens : size]
    sums = found.edges[order].sum(1, dtype=np.float64) + found.constants[order]
    edges = np.zeros((size, size), found.edges.dtype)
    edges[np.ix_(targets, range(n + tokens))] = found.edges[np.ix_(order, columns)]
    constants, left_out, own, gaps = (np.zeros(size) for _ in range(4))
    out = np.ones(found.edges.shape[1], bool)
    out[columns] = False
    constants[targets], left_out[targets] = found.constants[order], np.abs(found.edges[np.ix_(order, out)]).sum(1)
    own[targets] = np.concatenate([values[chosen], values[whole:]])
    gaps[targets] = own[targets] - sums
    return AttributionGraph(
        layers=found.layers[chosen],
        probabilities=found.probabilities,
        edges=edges,
        constants=constants,
        left_out=left_out,
        values=own,
        gaps=gaps,
        active=whole,
        **given | {key: given[key][chosen] for key in ("positions", "indices", "activations")},
    )
