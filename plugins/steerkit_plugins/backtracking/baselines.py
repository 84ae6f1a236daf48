"""Figure 4: the fitted vector beside what adds the same norm: other steerers, and other labels' vectors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Literal

from pydantic import AfterValidator

from steerkit import registry
from steerkit.artifacts import Condition, Fit, Kind, Pair, PluginSpec, VectorKey
from steerkit.context import Run
from steerkit.data.draws import IN_WORDS, draw_name
from steerkit.errors import Problem
from steerkit.findings import Claim, Figure, Findings
from steerkit.identity import spec_settings
from steerkit.interfaces import Config
from steerkit.judging.metrics import JUDGED, OTHERS
from steerkit.report import words
from steerkit.settings import Steering, Texts, distinct
from steerkit.steps.compose import beside, claim, over_strength, table
from steerkit.steps.results import Results
from steerkit.steps.spans import fitted_label
from steerkit.steps.vectors import Vectors
from steerkit_plugins.backtracking.choose import AtChosenStrength
from steerkit_plugins.backtracking.claims import claimed, collapsed_texts, moves
from steerkit_plugins.backtracking.conditions import (
    BASE,
    REASONING,
    UNSTEERED,
    fitted,
    instead,
    is_plain,
    like,
    method_of,
    plain,
)
from steerkit_plugins.backtracking.words import is_main, method_name, told_apart
from steerkit_plugins.experiments.words import pages, strength_label


class BaselinesConfig(Config):
    steerers: tuple[Annotated[PluginSpec, Kind("steerers")], ...] = ()
    """Steerers that add the same norm at every strength."""
    labels: Texts = ()
    """Labels whose vectors add the same norm."""
    fitter: Annotated[PluginSpec, Kind("fitters")] | None = None
    """How these labels' vectors are made; as the fitted one when left out. Window [0, -1] is the labelled tokens
    themselves."""
    shuffled: Annotated[tuple[Literal["within", "over"], ...], AfterValidator(distinct)] = ()
    """Controls that the paper does not have: the vector of the same fitter with the labels shuffled `within` each
    trace or `over` all, one draw each. They are shown; claims about them are the experiment controls'."""


class Baselines(AtChosenStrength):
    """Does anything else of the same length make the reasoning model backtrack as much?"""

    Config = BaselinesConfig
    uses = (Steering,)

    def check(self, run: Run) -> Iterator[Problem]:
        if method_of(run) == UNSTEERED:
            yield Problem(
                "fitter.name", f"is {UNSTEERED!r}, the unsteered model's name", "give the plugin another name"
            )
        known: list[dict[str, Any]] = []
        for index, spec in enumerate(self.config.steerers):
            settings = spec_settings("steerers", spec)
            if settings in known:
                first = f"is the same baseline as 'baselines.steerers.{known.index(settings)}'"
                yield Problem(f"baselines.steerers.{index}", first, "leave one out, or change an option")
            known.append(settings)
        for index, other in enumerate(self.config.labels):
            if other == fitted_label(run):
                place = f"baselines.labels.{index}"
                yield Problem(place, f"is {other!r}, the fitter's own label", "leave it out")

    def _label_vector(self, run: Run, label: str) -> VectorKey:
        spec = self.config.fitter
        window = {"window": tuple(registry.build("fitters", spec).config.window)} if spec else {}
        return run.vector(BASE, label=label, **window)

    def vectors(self, run: Run) -> Sequence[Fit]:
        labels = [Fit(key=self._label_vector(run, label), fitter=self.config.fitter) for label in self.config.labels]
        return [*labels, *(Fit(key=self._shuffled(run, kind)) for kind in self.config.shuffled)]

    def _shuffled(self, run: Run, kind: str) -> VectorKey:
        return run.vector(BASE, draw=draw_name(kind, 0))

    def conditions(self, run: Run, vectors: Vectors, choice: Findings) -> Sequence[Condition]:
        found = [plain(run, REASONING)]
        for strength in run.peek(Steering).nonzero:
            found.append(fitted(run, BASE, REASONING, strength))
            found += self.at(run, strength)
        return found

    def at(self, run: Run, strength: float) -> list[Condition]:
        """The baselines at a strength."""
        c, found = self.config, []
        own = [spec_settings("steerers", spec) for spec in c.steerers]
        steerers, labels = method_names(method_of(run), told_apart(own), c.labels)
        for name, spec in zip(steerers, c.steerers, strict=True):
            takes = registry.build("steerers", spec).direction != "none"
            found.append(instead(run, name, strength, steerer=spec, vector=run.vector(BASE) if takes else None))
        for name, label in zip(labels, c.labels, strict=True):
            found.append(instead(run, name, strength, vector=self._label_vector(run, label)))
        for kind in c.shuffled:
            found.append(instead(run, control_name(kind), strength, vector=self._shuffled(run, kind)))
        return found

    def pairs(self, run: Run, conditions: Sequence[Condition]) -> Sequence[Pair]:
        return [
            Pair(ours=c, other=other)
            for c in conditions
            if like(c, method=method_of(run))
            for other in conditions
            if other is not c and like(other, strength=c.labels["strength"]) and not self._is_control(other)
        ]

    def _is_control(self, condition: Condition) -> bool:
        return condition.labels["method"] in [control_name(kind) for kind in self.config.shuffled]

    def findings(self, run: Run, results: Results, vectors: Vectors, choice: Findings) -> Findings:
        strength, own, label = choice.value["strength"], method_of(run), fitted_label(run)
        claims = _over_every_baseline(run, results, strength)
        methods = list(dict.fromkeys(str(c.labels["method"]) for c in results.conditions if not is_plain(c)))
        lines = {
            f"{label} ({method}, fitted vector)" if method == own else method: [
                c for c in results.conditions if like(c, method=method)
            ]
            for method in methods
        }
        layer = run.peek(Steering).layer
        figure = Figure(
            name="baselines",
            title="Against baselines of equal norm",
            caption=f"The reasoning model, steered at block {layer} with the base-derived vector and with baselines "
            "that add the same norm at the same tokens. The grey band is the unsteered model."
            + " Shuffled labels are controls that the paper does not have."
            * bool(self.config.shuffled),
            heading=pages(f"Reasoning model, equal norm added at block {layer}", results),
            panels=over_strength(
                results,
                lines,
                [*results.shown, results.metric(OTHERS)],
                strength_label(results),
                unsteered=plain(run, REASONING),
            ),
        )
        columns = {
            "method": lambda c: method_name(c.labels["method"], own),
            "strength": lambda c: words.short(c.labels["strength"]),
        }
        return Findings(
            title="Against baselines of equal norm",
            question="Does anything else of the same length make the reasoning model backtrack as much?",
            finding=_sentence(run, results, strength),
            claims=(*claims, *_beside(run, results, strength)),
            figures=(figure,),
            tables=(table(results, columns, strong=lambda c: is_main(run, c, strength)),),
            cautions=collapsed_texts(run, results, strength),
        )


