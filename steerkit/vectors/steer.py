"""``with steer(lm, vector, 12.0): lm.model.generate(...)``: a model steered for as long as the block lasts."""

from __future__ import annotations

from steerkit import registry
from steerkit.interfaces import Steerer
from steerkit.interventions.steering import Steering, Tokens
from steerkit.models.language_model import LanguageModel
from steerkit.vectors.steering_vector import SteeringVector


def steer(
    lm: LanguageModel,
    vector: SteeringVector,
    strength: float,
    *,
    layer: int | None = None,
    tokens: Tokens = "all",
    steerer: Steerer | str = "residual-add",
) -> Steering:
    """Steer every row of every forward inside the ``with``, at one decoder block.

    Args:
        strength: multiplier of the vector's scale (`FitterConfig.scale`); negative ones steer away.
        layer: 0-based block whose output is edited (``hidden_states[layer + 1]``); may be left out for a vector of one.
        tokens: which tokens are steered. The last prompt token is `prompt`.
        steerer: how the vector is used: a Steerer, or a plugin's name.

    Raises:
        SteerkitError: the vector's width or depth does not fit the model, or it lacks the layer.
    """
    made: Steerer = registry.get("steerers", steerer)() if isinstance(steerer, str) else steerer
    return Steering(lm, vector.edit(lm, made, strength, layer=layer, tokens=tokens))
