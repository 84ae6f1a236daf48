"""What conditions are made by, and its name in tables: nothing, the fitted vector, a steerer, another label."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from steerkit.errors import InputError, Problem
from steerkit.store.files import digest

if TYPE_CHECKING:
    from steerkit.settings import PluginSpec, SteeringArguments

UNSTEERED = "none"
LONGEST = 24  # characters of an option's value in a name

Settings = Mapping[str, Any]
"""A plugin's name, under `name`, and its options."""


@dataclass(frozen=True)
class Methods:
    """The methods of a run: no two have one name.

    Attributes:
        fitted: the fitted vector's: the fitter's name.
        steerers: name → plugin, of the baselines that are steerers.
        labels: name → label, of the baselines that are other labels' vectors.
    """

    fitted: str
    steerers: Mapping[str, PluginSpec]
    labels: Mapping[str, str]

    @classmethod
    def of(cls, args: SteeringArguments) -> Methods:
        """The methods that a run's arguments name. Raises: InputError when two of them are one."""
        if problems := [Problem(".".join(map(str, key)), said, fix) for key, said, fix in method_problems(args)]:
            raise InputError("arguments", problems)
        steerers, labels = method_names(
            args.fitter.name, [spec.settings("steerers") for spec in args.baselines], args.baseline_labels
        )
        return cls(
            args.fitter.name,
            dict(zip(steerers, args.baselines, strict=True)),
            dict(zip(labels, args.baseline_labels, strict=True)),
        )


def method_names(fitter: str, steerers: Sequence[Settings], labels: Sequence[str]) -> tuple[list[str], list[str]]:
    """Names of the baselines by steerer and by label: plain ones, and where one is taken it says what it is, too."""
    taken = {UNSTEERED, fitter}
    named = []
    for names, kind in ((told_apart(steerers), "steerer"), (labels, "label")):
        found = []
        for name in names:
            while name in taken:
                name += f" ({kind})"
            taken.add(name)
            found.append(name)
        named.append(found)
        taken |= {str(each["name"]) for each in steerers}  # which their own names may say more than
    return named[0], named[1]


def told_apart(settings: Sequence[Settings]) -> list[str]:
    """A name for each plugin: its own, with the options in which those of one name differ (``NAME seed=1``).

    Equal settings have equal names.
    """
    names = []
    for own in settings:
        same = [other for other in settings if other["name"] == own["name"]]
        options = dict.fromkeys(option for other in same for option in other)
        differ = [option for option in options if any(other.get(option) != own.get(option) for other in same)]
        names.append(" ".join([str(own["name"]), *(f"{option}={_shown(own.get(option))}" for option in differ)]))
    return names


def method_problems(args: SteeringArguments) -> Iterator[tuple[tuple[str | int, ...], str, str]]:
    """Baselines that are another one, or the fitted vector itself: key in the recipe, what is wrong, what to do."""
    if args.fitter.name == UNSTEERED:
        yield (
            ("fitter", "name"),
            f"is {UNSTEERED!r}, which is the unsteered model's name",
            "give the plugin another name",
        )
    known: list[Settings] = []
    for index, spec in enumerate(args.baselines):
        settings = spec.settings("steerers")
        if settings in known:
            first = f"is the same baseline as 'baselines.{known.index(settings)}'"
            yield ("baselines", index), first, "leave one out, or change an option"
        known.append(settings)
    label = args.fitter.build("fitters").config.label
    for index, other in enumerate(args.baseline_labels):
        if other == label:
            yield ("baseline_labels", index), f"is {label!r}, the fitter's own label", "leave it out"


def _shown(value: Any) -> str:
    """An option's value in a few characters; a long one by its digest."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    if isinstance(value, str) and re.fullmatch(r"[^\W\d][\w./-]*", value) and value not in ("true", "false", "null"):
        text = value
    return text if len(text) <= LONGEST and text.isprintable() else f"#{digest(value)[:6]}"