def control_name(kind: str) -> str:
    """What a control is called beside the baselines."""
    return IN_WORDS[kind]


def _against(run: Run, results: Results, strength: float, metric: str) -> list[dict[str, Any]]:
    """The fitted vector minus each baseline."""
    main = fitted(run, BASE, REASONING, strength).id
    rows = [row for row in results.comparisons if (row["condition"], row["metric"]) == (main, metric)]
    return [row for row in rows if row["vs_method"] != UNSTEERED]


def _sentence(run: Run, results: Results, strength: float) -> str:
    """Against how many baselines the vector does more."""
    rows = _against(run, results, strength, JUDGED)
    told = [row for row in rows if not words.missing(row["delta"])]
    if not told:
        return ""
    beaten, others = _beaten(rows)
    gives = "gives" if beaten else "is not shown to give"
    than = f"{len(beaten)} of {len(rows)}" if beaten else f"any of the {len(rows)}"
    rest = f"; against {', '.join(others)} this is not shown" if beaten and others else ""
    return (
        f"At strength {words.short(strength)} (chosen on other prompts) the base-derived vector {gives} more judged "
        f"{fitted_label(run)} sentences than {than} baselines that add the same norm{rest}."
    )


def _beaten(rows: Sequence[dict[str, Any]]) -> tuple[list[str], list[str]]:
    """Baselines that the vector is shown to do more than, and the others."""
    by_verdict: tuple[list[str], list[str]] = ([], [])
    for row in rows:
        by_verdict[not row["holds"]].append(str(row["vs_method"]))
    return by_verdict


def _over_every_baseline(run: Run, results: Results, strength: float) -> list[Claim]:
    """One claim about all baselines: its figures are those of the baseline whose interval reaches lowest."""
    found = []
    for metric, counted, more in claimed(results):
        rows = _against(run, results, strength, counted.name)
        if metric.name != JUDGED or not rows:
            continue
        closest = min(rows, key=_lowest)
        beaten, others = _beaten(rows)
        weakest = f"figures against {closest['vs_method']}, where it is weakest"
        shown = f"no value against {closest['vs_method']}" if words.missing(closest["delta"]) else weakest
        detail = f"{shown}; holds against {len(beaten)} of {len(rows)}"
        if beaten and others:
            detail += f", not against {', '.join(others)}"
        text = f"{moves(run, metric)} over every baseline of equal norm{more}"
        found.append(claim(counted, closest, text, holds=not others, detail=detail))
    return found


def _lowest(row: dict[str, Any]) -> tuple[bool, bool, float, float]:
    """What the weakest comparison comes first by: no value, not told, where its interval begins."""
    ends = (0.0, 0.0) if words.missing(row["ci_low"]) else (row["ci_low"], row["delta"])
    return not words.missing(row["delta"]), bool(row["holds"]), *ends


def _beside(run: Run, results: Results, strength: float) -> list[Claim]:
    """The score judge's metric against each baseline, where no claim is made about it."""
    if results.score.name == JUDGED:
        return []
    rows = _against(run, results, strength, results.score.name)
    name = words.named(results.score)
    return [beside(results, row, f"{name}, base-derived vector minus {row['vs_method']}") for row in rows]


def method_names(fitter: str, steerers: Sequence[str], labels: Sequence[str]) -> tuple[list[str], list[str]]:
    """Names of the baselines by steerer and by label: plain ones, and where one is taken it says what it is, too.

    Args:
        steerers: from `told_apart`.
    """
    taken = {UNSTEERED, fitter}
    named = []
    for names, kind in ((steerers, "steerer"), (labels, "label")):
        found = []
        for name in names:
            while name in taken:
                name += f" ({kind})"
            taken.add(name)
            found.append(name)
        named.append(found)
        taken |= {name.partition(" ")[0] for name in steerers}  # the plugins' own names
    return named[0], named[1]
