"""A Qwen2 with transcoders written out by hand, with norm scales, attention patterns and gates held constant."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from steerkit.models.language_model import LanguageModel


@dataclass
class Frozen:
    """Linear in embeddings [T, D] and features [L][T, F]: the first run fixes the constants.

    Attributes:
        patterns: [L][heads, T, T] attention patterns, those of transformers.
        constants: by name.
    """

    lm: LanguageModel
    patterns: list[Tensor]
    constants: dict[str, Tensor] = field(default_factory=dict)

    def run(self, x: Tensor, features: list[Tensor] | None = None) -> dict[str, Any]:
        """Pre-activations [L][T, F], block inputs [L][T, D], features, and logits minus their mean [V].

        Args:
            features: None: those that the encoders give.
        """
        inputs, values, codes = [], [], []
        for layer, block in enumerate(self.lm.blocks):
            inputs.append(x)
            own: Any = block
            h = self.norm(f"{layer}.1", own.input_layernorm, x)
            v = own.self_attn.v_proj(h)  # one group of heads
            mixed = torch.cat([pattern @ v for pattern in self.patterns[layer]], -1)
            x = x + own.self_attn.o_proj(mixed)
            h = self.norm(f"{layer}.2", own.post_attention_layernorm, x)
            mlp, transcoder = own.mlp.base_layer, own.mlp.transcoder
            gate, up = mlp.gate_proj(h), mlp.up_proj(h)
            a = gate * self.kept(f"{layer}.sigmoid", gate.sigmoid())
            half = a * self.kept(f"{layer}.up", up) + self.kept(f"{layer}.act", a) * up
            values.append(h @ transcoder.encoder.weight.T + transcoder.encoder.bias)
            codes.append(values[-1].clamp(min=0) if features is None else features[layer])
            x = x + mlp.down_proj(half / 2) + transcoder.scale * transcoder.decoder(codes[-1])
        logits = self.lm.model.get_output_embeddings()(self.norm("final", self.lm.final_norm, x)[-1])
        return {"values": values, "inputs": inputs, "features": codes, "logits": logits - logits.mean()}

    def norm(self, name: str, module: Any, x: Tensor) -> Tensor:
        scale = (x.pow(2).mean(-1, keepdim=True) + module.variance_epsilon) ** -0.5
        return module.weight * (x * self.kept(name, scale))

    def kept(self, name: str, value: Tensor) -> Tensor:
        return self.constants.setdefault(name, value.detach())


def frozen(lm: LanguageModel, ids: tuple[int, ...]) -> tuple[Frozen, Tensor, dict[str, Any]]:
    """The model, the embeddings of a text, and its first run."""
    lm.model.set_attn_implementation("eager")
    text = torch.tensor([ids])
    with torch.no_grad():
        out = lm.model(text, output_attentions=True, use_cache=False)
        made = Frozen(lm, [pattern[0] for pattern in out.attentions])
        embeddings = lm.model.get_input_embeddings()(text)[0]
        first = made.run(embeddings)
    torch.testing.assert_close(first["logits"], out.logits[0, -1] - out.logits[0, -1].mean(), rtol=1e-5, atol=1e-5)
    return made, embeddings, first
