"""What a training is made of: an Adapter says what is trained, an Objective says what it is trained for.

Shapes: B rows of a micro-batch, T tokens, padded on the right.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from steerkit.errors import SteerkitError
from steerkit.interfaces import Plugin

if TYPE_CHECKING:
    from torch import Tensor

    from steerkit.models.language_model import LanguageModel
    from steerkit.models.loading import ModelShape
    from steerkit.models.units import UnitGroup


@dataclass(frozen=True, eq=False)
class Batch:
    """A micro-batch: prompts followed by their responses.

    Attributes:
        ids: [B, T] int64.
        mask: [B, T] int64, 0 for padding.
        labels: [B, T] int64: the id where a token is learned, -100 elsewhere. Not shifted: what precedes a position
            predicts its label.
        prompt_lengths: tokens of each row's prompt.
        rows: each row's place among the rows of the training.
        tokens: learned tokens of the *whole accumulated batch*, over all micro-batches and processes (transformers'
            ``num_items_in_batch``).
    """

    ids: Tensor
    mask: Tensor
    labels: Tensor
    prompt_lengths: tuple[int, ...]
    rows: tuple[int, ...]
    tokens: Tensor | int


@dataclass(frozen=True, eq=False)
class Loss:
    """A micro-batch's share of the loss of one optimizer step.

    Attributes:
        total: what is differentiated, a scalar.
        parts: name → scalar, for the log: what the total is made of, or what is watched beside it.

    The reduction: total and parts are this micro-batch's *sum* over learned tokens, divided by `Batch.tokens`. The sum
    over the micro-batches of a step is then the mean over all its learned tokens, so that four micro-batches of one
    row and one batch of four give the same gradients, whatever the rows' lengths. (A mean over each micro-batch would
    give a token in a short row more weight.)
    """

    total: Tensor
    parts: Mapping[str, Tensor] = field(default_factory=dict)


class Adapter(Plugin):
    """Which part of a model is trained, and how it is kept."""

    whole: ClassVar[bool]
    """Whether `save` writes whole weights with their tokenizer, a model of its own; else a PEFT adapter, to be loaded
    on the model that it was trained on (`load_model(base, adapter=folder)`)."""
    kind: ClassVar[str] = ""
    """The `peft_type` of an adapter that PEFT itself doesn't know; empty where PEFT does."""

    @classmethod
    def bring(cls) -> None:
        """Register `kind` with PEFT: called once, before an adapter of that kind is loaded."""

    @abstractmethod
    def attach(self, lm: LanguageModel, *, seed: int, start: Path | None = None) -> LanguageModel:
        """The model with its trainable parts on; all others are frozen. The given model's modules are changed in place.

        The global random state is left as it is, and has no influence on the result.

        Args:
            seed: of the initial values; the same seed gives the same ones.
            start: folder of an earlier `save`, to go on from.

        Raises:
            SteerkitError: the model has no such parts, or `start` doesn't fit.
        """

    def count(self, shape: ModelShape) -> int | None:
        """How many numbers are trained of a model of this shape; None where only its weights can tell, as here."""
        return None

    @abstractmethod
    def detach(self, lm: LanguageModel) -> None:
        """Take off what `attach` put on: the model that it was given is as it was before, bit for bit.

        Args:
            lm: what `attach` returned.
        """

    @abstractmethod
    def save(self, lm: LanguageModel, folder: Path) -> None:
        """Write what was trained. Optimizer state is no part of it."""

    def units(self, lm: LanguageModel) -> Sequence[UnitGroup]:
        """The units of a model that has this adapter on, to be read, changed and counted.

        Raises:
            SteerkitError: it has none, as here.
        """
        raise SteerkitError(f"adapter {self.name!r} has no units that can be read at single tokens")


class Objective(Plugin):
    """What a training minimises."""

    cost: ClassVar[float] = 1.0
    """What a step of it takes, in steps of one forward and one backward: for the time that a plan tells."""

    @abstractmethod
    def loss(self, lm: LanguageModel, batch: Batch) -> Loss:
        """The loss of a micro-batch, reduced as `Loss` says.

        `lm.model` may be called several times (several named passes). Passes that need no gradient run under
        ``torch.no_grad()``. Interventions of the training are on; for held-out rows they are off, and so are gradients.
        """

    def state(self, lm: LanguageModel) -> Mapping[str, Tensor]:
        """What it remembers of the steps so far, for its log; a checkpoint keeps it, each process its own."""
        return {}

    def restore(self, lm: LanguageModel, state: Mapping[str, Tensor]) -> None:
        """Go on from a `state` that was not empty."""
