"""What a run's experiments want: vectors, and who fits them; texts, and who writes them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from steerkit import registry
from steerkit.artifacts import Condition, Fit, PluginSpec, VectorKey
from steerkit.context import Run
from steerkit.data.draws import ISOTROPIC, OVER, WITHIN, draw_name, kind_of
from steerkit.data.site import Site
from steerkit.errors import Problem, SteerkitError
from steerkit.interfaces import VectorFitter
from steerkit.settings import Drawing, Fitting
from steerkit.steps.asked import asked_of, planned_needs


def fits_of(run: Run) -> dict[VectorKey, PluginSpec]:
    """Vector → its fitter: each model's with the recipe's label and window where an experiment steers, and what
    experiments ask for besides.

    Raises:
        SteerkitError: two experiments want one vector by different fitters.
    """
    main = run.peek(Fitting).fitter
    steered = any(experiment.steers for experiment in run.experiments.values())
    found = {run.vector(name): main for name in run.models} if steered else {}
    for name, experiment in run.experiments.items():
        for wanted in experiment.vectors(run):
            fit = wanted if isinstance(wanted, Fit) else Fit(key=wanted)
            fitter = fit.fitter or main
            run.models.check_name(fit.key.source)
            if found.setdefault(fit.key, fitter) != fitter:
                raise SteerkitError(
                    f"experiment {name}: wants the vector {fit.key.file} by another fitter than others do"
                )
    for key in (key for arm in run.arms.values() for key in sorted(arm.vectors)):
        found.setdefault(key, main)
    return found


def draws_of(run: Run, source: str) -> tuple[list[str], int]:
    """Names of the draws that are made of a model's windows, and the number of folds: those that every vector is held
    against, and those that experiments ask for vectors of.

    Raises:
        SteerkitError: a draw of another label or window than the fitter's, or of no kind that there is.
    """
    wanted, main = run.peek(Drawing), run.vector(source)
    names = {draw_name(kind, number) for kind in (WITHIN, OVER) for number in range(wanted.draws)}
    for key in fits_of(run):
        if key.draw and key.source == source:
            kind, _ = kind_of(key.draw)
            if replace(key, draw="") != main:
                raise SteerkitError(
                    f"the vector {key.file}: draws are made of the fitter's label and window ({main.label}, "
                    f"{main.window[0]}..{main.window[1]}), of no others"
                )
            if kind != ISOTROPIC:  # needs no sums
                names.add(key.draw)
    return sorted(names), wanted.folds


def fitter_of(spec: PluginSpec, key: VectorKey) -> VectorFitter:
    """The fitter of a vector."""
    made: VectorFitter = registry.build("fitters", spec).replace(label=key.label, window=key.window)
    return made


def needs_of_fitters(run: Run) -> frozenset[Any]:
    """What the fitters must be given."""
    specs = {str(spec.given): spec for spec in fits_of(run).values()}
    return frozenset().union(*(registry.build("fitters", spec).needs for spec in specs.values()))


def known_conditions(run: Run) -> Iterator[tuple[str, Condition]]:
    """(split, condition) of the texts that will be wanted, as far as that is known before anything has run.

    What only a run finds out (the chosen strength) has a stand-in; experiments whose needs have none are left out.

    Raises:
        SteerkitError: of `asked_of`.
    """
    for name, experiment in run.experiments.items():
        needs = planned_needs(run, name, experiment)
        if None in needs:
            continue
        try:
            found, _ = asked_of(run, name, experiment, *needs)
        except SteerkitError:
            raise
        except Exception:  # what it makes of a stand-in says nothing of the run; that will tell
            continue
        for condition in found:
            yield experiment.split, condition


def misfits(run: Run, split: str) -> Iterator[Problem]:
    """Models that will be steered with vectors of another width."""
    told = set()
    for own, condition in known_conditions(run):
        for placed in condition.interventions if own == split else ():
            key = placed.vector
            if key is None or not placed.strength or (condition.model, key.source) in told:
                continue
            model, source = run.models.shape(condition.model), run.models.shape(key.source)
            if model.width != source.width and placed.site == Site(placed.layer):
                told.add((condition.model, key.source))
                yield Problem(
                    f"models.{condition.model}",
                    f"is {model.depth} blocks × {model.width}, and would be steered with a vector of {key.source}, "
                    f"which is {source.depth} × {source.width}",
                    "leave the experiment out, or take models of one width",
                )
