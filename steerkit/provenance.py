"""Where an artifact comes from: settings with every default filled in, versions, fingerprints."""

from __future__ import annotations

import platform
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from itertools import combinations
from typing import Any

from steerkit import registry
from steerkit.artifacts import PluginSpec, specs_in
from steerkit.context import Run
from steerkit.data.chats import to_json
from steerkit.generation.generation_config import sampling_with
from steerkit.identity import spec_settings
from steerkit.interfaces import Config
from steerkit.parts import RunPart, Step
from steerkit.recipe.document import dump
from steerkit.settings import Generating
from steerkit.store.files import atomic, digest
from steerkit.store.identity import plain, put

PACKAGES = ("steerkit-hf", "torch", "transformers", "accelerate", "peft", "datasets", "evaluate", "numpy", "scipy")
NOT_PART = frozenset(
    {
        "output_dir",
        "disable_tqdm",
        "report_to",
        "push_to_hub",
        "hub_model_id",
        "hub_private_repo",
        "threads",
        "device",
        "executor",
    }
)
"""Settings that change no result."""


def version_of(package: str) -> str:
    """Installed version of a package."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def values_of(config: Config) -> dict[str, Any]:
    """JSON of a config, defaults filled in, those of the plugins that it names too."""
    found = {name: plain(getattr(config, name)) for name in type(config).model_fields}
    for path, kind, spec in specs_in(config):
        put(found, path, spec_settings(kind, spec))
    return found


def settings_of(run: Run, steps: Mapping[str, Step]) -> dict[str, Any]:
    """All settings that the run's results depend on, in the form of a recipe."""
    args = run.args
    own = {name: plain(getattr(args, name)) for name in type(args).model_fields if name not in NOT_PART}
    own |= {
        "name": run.name,
        "about": run.about,
        "models": {
            name: spec.model_dump(mode="json", exclude_defaults=True) for name, spec in run.models.specs.items()
        },
        "writer": run.models.writer,
        "experiments": [spec.name for spec in args.experiments],
    }
    own.pop("plugins", None)
    for group in _groups(run, steps):
        own |= values_of(run.settings.group(group))
    for part in (*steps.values(), *run.experiments.values()):
        if values := values_of(part.config):
            own[part.name] = values
    if run.given is not None:
        own["prompts"] |= {
            "given": digest([[p.id, to_json(p.prompt), p.category, p.split, p.answer] for p in run.given])
        }
    first = ("name", "about", "models", "writer", "experiments")
    return {name: own[name] for name in (*first, *(name for name in own if name not in first))}


def provenance(run: Run) -> dict[str, Any]:
    """What made an artifact: the run, seed and versions."""
    return {
        "run": run.name,
        "seed": run.seed,
        "versions": {name: version_of(name) for name in PACKAGES},
    }


def _plugins(run: Run, steps: Mapping[str, Step]) -> Iterator[tuple[str, PluginSpec]]:
    parts: list[RunPart] = [*steps.values(), *run.experiments.values()]
    configs = [*(run.settings.group(group) for group in _groups(run, steps)), *(part.config for part in parts)]
    for config in configs:
        for _, kind, spec in specs_in(config):
            yield kind, spec
    for name in run.experiments:
        yield "experiments", PluginSpec(name=name)


def _version_of(kind: str, spec: PluginSpec) -> str:
    """A plugin's distribution with its version, or its file with a digest of the code."""
    version, code = registry.versions(kind, spec.name), registry.get(kind, spec.name).code
    return f"{version} {code.name} {digest(code.versions)}" if version == registry.LOCAL and code else version


def _groups(run: Run, steps: Mapping[str, Step]) -> list[type[Config]]:
    """The groups of shared settings that a run's parts use."""
    parts: list[RunPart] = [*steps.values(), *run.experiments.values()]
    return list(dict.fromkeys(group for part in parts for group in part.uses))


def _sampling(run: Run) -> dict[str, Any]:
    """How texts were sampled, and by whose generation_config where it was a model's own."""
    s, writer = run.settings.group(Generating), run.models[run.models.writer]
    found = {"sampling": sampling_with(s, writer).model_dump(exclude_none=True)}
    return found | ({"sampling_of": writer.name} if s.sampling == "model" else {})


def recipe_text(run: Run, steps: Mapping[str, Step]) -> str:
    """``recipe.yaml``: the recipe as it was run, with versions, seed and model fingerprints."""
    settings, models = settings_of(run, steps), run.models
    facts = {name: models[name] for name in models}
    made = {
        **provenance(run),
        "recipe": digest(settings),
        "plugins": {f"{kind}/{spec.name}": _version_of(kind, spec) for kind, spec in _plugins(run, steps)},
        "python": platform.python_version(),
        "models": {
            name: {"model": lm.name, "fingerprint": lm.fingerprint, "blocks": lm.depth, "width": lm.width}
            for name, lm in facts.items()
        },
    }
    if Generating in _groups(run, steps):
        made |= _sampling(run)
    prints = {name: made["models"][name]["fingerprint"] for name in facts}
    made["same_models"] = [[a, b] for a, b in combinations(facts, 2) if prints[a] == prints[b]]
    about = "# The recipe as it was run: every default filled in, and what it was run with.\n"
    return about + dump({**settings, "made_with": made}, width=110)


def write_recipe(run: Run, steps: Mapping[str, Step]) -> None:
    """Write ``recipe.yaml``."""
    with atomic(run.folder / "recipe.yaml") as temporary:
        temporary.write_text(recipe_text(run, steps), encoding="utf-8")
