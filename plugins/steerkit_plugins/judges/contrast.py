"""Labels of whole traces by their side of a pair, and which pairs show what was asked for."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import Field, model_validator

from steerkit import registry
from steerkit.artifacts import Kind, PluginSpec
from steerkit.data.pairs import POSITIVE, SIDES, pair_of, side_of
from steerkit.data.trace import Trace
from steerkit.errors import SteerkitError, nearest
from steerkit.interfaces import Config, Judge
from steerkit.judging import ask


class ContrastConfig(Config):
    judges: tuple[Annotated[PluginSpec, Kind("judges")], ...] = ()
    """Judges whose scores of the responses, 0 to 100, say which pairs are kept; all pairs are when left out."""
    trait: str = ""
    """Metric of theirs that is the trait's; the first when left out."""
    coherence: str | None = "coherence"
    """Metric of theirs that both sides must have enough of; null for none."""
    threshold: float = Field(default=50.0, ge=0, le=100)
    """A pair is kept where the positive side has at least so much of the trait, the negative one less than 100 minus
    it, and both at least so much coherence (persona vectors)."""

    @model_validator(mode="after")
    def _scored(self) -> Self:
        if not self.judges:
            return self
        try:
            metrics = {m.name: m for spec in self.judges for m in ask.metrics_of(registry.build("judges", spec))}
        except SteerkitError:
            return self  # said at the judge's own place
        for option, name in self.metrics(list(metrics)).items():
            if name not in metrics:
                raise ValueError(f"{option}: its judges have no metric {name!r}; {nearest(name, list(metrics))}")
            if metrics[name].bounds != (0, 100):
                raise ValueError(f"{option}: metric {name!r} goes from {metrics[name].bounds}, not from 0 to 100")
        return self

    def metrics(self, names: Sequence[str]) -> dict[str, str]:
        """What is asked of a pair → the metric that it is, of the judges' `names`."""
        coherence = {} if self.coherence is None else {"coherence": self.coherence}
        return {"trait": self.trait or names[0], **coherence}

    def asks(self) -> str:
        return "; ".join(filter(None, (registry.build("judges", spec).config.asks() for spec in self.judges)))


class ContrastJudge(Judge):
    """One span a trace, its whole text: `positive` or `negative`, by the side of a pair that it is (``ID/positive``).

    Traces of pairs that are not kept have no span; `notes` says how many, and why.
    """

    Config = ContrastConfig
    labels_texts = False

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._notes: dict[str, Any] = {}

    @cached_property
    def _judges(self) -> list[Judge]:
        return [registry.build("judges", spec) for spec in self.config.judges]

    def open(self, folder: Path, progress: Callable[[int, int], None]) -> None:
        for judge in self._judges:
            judge.open(folder / judge.name, progress)

    def labels(self) -> Sequence[str]:
        return SIDES

    def estimate(self, texts: Iterable[str]) -> dict[str, float]:
        texts, total = list(texts), Counter[str]()
        for judge in self._judges:
            total.update(judge.estimate(texts))
        return dict(total)

    def notes(self) -> dict[str, Any]:
        return self._notes

    def annotate_traces(self, traces: Sequence[Trace]) -> list[list[tuple[int, int, str]]]:
        """Raises: SteerkitError when a trace is no side of a pair, a pair lacks a side, or no pair is kept."""
        pairs = self._pairs(traces)
        lost = self._lost(traces, pairs)
        reasons = Counter(reason for own in lost.values() for reason in own)
        self._notes = {"pairs": len(pairs), "kept_pairs": len(pairs) - len(lost)}
        if lost:
            self._notes["lost_pairs"] = dict(reasons.most_common())
        for judge in self._judges:
            self._notes |= judge.notes()
        if len(lost) == len(pairs):
            why = ", ".join(f"{reason} {n}" for reason, n in reasons.most_common())
            raise SteerkitError(
                f"none of {len(pairs)} pairs is kept ({why}): the model doesn't follow these instructions, or "
                "span_judge.threshold is too high"
            )
        return [
            [] if pair_of(trace.prompt_id) in lost else [(0, len(trace.text), side_of(trace.prompt_id))]
            for trace in traces
        ]

    def _pairs(self, traces: Sequence[Trace]) -> dict[str, dict[str, int]]:
        """Pair → side → number of its trace."""
        pairs: dict[str, dict[str, int]] = {}
        for number, trace in enumerate(traces):
            pairs.setdefault(pair_of(trace.prompt_id), {})[side_of(trace.prompt_id)] = number
        alone = [name for name, sides in pairs.items() if {*sides} != {*SIDES}]
        if alone:
            raise SteerkitError(
                f"judge {self.name!r}: {len(alone)} prompts are no pair of ID/positive and ID/negative, the first "
                f"{alone[0]!r}; prompts.source: contrast makes such pairs"
            )
        return pairs

    def _lost(self, traces: Sequence[Trace], pairs: Mapping[str, Mapping[str, int]]) -> dict[str, list[str]]:
        """Pair → why it is not kept."""
        if not self._judges:
            return {}
        scores = self._scores([trace.text + trace.answer_text for trace in traces])
        found = {name: self._reasons({side: scores[at] for side, at in sides.items()}) for name, sides in pairs.items()}
        return {name: reasons for name, reasons in found.items() if reasons}

    def _scores(self, texts: Sequence[str]) -> list[dict[str, float]]:
        """The judges' numbers of each text, under the names `trait` and `coherence`; NaN where there is none."""
        names = self.config.metrics([metric.name for judge in self._judges for metric in ask.metrics_of(judge)])
        rows: list[dict[str, float]] = [{} for _ in texts]
        for judge in self._judges:
            for row, own in zip(rows, ask.score(judge, texts), strict=True):
                row.update(own)
        return [{option: row.get(name, math.nan) for option, name in names.items()} for row in rows]

    def _reasons(self, sides: Mapping[str, Mapping[str, float]]) -> list[str]:
        """Why a pair is not kept, each reason once; nothing for one that is."""
        least = self.config.threshold
        found = []
        for side, scores in sides.items():
            trait, coherence = scores["trait"], scores.get("coherence", 100.0)
            if math.isnan(trait) or math.isnan(coherence):
                found.append("a side without a score")
            if side == POSITIVE and trait < least:
                found.append("too little of the trait on the positive side")
            if side != POSITIVE and trait >= 100 - least:
                found.append("too much of it on the negative side")
            if coherence < least:
                found.append("a side that is not coherent")
        return list(dict.fromkeys(found))
