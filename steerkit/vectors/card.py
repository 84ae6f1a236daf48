"""The model card that a saved vector carries."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from steerkit.models.hub import is_hub_id

if TYPE_CHECKING:
    from torch import Tensor

    from steerkit.vectors.info import VectorInfo


class Described(Protocol):
    """What a card says of a vector."""

    info: VectorInfo

    @property
    def width(self) -> int: ...
    @property
    def layers(self) -> tuple[int, ...]: ...
    def direction(self, layer: int) -> Tensor: ...
    def norm(self, layer: int) -> float: ...


SCALES = {
    "unit": "1 (the unit direction)",
    "raw": "the direction's own length",
    "mean-norm": "the length of the source's mean activation",
    "residual-norm": "the mean length of the source's activations",
}


def card_of(vector: Described, repo_id: str | None = None) -> str:
    """Markdown with the hub's front matter: what the vector is, how to use it, where it came from, its limits.

    Args:
        vector: the vector.
        repo_id: repository that the card is for; the snippet loads the vector from there.
    """
    i = vector.info
    where = f"tokens {i.window[0]}..{i.window[1]}, counted from a span's first token" if i.window else "not recorded"
    counted = ", ".join(f"{n} {kind}" for kind, n in i.positives.items()) or "not recorded"
    facts = {
        "label": f"`{i.label}`",
        "method": i.method,
        "activations of": f"`{i.model or 'not recorded'}`" + (f" (the {i.source} model)" if i.source else ""),
        "weights fingerprint": i.fingerprint,
        "hook point": f"{i.hook_point}, blocks counted from 0",
        "read at": where,
        "positive set": counted,
        "data fingerprint": i.data,
        "strength 1 adds a length of": SCALES[i.scale],
        **{key: _text(value) for key, value in i.provenance.items()},
    }
    rows = "\n".join(f"| {key} | {value or 'not recorded'} |" for key, value in facts.items())
    norms = "\n".join(
        f"| {layer} | {float(vector.direction(layer).norm()):.4g} | {vector.norm(layer):.4g} |"
        for layer in vector.layers
    )
    return f"""---
{_front_matter(vector)}
---

# Steering vector: {i.label}

One direction of width {vector.width} for each of {len(vector.layers)} decoder blocks of a language model. Added to a
block's output it pushes what the model writes towards `{i.label}`.

## Use

```python
import steerkit as sk

vector = sk.SteeringVector.from_pretrained("{repo_id or "FOLDER_OR_REPOSITORY"}")
lm = sk.load_model("{i.model or "MODEL"}")
inputs = lm.tokenizer("How many days has a leap year?", return_tensors="pt").to(lm.device)
with sk.steer(lm, vector, strength=1.0, layer={vector.layers[len(vector.layers) // 3]}):
    ids = lm.model.generate(**inputs, max_new_tokens=100)
print(lm.tokenizer.decode(ids[0]))
```

Find the layer and the strength by a sweep: 1.0 is where a sweep starts.
`steerkit vector export` writes the vector for llama.cpp and for lm-evaluation-harness.

## Where it comes from

| | |
|---|---|
{rows}

| block | norm as fitted | norm at strength 1 |
|---|---|---|
{norms}

## Limits

- It fits models of this width and depth only, and was measured, if at all, on the model named above and its prompts:
  see the run's report for figures and intervals.
- It stands for what the judge labelled `{i.label}`. A judge that looks for words makes a vector of those words.
- A large strength damages text. Random directions of the same length are an easy baseline: before saying that the
  windows before `{i.label}` matter, compare with a vector of the same traces whose labels are shuffled (experiment
  `controls`).
"""


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{k} {v}" for k, v in value.items())
    return str(value)


def _front_matter(vector: Described) -> str:
    from huggingface_hub import ModelCardData

    model = vector.info.model
    data = ModelCardData(
        library_name="steerkit",
        tags=["steering-vector", "activation-steering"],
        base_model=model if is_hub_id(model) else None,
    )
    return data.to_yaml().strip()
