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
    "steerkit.chats": ["Message"],
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

if TYPE_CHECKING:  # `as` makes them public to type checkers
    from steerkit.arguments import Recipe as Recipe
    from steerkit.arguments import SteeringArguments as SteeringArguments
    from steerkit.callbacks import SteeringCallback as SteeringCallback
    from steerkit.chats import Message as Message
    from steerkit.errors import InputError as InputError
    from steerkit.errors import SteerkitError as SteerkitError
    from steerkit.extraction import Item as Item
    from steerkit.extraction import extract as extract
    from steerkit.fitting import fit as fit
    from steerkit.generation import GenerationRow as GenerationRow
    from steerkit.generation import generate as generate
    from steerkit.interfaces import Config as Config
    from steerkit.interfaces import EditContext as EditContext
    from steerkit.interfaces import Extractor as Extractor
    from steerkit.interfaces import FitterConfig as FitterConfig
    from steerkit.interfaces import Judge as Judge
    from steerkit.interfaces import Metric as Metric
    from steerkit.interfaces import Steerer as Steerer
    from steerkit.interfaces import VectorFitter as VectorFitter
    from steerkit.loading import load_model as load_model
    from steerkit.model import LanguageModel as LanguageModel
    from steerkit.pair import ModelPair as ModelPair
    from steerkit.pair import load_pair as load_pair
    from steerkit.recipe import load_recipe as load_recipe
    from steerkit.registry import get as get
    from steerkit.registry import register as register
    from steerkit.statistics import ActivationStatistics as ActivationStatistics
    from steerkit.statistics import WindowStatistics as WindowStatistics
    from steerkit.trace import Prompt as Prompt
    from steerkit.trace import Span as Span
    from steerkit.trace import Trace as Trace
    from steerkit.trace import read_rows as read_rows
    from steerkit.trace import write_rows as write_rows
    from steerkit.trainer import SteeringTrainer as SteeringTrainer
    from steerkit.vector import SteeringVector as SteeringVector


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'steerkit' has no attribute {name!r}")
    return getattr(import_module(_WHERE[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
