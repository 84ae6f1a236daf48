"""Adapter `transcoder`: a transcoder beside each MLP (arXiv 2602.20904)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import Field

from steerkit.errors import InputError, Problem
from steerkit.interfaces import Config
from steerkit.models.language_model import LanguageModel
from steerkit.models.loading import ModelShape
from steerkit.models.parts_from import block_part
from steerkit.models.units import UnitGroup
from steerkit.training.as_before import own_randomness
from steerkit_plugins.adapters.put_on import PutOn
from steerkit_plugins.transcoder.kind import KIND
from steerkit_plugins.transcoder.units import transcoder_groups


class TranscoderOptions(Config):
    features: int = Field(8192, ge=1)
    """Features a block; 8192 in the paper for models that are 3584 wide."""
    decoder_bias: bool = True
    """Whether a trained vector is added where no feature is active, too."""
    scale: float = 1.0
    """What the transcoders' output is multiplied by."""
    layers: tuple[int, ...] | None = None
    """0-based decoder blocks that have one; all when left out."""


class TranscoderAdapter(PutOn):
    """MLP(x) + s · T(x), T(x) = W_dec ReLU(W_enc x + b_enc) + b_dec, x the MLP's own input. Only T is trained.

    Put it on the hybrid, the fine-tuned model with the base's MLPs (`parts_from: {mlp: base}`), T says what fine-tuning
    changed in the MLPs. Decoders start at 0: the model begins as it was, and in the first step only decoders move.
    Weights are float32 in training, whatever the model's number format; a saved adapter is one of PEFT's to load.
    """

    Config = TranscoderOptions
    whole = False
    kind = KIND

    @classmethod
    def bring(cls) -> None:
        from steerkit_plugins.transcoder.tuner import register

        register()

    def count(self, shape: ModelShape) -> int:
        c = self.config
        each = 2 * shape.width * c.features + c.features + (shape.width if c.decoder_bias else 0)
        return each * (shape.depth if c.layers is None else len(set(c.layers)))

    def units(self, lm: LanguageModel) -> Sequence[UnitGroup]:
        return transcoder_groups(lm)

    def _fresh(self, lm: LanguageModel, seed: int) -> Any:
        from peft import get_peft_model

        self.bring()
        config = self._config(lm)
        with own_randomness(seed):
            return get_peft_model(lm.model, config)

    def _config(self, lm: LanguageModel) -> Any:
        """Raises: InputError for blocks that the model hasn't; SteerkitError for blocks without an MLP of their own."""
        from steerkit_plugins.transcoder.tuner import TranscoderConfig

        c = self.config
        layers = range(lm.depth) if c.layers is None else sorted(set(c.layers))
        problems = [
            Problem("layers", f"{layer} is not a block of {lm.name}: it has {lm.depth}, numbered from 0")
            for layer in layers
            if not 0 <= layer < lm.depth
        ]
        if problems:
            raise InputError("options of adapter 'transcoder'", problems)
        names = {id(module): name for name, module in lm.model.named_modules()}
        return TranscoderConfig(
            features=c.features,
            decoder_bias=c.decoder_bias,
            scale=c.scale,
            target_modules=[names[id(block_part(lm, layer, "mlp"))] for layer in layers],
            task_type="CAUSAL_LM",
        )

    def _differences(self, found: Any) -> list[str]:
        told = {name: getattr(found, name, None) for name in ("features", "decoder_bias", "scale")}
        return [f"{name} is {value} there" for name, value in told.items() if value != getattr(self.config, name)]
