"""Where an artifact comes from: settings with every default filled in, versions, fingerprints."""

from __future__ import annotations

import json
import platform
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from steerkit import registry
from steerkit.data.chats import to_json
from steerkit.recipe.document import dump
from steerkit.settings import PluginSpec, SteeringArguments, plugin_fields
from steerkit.store.files import atomic, digest

if TYPE_CHECKING:
    from steerkit.run import SteeringTrainer

PACKAGES = ("steerkit-hf", "torch", "transformers", "accelerate", "peft", "datasets", "evaluate", "numpy", "scipy")
NOT_PART = (
    "output_dir",
    "report_to",
    "push_to_hub",
    "hub_model_id",
    "hub_private_repo",
    "threads",
    "device",
)  # they change no result


def version_of(package: str) -> str:
    """Installed version of a package."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def settings_of(trainer: SteeringTrainer) -> dict[str, Any]:
    """All settings that results depend on, defaults filled in."""
    base, reasoning, adapter, id_map = trainer.models
    settings = {k: v for k, v in json.loads(trainer.args.model_dump_json()).items() if k not in NOT_PART}
    for (name, *_), kind in plugin_fields(SteeringArguments).items():
        named = getattr(trainer.args, str(name))
        if isinstance(named, tuple):
            settings[str(name)] = [spec.settings(kind) for spec in named]
        elif named is not None:
            settings[str(name)] = named.settings(kind)
    return {
        "name": trainer.name,
        "about": trainer.about,
        "base": _model_name(base),
        "reasoning": _model_name(reasoning),
        "adapter": adapter,
        "id_map": {str(k): v for k, v in sorted(id_map.items())},
        "prompts": prompt_settings(trainer),
        **settings,
    }


def prompt_settings(trainer: SteeringTrainer) -> dict[str, Any]:
    """The prompt source with its counts, or a digest of the prompts themselves."""
    given = trainer.prompts
    if isinstance(given, PluginSpec):
        return {"source": given.settings("prompts"), **trainer.counts}
    return {
        "given": digest([[p.id, to_json(p.prompt), p.category, p.split, p.answer] for p in given]),
        **trainer.counts,
    }


def provenance(trainer: SteeringTrainer) -> dict[str, Any]:
    """What made an artifact: recipe hash, versions, plugins, seed."""
    args = trainer.args
    named = [
        ("judges", args.span_judge),
        ("judges", args.score_judge),
        ("extractors", args.extractor),
        ("fitters", args.fitter),
        ("steerers", args.steerer),
        *(("steerers", b) for b in args.baselines),
    ]
    return {
        "run": trainer.name,
        "recipe": digest(settings_of(trainer)),
        "seed": args.seed,
        "versions": {name: version_of(name) for name in PACKAGES},
        "plugins": {f"{kind}/{spec.name}": _version_of(kind, spec) for kind, spec in named},
    }


def _version_of(kind: str, spec: PluginSpec) -> str:
    """A plugin's distribution with its version, or its file with a digest of the code."""
    version, code = registry.versions(kind, spec.name), registry.get(kind, spec.name).code
    return f"{version} {code.name} {digest(code.versions)}" if version == registry.LOCAL and code else version


def write_recipe(trainer: SteeringTrainer) -> None:
    """``recipe.yaml``: the recipe as it was run, with versions, seed and model fingerprints."""
    base, reasoning = trainer.pair.base, trainer.pair.reasoning
    made = {
        **provenance(trainer),
        "python": platform.python_version(),
        "sampling": trainer.sampling.model_dump(exclude_none=True),
        "base": {"model": base.name, "fingerprint": base.fingerprint, "blocks": base.depth, "width": base.width},
        "reasoning": {
            "model": reasoning.name,
            "fingerprint": reasoning.fingerprint,
            "same_model": trainer.pair.same,
        },
    }
    text = dump({**settings_of(trainer), "made_with": made}, width=110)
    with atomic(trainer.folder / "recipe.yaml") as temporary:
        about = "# The recipe as it was run: every default filled in, and what it was run with.\n"
        temporary.write_text(about + text, encoding="utf-8")


def _model_name(model: Any) -> str | None:
    return model if isinstance(model, str) or model is None else str(getattr(model, "name", type(model).__name__))
