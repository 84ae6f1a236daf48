"""What an SAE is and how it is trained: two presets, and every point where they differ as an option of its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, model_validator

from steerkit.interfaces import Config

Variant = Literal["author", "standard"]
InitFan = Literal["author_fan", "input_fan"]
Aux = Literal["error_encoded", "auxk_standard", "none"]
Center = Literal["none", "mean"]
Norm = Literal["none", "per_unit_std"]
FirstTokens = Literal["kept", "dropped"]
Decoder = Literal["free", "unit_norm"]
Scale = Literal["raw", "contribution"]

PRESETS: Mapping[Variant, Mapping[str, Any]] = {
    "author": {
        "init_fan": "author_fan",
        "aux": "error_encoded",
        "center": "none",
        "norm": "none",
        "first_tokens": "kept",
        "relu": False,
        "decoder": "free",
        "scale": "raw",
    },
    "standard": {
        "init_fan": "input_fan",
        "aux": "auxk_standard",
        "center": "mean",
        "norm": "per_unit_std",
        "first_tokens": "kept",
        "relu": True,
        "decoder": "unit_norm",
        "scale": "contribution",
    },
}
"""`author`: the code behind arXiv 2511.06739. `standard`: BatchTopK as the literature has it (arXiv 2412.06410), with
AuxK of arXiv 2406.04093."""


class SAETraining(Config):
    """What a recipe says of SAEs; what is left out is as the variant has it."""

    expansion: int = Field(8, ge=1)
    """Latents for each unit: 28 units make 224."""
    k: int = Field(16, ge=1)
    """Latents that are on at a token, in the mean over a batch."""
    learning_rate: float = Field(5e-4, gt=0)
    """Adam's, after the warm-up."""
    batch_rows: int = Field(512, ge=1)
    """Tokens of a step."""
    warmup_steps: int = Field(100, ge=0)
    """Steps over which the learning rate rises from 0; constant after that."""
    epochs: int = Field(1, ge=1)
    """Passes over the training rows, which are shuffled once."""
    dead_after: int = Field(1_000_000, ge=1)
    """Tokens without being on after which a latent is dead and the auxiliary loss is about it."""
    aux_weight: float = Field(1 / 32, ge=0)
    """Of the auxiliary loss."""
    init_fan: InitFan | None = None
    """Whose number bounds the first weights, sqrt(6 / fan): the latents' (`author_fan`) or the units' (`input_fan`)."""
    aux: Aux | None = None
    """Auxiliary loss on dead latents. `error_encoded`: they encode the error and rebuild it, k a token, and the error
    is learned through. `auxk_standard`: they read the input and rebuild the fixed error, U / 2 a token, as a share of
    its variance."""
    center: Center | None = None
    """`mean` takes the mean of the training rows off the input."""
    norm: Norm | None = None
    """`per_unit_std` divides each unit by its standard deviation over the training rows."""
    first_tokens: FirstTokens | None = None
    """Whether each trace's first token is a row; its scalars are outliers in most models."""
    relu: bool | None = None
    """Whether latents are cut at 0 before the largest are kept."""
    decoder: Decoder | None = None
    """`unit_norm` keeps every latent's direction at length 1."""
    scale: Scale | None = None
    """Numbers that it reads: scalars as they are (`raw`), or times the length that they add, γ‖B‖ (`contribution`)."""

    def sae(self, variant: Variant, seed: int = 0) -> SAEOptions:
        """The options of one SAE."""
        own = {name: value for name in SAETraining.model_fields if (value := getattr(self, name)) is not None}
        return SAEOptions(variant=variant, seed=seed, **own)


class SAEOptions(SAETraining):
    """Options of one SAE, nothing left open: what is not given holds as in `PRESETS`."""

    variant: Variant = "author"
    """The preset."""
    seed: int = 0
    """Of the first weights and of the order of rows."""
    init_fan: InitFan
    aux: Aux
    center: Center
    norm: Norm
    first_tokens: FirstTokens
    relu: bool
    decoder: Decoder
    scale: Scale

    @model_validator(mode="before")
    @classmethod
    def _preset(cls, given: Any) -> Any:
        if not isinstance(given, Mapping):
            return given
        return {**PRESETS.get(given.get("variant", "author"), {}), **given}

    def latents(self, units: int) -> int:
        """F: how many latents it has."""
        return self.expansion * units

    def changed(self) -> Mapping[str, Any]:
        """Options that are not the preset's."""
        return {name: getattr(self, name) for name, own in PRESETS[self.variant].items() if getattr(self, name) != own}
