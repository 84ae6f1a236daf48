"""Contrast vectors beside others' on the same pairs: `python tests/trials/contrast.py [--out out.json]`.

Each of steering-vectors and repeng that is installed (benchmarks/requirements.txt) is compared, and always a plain
forward with `output_hidden_states`. Prints the largest difference of a coordinate, over all blocks but the last one:
hidden_states[-1] lies behind the final norm.
"""

from __future__ import annotations

import argparse
import importlib
import json
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch

import steerkit
from steerkit.interfaces import OWN_TOKENS
from steerkit.models.language_model import LanguageModel

PAIRS = [
    ("I am quite happy so far.", "I am not sure at all."),
    ("This list is quite clear.", "This list is quite unclear."),
    ("It is easy to read.", "It is hard to read."),
    ("Max has just 5 maps.", "Perhaps Max has about 5 maps."),
    ("Then Monday+1 gives 6.", "Possibly Monday+1 seems 6."),
    ("That is easy.", "Wait, let me check this line again."),
    ("A plus sign must mean that more maps come in.", "A plus sign might mean that more maps come in."),
]
"""An odd number: where as many differences point to one side as to the other, repeng's sign is its solver's."""
Directions = dict[int, np.ndarray]


def ours(lm: LanguageModel, **options: Any) -> Directions:
    """`contrast_vector` at the last token; a paired fit with these options, the difference of means without any."""
    fitter = steerkit.get("fitters", "paired")(label="positive", window=OWN_TOKENS, **options) if options else None
    vector = steerkit.contrast_vector(lm, PAIRS, position="last token", fitter=fitter, chat="no")
    return {layer: vector.direction(layer).numpy() for layer in range(lm.depth - 1)}


def by_hidden_states(lm: LanguageModel) -> Directions:
    """The mean difference of hidden_states[layer + 1]."""

    def last(text: str) -> list[np.ndarray]:
        ids = torch.tensor([lm.tokenizer(text)["input_ids"]])
        with torch.no_grad():
            states = lm.model(input_ids=ids, output_hidden_states=True).hidden_states
        return [state[0, -1].double().numpy() for state in states[1:-1]]

    found = np.mean([np.subtract(last(positive), last(negative)) for positive, negative in PAIRS], 0)
    return dict(enumerate(found))


def by_steering_vectors(lm: LanguageModel, aggregator: str) -> Directions:
    peer = importlib.import_module("steering_vectors")
    how = getattr(importlib.import_module("steering_vectors.aggregators"), aggregator)()
    layers = list(range(lm.depth - 1))
    found = peer.train_steering_vector(lm.model, lm.tokenizer, PAIRS, layers=layers, aggregator=how)
    return {layer: value.numpy() for layer, value in found.layer_activations.items()}


def by_repeng(lm: LanguageModel, method: str) -> Directions:
    if not hasattr(np, "float_"):  # repeng 0.4.0 is older than numpy 2
        np.float_ = np.float64  # type: ignore[attr-defined]
    peer = importlib.import_module("repeng.extract")
    entries = [peer.DatasetEntry(positive=positive, negative=negative) for positive, negative in PAIRS]
    layers = range(lm.depth - 1)
    return dict(
        peer.read_representations(lm.model, lm.tokenizer, entries, hidden_layers=layers, batch_size=1, method=method)
    )


COMPARED: dict[str, tuple[str, Callable[[LanguageModel], Directions], dict[str, Any]]] = {
    "hidden_states": ("transformers", by_hidden_states, {}),
    "steering-vectors mean_aggregator": (
        "steering_vectors",
        lambda lm: by_steering_vectors(lm, "mean_aggregator"),
        {"method": "mean"},
    ),
    "steering-vectors pca_aggregator": (
        "steering_vectors",
        lambda lm: by_steering_vectors(lm, "pca_aggregator"),
        {"method": "pca", "center": False},
    ),
    "repeng pca_diff": ("repeng", lambda lm: by_repeng(lm, "pca_diff"), {"method": "pca"}),
    "repeng pca_center": ("repeng", lambda lm: by_repeng(lm, "pca_center"), {"method": "pca", "center": False}),
}


def compared(lm: LanguageModel) -> Iterator[tuple[str, float, float]]:
    """(what, largest difference of a coordinate, largest coordinate)."""
    for name, (package, theirs, options) in COMPARED.items():
        if find_spec(package) is None:
            print(f"not compared with {name}, which is not installed (benchmarks/requirements.txt)")
            continue
        own, other = ours(lm, **options), theirs(lm)
        yield name, max(float(np.abs(own[k] - other[k]).max()) for k in own), max(np.abs(v).max() for v in own.values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="pocket:reasoning")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    rows = [
        {"with": name, "largest difference": difference, "largest coordinate": float(largest)}
        for name, difference, largest in compared(steerkit.load_model(options.model))
    ]
    for row in rows:
        print(f"{row['with']:34} {row['largest difference']:.1e} of {row['largest coordinate']:.3g}")
    if options.out:
        options.out.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
