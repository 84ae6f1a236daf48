"""steerkit: find a direction inside a language model, steer with it, prove what it does.

Names are imported when first used, so that `import steerkit` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOMES = {
    "steerkit.artifacts": ["Condition", "Fit", "Pair", "PluginSpec", "VectorKey"],
    "steerkit.data.generated": ["Generation", "Score"],
    "steerkit.context": ["Run"],
    "steerkit.findings": [
        "Bars",
        "Claim",
        "Figure",
        "Findings",
        "Graph",
        "Heatmap",
        "Lines",
        "Marked",
        "Series",
        "Table",
    ],
    "steerkit.settings": ["Recipe", "SteeringArguments"],
    "steerkit.callbacks": ["SteeringCallback"],
    "steerkit.data.chats": ["Message"],
    "steerkit.data.site": ["Site"],
    "steerkit.errors": ["InputError", "SteerkitError"],
    "steerkit.extraction.extract": ["extract"],
    "steerkit.vectors.contrast": ["contrast_vector"],
    "steerkit.extraction.gradient_rows": ["GradientRow"],
    "steerkit.extraction.gradients": ["gradients"],
    "steerkit.vectors.fit": ["fit"],
    "steerkit.generation.stream": ["GenerationRow", "generate"],
    "steerkit.interfaces": [
        "Config",
        "EditContext",
        "Extractor",
        "FitterConfig",
        "Intervention",
        "Judge",
        "Metric",
        "Steerer",
        "VectorFitter",
    ],
    "steerkit.interventions.steering": ["Edit", "Steering"],
    "steerkit.models.loading": ["load_model"],
    "steerkit.models.language_model": ["LanguageModel"],
    "steerkit.models.models": ["Models", "load_models"],
    "steerkit.parts": ["Executor", "Experiment", "Step"],
    "steerkit.recipe.load": ["load_arguments", "load_recipe"],
    "steerkit.registry": ["get", "register"],
    "steerkit.data.gradient_statistics": ["GradientStatistics"],
    "steerkit.data.statistics": ["ActivationStatistics"],
    "steerkit.data.windows": ["WindowStatistics"],
    "steerkit.data.trace": ["Item", "Prompt", "Span", "Trace", "read_rows", "write_rows"],
    "steerkit.run": ["SteeringTrainer"],
    "steerkit.training.contract": ["Adapter", "Objective"],
    "steerkit.training.rows": ["TrainingRow"],
    "steerkit.training.train": ["train"],
    "steerkit.training.arms": ["Arm"],
    "steerkit.training.settings": ["Training"],
    "steerkit.vectors.steer": ["steer"],
    "steerkit.vectors.steering_vector": ["SteeringVector"],
}
_WHERE = {name: home for home, names in _HOMES.items() for name in names}

__all__ = ["__version__", *sorted(_WHERE)]

if TYPE_CHECKING:  # `as` makes them public to type checkers
    from steerkit.artifacts import Condition as Condition
    from steerkit.artifacts import Fit as Fit
    from steerkit.artifacts import Pair as Pair
    from steerkit.artifacts import PluginSpec as PluginSpec
    from steerkit.artifacts import VectorKey as VectorKey
    from steerkit.callbacks import SteeringCallback as SteeringCallback
    from steerkit.context import Run as Run
    from steerkit.data.chats import Message as Message
    from steerkit.data.generated import Generation as Generation
    from steerkit.data.generated import Score as Score
    from steerkit.data.gradient_statistics import GradientStatistics as GradientStatistics
    from steerkit.data.site import Site as Site
    from steerkit.data.statistics import ActivationStatistics as ActivationStatistics
    from steerkit.data.trace import Item as Item
    from steerkit.data.trace import Prompt as Prompt
    from steerkit.data.trace import Span as Span
    from steerkit.data.trace import Trace as Trace
    from steerkit.data.trace import read_rows as read_rows
    from steerkit.data.trace import write_rows as write_rows
    from steerkit.data.windows import WindowStatistics as WindowStatistics
    from steerkit.errors import InputError as InputError
    from steerkit.errors import SteerkitError as SteerkitError
    from steerkit.extraction.extract import extract as extract
    from steerkit.extraction.gradient_rows import GradientRow as GradientRow
    from steerkit.extraction.gradients import gradients as gradients
    from steerkit.findings import Bars as Bars
    from steerkit.findings import Claim as Claim
    from steerkit.findings import Figure as Figure
    from steerkit.findings import Findings as Findings
    from steerkit.findings import Graph as Graph
    from steerkit.findings import Heatmap as Heatmap
    from steerkit.findings import Lines as Lines
    from steerkit.findings import Marked as Marked
    from steerkit.findings import Series as Series
    from steerkit.findings import Table as Table
    from steerkit.generation.stream import GenerationRow as GenerationRow
    from steerkit.generation.stream import generate as generate
    from steerkit.interfaces import Config as Config
    from steerkit.interfaces import EditContext as EditContext
    from steerkit.interfaces import Extractor as Extractor
    from steerkit.interfaces import FitterConfig as FitterConfig
    from steerkit.interfaces import Intervention as Intervention
    from steerkit.interfaces import Judge as Judge
    from steerkit.interfaces import Metric as Metric
    from steerkit.interfaces import Steerer as Steerer
    from steerkit.interfaces import VectorFitter as VectorFitter
    from steerkit.interventions.steering import Edit as Edit
    from steerkit.interventions.steering import Steering as Steering
    from steerkit.models.language_model import LanguageModel as LanguageModel
    from steerkit.models.loading import load_model as load_model
    from steerkit.models.models import Models as Models
    from steerkit.models.models import load_models as load_models
    from steerkit.parts import Executor as Executor
    from steerkit.parts import Experiment as Experiment
    from steerkit.parts import Step as Step
    from steerkit.recipe.load import load_arguments as load_arguments
    from steerkit.recipe.load import load_recipe as load_recipe
    from steerkit.registry import get as get
    from steerkit.registry import register as register
    from steerkit.run import SteeringTrainer as SteeringTrainer
    from steerkit.settings import Recipe as Recipe
    from steerkit.settings import SteeringArguments as SteeringArguments
    from steerkit.training.arms import Arm as Arm
    from steerkit.training.contract import Adapter as Adapter
    from steerkit.training.contract import Objective as Objective
    from steerkit.training.rows import TrainingRow as TrainingRow
    from steerkit.training.settings import Training as Training
    from steerkit.training.train import train as train
    from steerkit.vectors.contrast import contrast_vector as contrast_vector
    from steerkit.vectors.fit import fit as fit
    from steerkit.vectors.steer import steer as steer
    from steerkit.vectors.steering_vector import SteeringVector as SteeringVector


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'steerkit' has no attribute {name!r}")
    return getattr(import_module(_WHERE[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
