"""steerkit: find a direction inside a language model, steer with it, prove what it does.

Names are imported when first used, so that `import steerkit` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOMES = {
    "steerkit.arguments": ["Recipe", "SteeringArguments"],
    "steerkit.callbacks": ["SteeringCallback"],
    "steerkit.errors": ["InputError", "SteerkitError"],
    "steerkit.extraction": ["Item", "extract"],
    "steerkit.fitting": ["fit"],
    "steerkit.generation": ["GenerationRow", "generate"],
    "steerkit.interfaces": [
        "Config",
        "EditContext",
        "Extractor",
        "FitterConfig",
        "Judge",
        "Metric",
        "Steerer",
        "VectorFitter",
    ],
    "steerkit.loading": ["load_model"],
    "steerkit.model": ["LanguageModel"],
    "steerkit.pair": ["ModelPair", "load_pair"],
    "steerkit.recipe": ["load_recipe"],
    "steerkit.registry": ["get", "register"],
    "steerkit.statistics": ["ActivationStatistics", "WindowStatistics"],
    "steerkit.trace": ["Prompt", "Span", "Trace", "read_rows", "write_rows"],
    "steerkit.trainer": ["SteeringTrainer"],
    "steerkit.vector": ["SteeringVector"],
}
_WHERE = {name: home for home, names in _HOMES.items() for name in names}

__all__ = ["__version__", *sorted(_WHERE)]

if TYPE_CHECKING:
    from steerkit.arguments import Recipe, SteeringArguments  # noqa: F401
    from steerkit.callbacks import SteeringCallback  # noqa: F401
    from steerkit.errors import InputError, SteerkitError  # noqa: F401
    from steerkit.extraction import Item, extract  # noqa: F401
    from steerkit.fitting import fit  # noqa: F401
    from steerkit.generation import GenerationRow, generate  # noqa: F401
    from steerkit.interfaces import (  # noqa: F401
        Config,
        EditContext,
        Extractor,
        FitterConfig,
        Judge,
        Metric,
        Steerer,
        VectorFitter,
    )
    from steerkit.loading import load_model  # noqa: F401
    from steerkit.model import LanguageModel  # noqa: F401
    from steerkit.pair import ModelPair, load_pair  # noqa: F401
    from steerkit.recipe import load_recipe  # noqa: F401
    from steerkit.registry import get, register  # noqa: F401
    from steerkit.statistics import ActivationStatistics, WindowStatistics  # noqa: F401
    from steerkit.trace import Prompt, Span, Trace, read_rows, write_rows  # noqa: F401
    from steerkit.trainer import SteeringTrainer  # noqa: F401
    from steerkit.vector import SteeringVector  # noqa: F401


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'steerkit' has no attribute {name!r}")
    return getattr(import_module(_WHERE[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
