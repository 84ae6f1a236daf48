"""What a model of a run is: one that the recipe names, or one that the run trains; and how models are loaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, model_validator

from steerkit.interfaces import Config
from steerkit.models.parts_from import SwappedPart


def _whole_keys(value: Any) -> Any:
    """YAML's and JSON's keys are texts."""
    if not isinstance(value, Mapping):
        return value
    return {int(k) if isinstance(k, str) and k.isdecimal() else k: v for k, v in value.items()}


class ModelSpec(Config):
    """A model of a run."""

    weights: str
    """`source:name`, a folder, a .gguf file or a hub id."""
    adapter: str | None = None
    """PEFT adapter on it, a folder or a hub id. A model of the same weights without one shares them."""
    parts_from: dict[SwappedPart, str] = Field(default_factory=dict)
    """Parts (mlp, attention, norms, embedding, head) that are another model's of the run: `{mlp: base}` gives the
    hybrid, this model with the other's MLPs."""
    id_map: dict[str, Annotated[dict[int, int], BeforeValidator(_whole_keys)]] = Field(default_factory=dict)
    """By the name of a model whose texts it reads: that model's token ids → ids that this one reads in their place, for
    special tokens that differ: R1's `<think>` is 128013, a reserved token of Llama's; a neutral one such as 27370
    stands in for it."""

    @model_validator(mode="before")
    @classmethod
    def _weights_alone(cls, value: Any) -> Any:
        return {"weights": value} if isinstance(value, str) else value


@dataclass(frozen=True)
class Trained:
    """A model that the run itself makes: it trains it, or derives it from one that it has trained.

    Attributes:
        origin: name of the run's model that it is made of: its tokenizer, ids and sizes.
        folder: where its weights are once it is made.
        whole: whether these are all its weights; else a PEFT adapter on the origin.
    """

    origin: str
    folder: Path
    whole: bool


@dataclass(frozen=True)
class Loading:
    """How models are loaded; see `steerkit.models.loading.load_model`."""

    bf16: bool = False
    device: str = "auto"
    device_map: str | None = None
    trust_remote_code: bool = False
    attn_implementation: str | None = None
    torch_compile: bool = False
