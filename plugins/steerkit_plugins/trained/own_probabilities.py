"""Each model's own probability that the next sentence has a label, at every token of the run's traces: a step."""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from steerkit.context import Run
from steerkit.data.trace import Item, Span, Trace
from steerkit.errors import SteerkitError
from steerkit.interfaces import Config
from steerkit.models.models import Models
from steerkit.parts import Step
from steerkit.training.settings import Training
from steerkit.units.detection import halves
from steerkit.units.own_probability import first_token_shares, next_token_sums
from steerkit_plugins.trained.parts import parts_of

Probabilities = Mapping[str, Mapping[str, np.ndarray]]
"""Model name → trace id → [T] float32: the probability after each token, prompt and response."""


@dataclass(frozen=True)
class ProbabilityPiece:
    """A model, the traces that it reads, and what each token counts."""

    model: str
    items: tuple[Item, ...]
    weights: tuple[tuple[int, float], ...]
    batch_tokens: int

    def __len__(self) -> int:
        return len(self.items)


class OwnProbabilities(Step):
    """``FOLDER/MODEL.safetensors``: Σ_v p(v | text so far) · w(v) at every token of every trace.

    w(v) is the share of the spans beginning with token v that have the label, counted on the choosing half of the
    traces alone: no list of words. Of a subclass's experiment are the models, the label and the halves.
    """

    uses: ClassVar[tuple[type[Config], ...]] = (Training,)
    kept_in = "probabilities"
    """The folder."""

    @abstractmethod
    def settings(self, run: Run) -> Any:
        """Settings: `label`, `halves_seed`, `batch_tokens`."""

    @abstractmethod
    def plain(self, run: Run) -> Sequence[str]:
        """The run's own models whose probabilities are read, or whose weights trained ones stand on."""

    @abstractmethod
    def read(self, run: Run) -> list[str]:
        """All models whose probabilities are read, trained ones too."""

    def needs(self, run: Run) -> Sequence[str]:
        return ("traces", "spans", "training")

    def models(self, run: Run) -> Sequence[str]:
        return tuple(dict.fromkeys(self.plain(run)))

    def depends(self, run: Run, *needs: Any) -> Any:
        c = self.settings(run)
        mapped = [sorted(run.models.mapped(name).items()) for name in self.models(run)]
        return [self.read(run), c.label, c.halves_seed, mapped]

    def pieces(self, run: Run, traces: list[Trace], spans: tuple[list[Span], Any], trained: Any) -> list[Any]:
        c, found = self.settings(run), []
        choosing, _ = halves([trace.id for trace in traces], c.halves_seed)
        for name in self.read(run):
            items = run.models.items(name, traces, spans[0])
            weights = first_token_shares((item for item in items if item.trace.id in choosing), c.label)
            bare = [Item(item.trace, (), item.ids) for item in items]
            found += [ProbabilityPiece(name, part, tuple(weights.items()), c.batch_tokens) for part in parts_of(bare)]
        return found

    def work(self, models: Models, piece: ProbabilityPiece) -> dict[str, np.ndarray]:
        return next_token_sums(
            models[piece.model],
            piece.items,
            dict(piece.weights),
            batch_tokens=piece.batch_tokens,
            on_batch=lambda done, total: models.progress(len(piece) * done // total),
        )

    def keep(self, path: Path, result: Mapping[str, np.ndarray]) -> None:
        _write(path, result)

    def kept(self, path: Path) -> dict[str, np.ndarray]:
        return _read(path)

    def join(
        self, run: Run, results: Iterable[Mapping[str, np.ndarray]], traces: list[Trace], *needs: Any
    ) -> Probabilities:
        names, parts = self.read(run), list(results)
        each = len(parts) // len(names)
        found = {}
        for number, name in enumerate(names):
            own = {
                trace: values for part in parts[number * each : (number + 1) * each] for trace, values in part.items()
            }
            found[name] = {trace.id: own[trace.id] for trace in traces}
        return found

    def save(self, run: Run, value: Probabilities) -> Sequence[str]:
        for name, own in value.items():
            _write(run.folder / self._path(name), own)
        return [self._path(name) for name in value]

    def load(self, run: Run) -> Probabilities:
        return {name: _read(run.folder / self._path(name)) for name in self.read(run)}

    def _path(self, name: str) -> str:
        return f"{self.kept_in}/{name}.safetensors"


def _write(path: Path, values: Mapping[str, np.ndarray]) -> None:
    """Write a file, whole or not at all: all values one after the other, with traces and lengths."""
    import torch

    from steerkit.store.files import save_tensors

    head = {"traces": list(values), "lengths": [len(own) for own in values.values()]}
    whole = torch.from_numpy(np.concatenate([*values.values(), np.zeros(0, np.float32)]))
    path.parent.mkdir(parents=True, exist_ok=True)
    save_tensors(path, {"probabilities": whole}, {"of": json.dumps(head)})


def _read(path: Path) -> dict[str, np.ndarray]:
    """What `_write` wrote. Raises: SteerkitError when it is damaged."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "np") as file:
            head, whole = json.loads(file.metadata()["of"]), file.get_tensor("probabilities")
        parts = np.split(whole, np.cumsum(head["lengths"])[:-1])
        return dict(zip(head["traces"], parts, strict=True))
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise SteerkitError(f"{path}: is not a file of probabilities ({error}); make it again") from error
