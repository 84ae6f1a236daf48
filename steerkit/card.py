"""The model card that a saved vector carries."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from steerkit.vector import SteeringVector


def card_of(vector: SteeringVector) -> str:
    """Markdown with the hub's front matter: what the vector is, how to use it, where it came from."""
    i = vector.info
    norms = "\n".join(f"| {layer} | {float(vector.direction(layer).norm()):.4g} |" for layer in vector.layers)
    versions = ", ".join(f"{k} {v}" for k, v in i.provenance.get("versions", {}).items()) or "not recorded"
    return f"""---
library_name: steerkit
tags: [steering-vector]
---

# Steering vector: {i.label}

A direction of width {vector.width} for each of {len(vector.layers)} decoder blocks (0-based, at {i.hook_point}),
fitted by {i.method} to activations at token offsets {i.window[0]}..{i.window[1]} from the first token of
spans labelled `{i.label}`: {i.positives.get("spans", "?")} spans in {i.positives.get("traces", "?")} traces.
The activations are those of {f"the {i.source} model, " if i.source else ""}`{i.model or "unknown"}`
(weights fingerprint {i.fingerprint or "not recorded"}). Strength 1 adds: {i.scale}.

```python
import steerkit as sk

vector = sk.SteeringVector.from_pretrained("this repository or folder")
lm = sk.load_model("{i.model}")
with sk.get("steerers", "residual-add")()(lm, vector, strength=1.0, layer={vector.layers[len(vector.layers) // 3]}):
    lm.model.generate(...)
```

What the vector does was measured on that model and on its prompts only; see the run's report for figures and intervals.

| block | norm as fitted |
|---|---|
{norms}

Data fingerprint {i.data or "not recorded"}; made with {versions}.
"""
