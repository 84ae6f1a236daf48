"""Vectors: fitted to the statistics of each model, for each label and window that an experiment wants."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import combinations
from typing import Any

from steerkit import registry
from steerkit.artifacts import Fit, VectorKey
from steerkit.context import Run
from steerkit.data.statistics import ActivationStatistics
from steerkit.errors import Problem
from steerkit.identity import spec_identity
from steerkit.parts import Step
from steerkit.provenance import provenance
from steerkit.settings import Fitting, Reading
from steerkit.steps.spans import FILES as SPANS
from steerkit.steps.traces import FILE as TRACES
from steerkit.steps.wanted import fits_of, fitter_of
from steerkit.store.files import digest, file_digest
from steerkit.vectors.fit import fit, fit_drawn
from steerkit.vectors.steering_vector import SteeringVector

Vectors = dict[VectorKey, SteeringVector]


class FittedVectors(Step):
    """Every vector that the experiments want, in ``vectors/``."""

    uses = (Fitting,)

    def needs(self, run: Run) -> Sequence[str]:
        return tuple(f"statistics.{name}" for name in dict.fromkeys(self._read_as(run).values()))

    def check(self, run: Run) -> Iterator[Problem]:
        have = [tuple(window) for window in registry.build("extractors", run.peek(Reading).extractor).windows()]
        shown = ", ".join(f"{a}..{b}" for a, b in have)
        wanted = {key.window: "fitter.window" for key in fits_of(run) if key == run.vector(key.source)}
        for name, experiment in run.experiments.items():
            for each in experiment.vectors(run):
                fit = each if isinstance(each, Fit) else Fit(key=each)
                run.models.check_name(fit.key.source)
                if fit.key.pool == "own":
                    wanted.setdefault(fit.key.window, f"{name}.fitter")
        for window, where in wanted.items():
            if window not in have:
                what = f"window {window[0]}..{window[1]} is not extracted (there is {shown})"
                yield Problem(where, what, "add it to extractor.windows")

    def _read_as(self, run: Run) -> dict[str, str]:
        """Model → the model whose statistics it has: one model under two names is read once."""
        sources = list(dict.fromkeys(key.source for key in fits_of(run)))
        return {name: next(other for other in sources if run.models.alike(other, name)) for name in sources}

    def depends(self, run: Run, *statistics: ActivationStatistics) -> Any:
        return [
            [key.to_json(), spec_identity("fitters", spec, f"fitter {spec.name}")] for key, spec in fits_of(run).items()
        ]

    def make(self, run: Run, *statistics: ActivationStatistics) -> Vectors:
        read_as = self._read_as(run)
        if not read_as:
            return {}
        by_model = dict(zip(dict.fromkeys(read_as.values()), statistics, strict=True))
        data = digest([file_digest(run.folder / name) for name in (TRACES, SPANS[0])])
        made: Vectors = {}
        for key, spec in fits_of(run).items():
            own = by_model[read_as[key.source]]
            own = replace(own, meta={**own.meta, "source": key.source})
            pool = None if key.pool == "own" else max(own.windows, key=lambda w: w[1] - w[0])
            more = {"data": data, "provenance": provenance(run)}
            fitter = fitter_of(spec, key)
            made[key] = fit_drawn(fitter, own, key.draw, **more) if key.draw else fit(fitter, own, pool, **more)
        for one, other in combinations([key for key in made if key == run.vector(key.source)], 2):
            if made[one].width == made[other].width:
                alike = {str(layer): round(value, 4) for layer, value in made[one].cosine(made[other]).items()}
                run.log(cosine=alike, of=[one.source, other.source])
        return made

    def save(self, run: Run, value: Vectors) -> Sequence[str]:
        for key, vector in value.items():
            vector.save(run.folder / f"vectors/{key.file}")
        return [f"vectors/{key.file}" for key in value]

    def load(self, run: Run) -> Vectors:
        return {key: SteeringVector.load(run.folder / f"vectors/{key.file}") for key in fits_of(run)}
