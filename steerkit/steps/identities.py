"""Everything besides the arguments that the stages of a run depend on, by name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from steerkit import __version__
from steerkit.identity import Identity, file_identity
from steerkit.models.identity import model_identity
from steerkit.settings import PluginSpec, SteeringArguments, plugin_fields

if TYPE_CHECKING:
    from steerkit.run import SteeringTrainer

RELEASE = ".".join(__version__.split(".")[:2])
"""Part of every key: a release that changes results has another first or second number; the third changes none."""


def identities(trainer: SteeringTrainer) -> dict[str, Identity]:
    """Name → identity: `steerkit`; plugins by their field (`span_judge`), baselines by their method (`baseline NAME`);
    `base`, `reasoning`, and their tokenizers (`base tokenizer`); the files of `traces` and `spans`.
    """
    args = trainer.args
    found = {"steerkit": Identity("steerkit", None, {"": RELEASE}, {}, "steerkit-hf")}
    for path, kind in plugin_fields(SteeringArguments).items():
        spec = getattr(args, str(path[0]))
        if isinstance(spec, PluginSpec):
            found[str(path[0])] = spec.identity(kind, f"{path[0]} {spec.name}")
    for method, spec in trainer.methods.steerers.items():
        found[f"baseline {method}"] = spec.identity("steerers", f"baseline {method}")
    if isinstance(trainer.prompts, PluginSpec):
        found["prompts"] = trainer.prompts.identity("prompts", f"prompts {trainer.prompts.name}")
    base, reasoning, adapter, _ = trainer.models
    settings = [args.attn_implementation, args.torch_compile]
    for role, given, own in (("base", base, None), ("reasoning", base if adapter else reasoning, adapter)):
        named = isinstance(given, str) and not given.endswith(".gguf")
        pair = model_identity(role, trainer.pair[role], named=named, adapter=own, settings=settings)
        found[role], found[f"{role} tokenizer"] = pair
    for name in ("traces", "spans"):
        found[name] = file_identity(f"{name} file", getattr(args, name))
    return found
