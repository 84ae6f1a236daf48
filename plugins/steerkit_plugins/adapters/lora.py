"""Low-rank adapters by PEFT: rank 1 to any, on any linear modules, with every option of `peft.LoraConfig`."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from pydantic import Field

from steerkit.errors import InputError, Problem, SteerkitError, nearest
from steerkit.interfaces import Config
from steerkit.models.language_model import LanguageModel
from steerkit.models.lora_units import lora_groups
from steerkit.models.units import UnitGroup
from steerkit.training.as_before import own_randomness
from steerkit_plugins.adapters.put_on import PutOn


class LoraOptions(Config):
    r: int = Field(8, ge=1)
    """Rank."""
    lora_alpha: float = Field(16, gt=0)
    """The adapter's product is multiplied by lora_alpha / r, or by lora_alpha / sqrt(r) with `use_rslora`."""
    use_rslora: bool = False
    """Rank-stabilised scaling (arXiv 2312.03732)."""
    target_modules: tuple[str, ...] | str = "all-linear"
    """Ends of module names (`q_proj`), a regular expression of whole names, or `all-linear`: all but the output's."""
    modules_to_save: tuple[str, ...] = ()
    """Ends of names of modules that are trained whole and saved with the adapter (`lm_head`)."""
    layers: tuple[int, ...] | None = None
    """0-based decoder blocks that are adapted; all when left out."""
    options: dict[str, Any] = Field(default_factory=dict)
    """More arguments of `peft.LoraConfig` (`lora_dropout`, `init_lora_weights`, `bias`, ...)."""


class Lora(PutOn):
    """W + scale · B A with B = 0 at the start, so that the model begins as it was. Dropout is 0 if not an option."""

    Config = LoraOptions
    whole = False

    def _fresh(self, lm: LanguageModel, seed: int) -> Any:
        from peft import get_peft_model

        with own_randomness(seed), _in_words():
            return get_peft_model(lm.model, self._config(lm))

    def units(self, lm: LanguageModel) -> Sequence[UnitGroup]:
        return lora_groups(lm)

    def _config(self, lm: LanguageModel) -> Any:
        """Raises: InputError for options that PEFT doesn't know or take."""
        from peft import LoraConfig

        c = self.config
        known = list(inspect.signature(LoraConfig).parameters)
        own = set(LoraOptions.model_fields) | {"layers_to_transform", "task_type", "peft_type"}
        problems = [
            Problem(f"options.{name}", "is an option of its own here; don't give it under `options`")
            if name in own
            else Problem(f"options.{name}", "peft.LoraConfig has no such argument", nearest(name, known))
            for name in c.options
            if name in own or name not in known
        ]
        problems += [
            Problem("layers", f"{layer} is not a block of {lm.name}: it has {lm.depth}, numbered from 0")
            for layer in c.layers or ()
            if not 0 <= layer < lm.depth
        ]
        if problems:
            raise InputError("options of adapter 'lora'", problems)
        return LoraConfig(
            r=c.r,
            lora_alpha=c.lora_alpha,
            use_rslora=c.use_rslora,
            target_modules=self._targets(lm),
            modules_to_save=list(c.modules_to_save) or None,
            layers_to_transform=None if c.layers is None else list(c.layers),
            task_type="CAUSAL_LM",
            **{"lora_dropout": 0.0, **c.options},
        )

    def _targets(self, lm: LanguageModel) -> Any:
        """Names of the modules; PEFT takes a choice of blocks only with a list of names."""
        given = self.config.target_modules
        if not isinstance(given, str):
            return list(given)
        if self.config.layers is None:
            return given
        if given != "all-linear":
            raise SteerkitError("lora: target_modules is a regular expression: name the blocks in it, not in `layers`")
        inside = (name for block in lm.blocks for name, module in block.named_modules() if _is_linear(module))
        return sorted({name.rpartition(".")[2] for name in inside})

    def _differences(self, found: Any) -> list[str]:
        told = {name: getattr(found, name, None) for name in ("r", "lora_alpha", "use_rslora")}
        return [f"{name} is {told[name]} there" for name in told if told[name] != getattr(self.config, name)]


def _is_linear(module: Any) -> bool:
    return hasattr(module, "weight") and ("Linear" in type(module).__name__ or type(module).__name__ == "Conv1D")


@contextmanager
def _in_words() -> Iterator[None]:
    try:
        yield
    except (ValueError, TypeError) as error:
        raise SteerkitError(f"lora: PEFT refuses these options: {str(error).strip()[:400]}") from error
