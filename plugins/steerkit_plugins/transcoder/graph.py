"""What do predictions hang on right before the model turns back? (arXiv 2602.20904, section 6)"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from statistics import median
from typing import Any

from steerkit.context import Run
from steerkit.errors import Problem
from steerkit.findings import Findings, Table
from steerkit.parts import Experiment
from steerkit.training.arms import Arm
from steerkit.training.settings import Training
from steerkit_plugins.transcoder.arms import Diffing, one_arm, problems
from steerkit_plugins.transcoder.graph_config import FOLDER, GraphConfig
from steerkit_plugins.transcoder.graph_drawing import figure_of, strongest

COMPLETE = 1e-3
"""Gap below which edges and constants are taken to sum to their targets' values."""
SHOWN = 12
"""Features in the table."""
KINDS = ("features", "tokens", "constants", "left out")


class Graph(Experiment):
    """Which features, of which tokens, does a prediction hang on?"""

    Config = GraphConfig
    uses = (Training, Diffing)
    rows = None
    steers = False

    def check(self, run: Run) -> Iterator[Problem]:
        c = self.config
        yield from problems(self.name, run, c)
        if not (c.places or c.texts):
            yield Problem(f"{self.name}.places", "is 0, and no texts are given", f"give {self.name}.texts, or places")

    def arms(self, run: Run) -> Sequence[Arm]:
        return [one_arm(run, self.config)]

    def needs(self, run: Run) -> Sequence[str]:
        return (f"attribution-graphs.{one_arm(run, self.config).name}",)

    def findings(self, run: Run, results: None, graphs: Sequence[Mapping[str, Any]]) -> Findings:
        c: GraphConfig = self.config
        shares = {kind: median(own["shares"][kind] for own in graphs) for kind in KINDS}
        kept, active = (round(median(own[key] for own in graphs)) for key in ("kept_features", "active"))
        return Findings(
            title="Attribution graphs",
            question=f"Which features does the next token hang on, right before a {c.label} sentence?",
            finding=f"Features hold {shares['features']:.0%} of the influence on what is predicted, tokens "
            f"{shares['tokens']:.0%}, constants {shares['constants']:.0%}; pruning keeps {kept:,} of {active:,} active "
            f"features (medians over {len(graphs)} graphs).",
            figures=tuple(figure_of(f"{self.name}-{n}", own, c.drawn) for n, own in enumerate(graphs[: c.figures], 1)),
            tables=(_graphs(graphs), _features(graphs)),
            cautions=tuple(self._cautions(graphs)),
            notes=tuple(self._notes()),
            value={"shares": shares, "kept": kept, "gap": max(own["gap"] for own in graphs)},
            data={"graphs.csv": [_row(own) for own in graphs]},
        )

    def _cautions(self, graphs: Sequence[Mapping[str, Any]]) -> Iterator[str]:
        yield (
            "A graph is of the model with norm scales, attention patterns and gates held constant: what a feature does "
            "by moving attention is not in it, and ablating a feature can do something else."
        )
        gap = max(own["gap"] for own in graphs)
        if gap > COMPLETE and self.config.edge_target == "pre_activation":
            why = " Features at the first token are left out." if self.config.bos_nodes == "zeroed" else ""
            yield (
                f"Graphs are not complete: a target's value and the sum of its edges and constants differ by up to "
                f"{gap:.1%} of a target's mean size.{why}"
            )
        if (left := max(own["shares"]["left out"] for own in graphs)) > 0.05:
            yield (
                f"Features that are no nodes hold up to {left:.0%} of the influence; raise {self.name}.max_nodes "
                f"({self.config.max_nodes:,})."
            )

    def _notes(self) -> Iterator[str]:
        c = self.config
        yield (
            f"{FOLDER}/*.json are graphs for circuit-tracer's viewer: pip install circuit-tracer; circuit-tracer "
            f"start-server --graph_file_dir {FOLDER}"
        )
        yield (
            "An edge is gradient × activation. Constants are biases, position embeddings and norms' offsets. Influence "
            "is that of sizes of edges, normalised by target, over all paths to the next tokens, which are weighted by "
            "their probabilities."
        )
        yield (
            f"Next tokens: the likeliest up to a probability of {c.logit_share:.0%}, at most {c.max_logits}. Pruning "
            f"keeps the nodes with {c.node_threshold:.0%}, then the edges with {c.edge_threshold:.0%} of the influence."
        )
        if c.edge_target == "resid_pre":
            yield "Features read their block's input (the author's code): their edges don't sum to their values."


def _row(own: Mapping[str, Any]) -> dict[str, Any]:
    kept = {key: value for key, value in own.items() if key not in ("graph", "shares")}
    return {**kept, **{f"share of {kind}": own["shares"][kind] for kind in KINDS}}


def _graphs(graphs: Sequence[Mapping[str, Any]]) -> Table:
    def row(own: Mapping[str, Any]) -> tuple[str, ...]:
        likely = next(node["clerp"] for node in own["graph"]["nodes"] if node["is_target_logit"])
        return (
            own["model"],
            own["place"],
            own["following"].strip(),
            likely.removeprefix("Output "),
            f"{own['active']:,}",
            f"{own['kept_features']:,}",
            f"{own['edges']:,}",
            f"{own['kept_edges']:,}",
            *(f"{own['shares'][kind]:.0%}" for kind in KINDS),
            f"{own['gap']:.0e}",
        )

    return Table(
        title="Graphs",
        headings=(
            "model",
            "place",
            "goes on with",
            "likeliest",
            "active features",
            "kept",
            "edges",
            "kept",
            *(f"influence of {kind}" for kind in KINDS[:3]),
            "of features left out",
            "gap",
        ),
        rows=tuple(map(row, graphs)),
        left=4,
        note="gap: the largest difference of a target's value from the sum of its edges and constants, relative to the "
        "mean size of values; rounding, where nothing is missing.",
    )


def _features(graphs: Sequence[Mapping[str, Any]]) -> Table:
    """Features that stand in the most graphs, among each graph's strongest."""
    counts, names = Counter[tuple[str, str]](), dict[tuple[str, str], str]()
    for own in graphs:
        best = strongest(own["graph"]["nodes"], 5 * SHOWN)
        ids = {(own["model"], node["node_id"].rpartition("_")[0].replace("_", ".mlp.")): node["clerp"] for node in best}
        counts.update(ids.keys())
        names |= ids
    shown = sorted(counts, key=lambda key: (-counts[key], key))[:SHOWN]
    return Table(
        title="Features in the most graphs",
        headings=("model", "feature", "makes likelier", "graphs"),
        rows=tuple((*key, names[key], str(counts[key])) for key in shown),
        left=3,
        note=f"Among the {5 * SHOWN} nodes with most influence of each of {len(graphs)} graphs.",
    )
