"""Adapters that PEFT puts on a model, takes off again and saves."""

from __future__ import annotations

import json
import warnings
from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

from steerkit.errors import SteerkitError
from steerkit.models.adapters import CONFIG, adapter_config, with_adapter
from steerkit.models.language_model import LanguageModel
from steerkit.store.files import write_json
from steerkit.training.contract import Adapter


class PutOn(Adapter):
    """A PEFT adapter named `default` on a model whose own weights are frozen."""

    whole = False

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._before: WeakKeyDictionary[Any, Before] = WeakKeyDictionary()

    @abstractmethod
    def _fresh(self, lm: LanguageModel, seed: int) -> Any:
        """The PEFT model with new weights."""

    @abstractmethod
    def _differences(self, found: Any) -> list[str]:
        """In what the PEFT configuration of an adapter to go on from is not this one's, in words."""

    def attach(self, lm: LanguageModel, *, seed: int, start: Path | None = None) -> LanguageModel:
        before = Before(lm.model)
        with _quiet():
            if start is not None:
                model = self._from(lm, start)
            else:
                model = self._fresh(lm, seed)
                model.peft_config["default"].base_model_name_or_path = lm.origin or lm.name
        self._before[model] = before
        if not any(p.requires_grad for p in model.parameters()):
            raise SteerkitError(f"{self.name}: nothing of {lm.name} would be trained")
        return LanguageModel(lm.name, model, lm.tokenizer, adapter=True, origin=lm.origin)

    def detach(self, lm: LanguageModel) -> None:
        if before := self._before.pop(lm.model, None):
            lm.model.unload()
            before.put_back()

    def save(self, lm: LanguageModel, folder: Path) -> None:
        # False: PEFT would ask the hub whether the base's vocabulary is another one. It never is here.
        lm.model.save_pretrained(str(folder), save_embedding_layers=False)
        (folder / "README.md").unlink(missing_ok=True)  # PEFT's empty form
        _in_order(folder / CONFIG)

    def _from(self, lm: LanguageModel, start: Path) -> Any:
        """The adapter in a folder, to be trained on.

        Raises:
            SteerkitError: it is none of these settings.
        """
        found = adapter_config(str(start), lm.model)
        if other := self._differences(found):
            raise SteerkitError(f"{start}: the adapter to go on from has other settings: {', '.join(other)}")
        model = with_adapter(lm, str(start)).model
        model.set_adapter("default")
        model.peft_config["default"].inference_mode = False
        return model


class Before:
    """A model's modules and which weights are trained, as they are now. PEFT's `unload` leaves trained copies of
    `modules_to_save` where the originals were."""

    def __init__(self, model: Any) -> None:
        self._children = [(module, dict(module.named_children())) for module in model.modules()]
        self._learn = [(parameter, parameter.requires_grad) for parameter in model.parameters()]

    def put_back(self) -> None:
        for module, children in self._children:
            for name, child in children.items():
                setattr(module, name, child)
        for parameter, learns in self._learn:
            parameter.requires_grad_(learns)


def _in_order(path: Path) -> None:
    """Write PEFT's sets of names in order: in its own, two runs of one training leave different files."""
    told = json.loads(path.read_text(encoding="utf-8"))
    for name in ("target_modules", "exclude_modules", "modules_to_save"):
        if isinstance(told.get(name), list):
            told[name] = sorted(told[name])
    write_json(path, told)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without PEFT's remarks on what it does right by itself."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "fan_in_fan_out is set to")  # GPT-2's Conv1D
        warnings.filterwarnings("ignore", r"The following \w+_pattern keys did not match")  # experts in one tensor
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
        yield
