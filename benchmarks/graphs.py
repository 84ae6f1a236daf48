"""Time of an attribution graph against the features in it: `python benchmarks/graphs.py [--rounds 3] [--out FOLDER]`.

The embedded model with a transcoder of random weights, one text. The floor is what no implementation can do without:
the bare model's forward of as many rows, and as many backward passes as the graph has batches of targets, without
rules, edges, ranking and pruning; sizes and floors in turns. Writes graphs.png and graphs.json, into docs/ where no
folder is named.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from statistics import median
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from steerkit_plugins.transcoder.adapter import TranscoderAdapter
from steerkit_plugins.transcoder.graph_build import ROWS, attribution_graph
from steerkit_plugins.transcoder.graph_influence import prune

from steerkit.bench.measure import Work, interleaved, settle
from steerkit.bench.traces import random_traces
from steerkit.models.language_model import LanguageModel
from steerkit.models.loading import load_model

DOCS = Path(__file__).parent.parent / "docs"
SIZES = {"full": (128, 256, 512, 1024, 2048, 4096), "quick": (64, 256, 1024), "smallest": (16, 32)}
TOKENS = {"full": 100, "quick": 100, "smallest": 12}


def with_transcoder(features: int) -> LanguageModel:
    """The embedded model; about a twentieth of the features are active."""
    lm = TranscoderAdapter(features=features).attach(load_model("pocket:reasoning"), seed=0)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, weight in lm.model.named_parameters():
            if "transcoder_parts" in name:
                weight.copy_(0.02 * torch.randn(weight.shape, generator=generator))
            if name.endswith("encoder.bias"):
                weight -= 0.3
    lm.model.eval()
    return lm


def graph(lm: LanguageModel, ids: list[int], nodes: int) -> Work:
    """A graph of so many features, pruned."""

    def run() -> None:
        made = attribution_graph(lm, ids, max_nodes=nodes)
        prune(made.edges, made.levels, made.weights, features=made.features)

    return run


def floor(lm: LanguageModel, ids: list[int], nodes: int) -> Work:
    """The model's forward of a batch of rows, and its backward pass for each batch of targets."""
    batches = -(-nodes // ROWS)

    def run() -> None:
        embeddings = lm.model.get_input_embeddings()(torch.tensor([ids] * ROWS)).detach().requires_grad_()
        states = lm.decoder(inputs_embeds=embeddings, use_cache=False).last_hidden_state
        for _ in range(batches):
            torch.autograd.grad(states, embeddings, torch.ones_like(states), retain_graph=True)

    return run


def measure(size: str, rounds: int) -> dict[str, Any]:
    """Seconds by number of features."""
    lm = with_transcoder(64 if size == "smallest" else 512)
    [item] = random_traces(lm.config.vocab_size, 1, TOKENS[size], equal=True)
    ids, sizes = list(item.ids), SIZES[size]
    works = {f"{kind} {n}": make(lm, ids, n) for n in sizes for kind, make in (("graph", graph), ("floor", floor))}
    seconds = {name: median(own) for name, own in interleaved(works, rounds).items()}
    active = attribution_graph(lm, ids, max_nodes=1).active
    found: dict[str, Any] = {"tokens": len(ids), "active": active, "nodes": list(sizes)}
    for kind in ("graph", "floor"):
        found[kind] = [seconds[f"{kind} {n}"] for n in sizes]
    for n, own, least in zip(sizes, found["graph"], found["floor"], strict=True):
        print(f"{n:>6} features of {active:,}, {len(ids)} tokens: {own:7.2f} s, {own / least:5.2f} times the floor")
    return found


def draw(found: dict[str, Any], path: Path) -> None:
    """Seconds against features, the floor beside it."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, plot = plt.subplots(figsize=(5.4, 3.8))
    plot.plot(found["nodes"], found["graph"], marker="o", label="graph, pruned")
    plot.plot(found["nodes"], found["floor"], marker="s", linestyle="--", label="bare forward and backward passes")
    plot.set(xscale="log", yscale="log", xlabel="features in the graph", ylabel="seconds")
    plot.set_xticks(found["nodes"], [f"{n:,}" for n in found["nodes"]])
    plot.minorticks_off()
    plot.set_title(f"{found['tokens']} tokens, {found['active']:,} active features", fontsize=10)
    plot.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--size", choices=tuple(SIZES), default="full", help="smallest only shows that it runs")
    parser.add_argument("--out", type=Path, default=DOCS, help="folder for the table and the picture")
    args = parser.parse_args()
    settle()
    found = measure(args.size, args.rounds)
    (args.out / "graphs.json").write_text(json.dumps(found, indent=1) + "\n")
    draw(found, args.out / "graphs.png")


if __name__ == "__main__":
    main()
