"""What the checks found, as text for people (and a paper's appendix) and as JSON; what each check means."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from steerkit.checks.outcome import Outcome
from steerkit.checks.probe import Probe
from steerkit.checks.suite import CHECKS
from steerkit.models.devices import name_of
from steerkit.provenance import version_of

PACKAGES = ("steerkit-hf", "torch", "transformers", "accelerate", "peft")


def facts(probe: Probe) -> dict[str, Any]:
    """What was checked, on what, and with which versions."""
    import torch

    lm = probe.lm
    base = lm.model.get_base_model() if lm.model_is_wrapped else lm.model
    device = str(lm.device)
    return {
        "model": lm.name,
        "class": type(base).__name__,
        "fingerprint": lm.fingerprint,
        "blocks": lm.depth,
        "width": lm.width,
        "parameters": sum(parameter.numel() for parameter in base.parameters()),
        "dtype": str(probe.dtype).removeprefix("torch."),
        "attention": str(getattr(lm.config, "_attn_implementation", "")),
        "device": device if device == "cpu" else f"{device} {name_of(lm.device)}",
        "dispatched": probe.placed,
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "layers": list(probe.layers),
        "prompts": [len(prompt) for prompt in probe.prompts],
        "seed": probe.seed,
        "rounding": probe.rounding,
        "python": platform.python_version(),
        "versions": {name: version_of(name) for name in PACKAGES},
    }


def as_json(known: dict[str, Any], outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Facts and figures; infinite errors as text, which JSON has no number for."""
    rows = [{**asdict(outcome), "verdict": outcome.verdict} for outcome in outcomes]
    for row in rows:
        if row["error"] is not None and row["error"] == float("inf"):
            row["error"] = "inf"
    return {**known, "checks": rows}


def as_text(known: dict[str, Any], outcomes: Sequence[Outcome]) -> str:
    """A table, and below it what each failure means."""
    f = known
    versions = ", ".join(f"{name} {version}" for name, version in f["versions"].items())
    lines = [
        f"{f['model']}: {f['class']}, {f['blocks']} blocks of width {f['width']}, {f['parameters']:,} parameters, "
        f"weights {f['fingerprint']}",
        f"{f['dtype']}, {f['attention']} attention, on {f['device']}, {f['threads']} threads of {f['cores']} cores; "
        f"Python {f['python']}, {versions}",
        f"seed {f['seed']}; layers {', '.join(map(str, f['layers']))}; prompts of "
        f"{', '.join(map(str, f['prompts']))} random tokens; one rounding of each block's output changes the logits "
        f"by {f['rounding']:.1e}",
        "",
    ]
    width = max(len(outcome.name) for outcome in outcomes)
    lines.append(f"{'check':<{width}}  result   error    tolerance")
    for outcome in outcomes:
        error, tolerance = (
            "-" if value is None else f"{value:.1e}" if value else "0" for value in (outcome.error, outcome.tolerance)
        )
        lines.append(f"{outcome.name:<{width}}  {outcome.verdict:<7}  {error:<7}  {tolerance:<9}  {outcome.detail}")
    failures = {check.name: check.failure for check in CHECKS}
    failed = [outcome for outcome in outcomes if outcome.passed is False]
    skipped = sum(outcome.passed is None for outcome in outcomes)
    lines.append("")
    lines += [f"{outcome.name} FAILED: {failures.get(outcome.name, '')}" for outcome in failed]
    passed = len(outcomes) - len(failed) - skipped
    lines.append(f"{passed} passed, {len(failed)} failed, {skipped} skipped")
    return "\n".join(lines)


def as_markdown() -> str:
    """The table of docs/checks.md: `steerkit check --list`."""
    rows = [f"| {check.name} | {check.about} | {check.failure} |" for check in CHECKS]
    return "\n".join(["| check | what is compared | a failure means |", "|---|---|---|", *rows])
