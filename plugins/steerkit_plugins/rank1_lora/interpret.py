"""What do the adapter's scalars respond to, and can they be interpreted as well as MLP neurons?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from steerkit.context import Run
from steerkit.data.trace import Trace
from steerkit.findings import Findings
from steerkit.parts import Experiment
from steerkit.settings import Intervals
from steerkit.training.settings import Training
from steerkit_plugins.judges.llm_explain import CLASSES
from steerkit_plugins.rank1_lora.arms import adapted
from steerkit_plugins.rank1_lora.classes import class_difference, class_shares, clusters
from steerkit_plugins.rank1_lora.contexts import Contexts
from steerkit_plugins.rank1_lora.explanations import Explanations
from steerkit_plugins.rank1_lora.interpret_config import InterpretConfig, scalars_of
from steerkit_plugins.rank1_lora.interpret_words import (
    KINDS,
    Row,
    claim,
    class_table,
    counted,
    figure,
    in_words,
    strongest_table,
    strongest_tokens,
)
from steerkit_plugins.rank1_lora.scalar_capture import SCALARS
from steerkit_plugins.rank1_lora.sources import NEURONS, SOURCES, UNITS, explained_sources, sources
from steerkit_plugins.rank1_lora.unit_browser import EXPLAINED, page_file
from steerkit_plugins.trained.token_texts import TokenTexts


class Interpret(Experiment):
    """What does each unit of the adapter respond to, and is that as easy to say as for a neuron?"""

    Config = InterpretConfig
    uses = (Training, Intervals)

    def needs(self, run: Run) -> Sequence[str]:
        explained = [EXPLAINED] if self.config.explainer else []
        return (SCALARS, "traces", *sources(run, self.config), *explained, "unit-browser")

    def findings(self, run: Run, results: None, scalars: Any, traces: list[Trace], *needs: Any) -> Findings:
        given = dict(zip(self.needs(run)[2:], needs, strict=True))
        explained: Explanations = given.get(EXPLAINED, {})
        rows = list(self._rows(run, given, explained, TokenTexts(run.models.tokenizer, traces)))
        models = adapted(run, scalars_of(run))
        pages = ", ".join(map(page_file, models))
        notes = [
            f"All contexts are in {pages}: pages to search, sort and read.",
            f"A feature is a unit with one of its signs. It is active where its number is further than "
            f"{scalars_of(run).context_least:g} from 0.",
        ]
        found = Findings(
            title="What the scalars respond to",
            question="What does each scalar of the adapter respond to, and is that as easy to say as for MLP neurons?",
            tables=(strongest_table(rows),),
            data={"units.csv": [{k: v for k, v in row.items() if k != "unit"} for row in rows]},
        )
        if not self.config.explainer:
            silent = "No explainer was asked (`explainer: null`), so nothing is said of classes."
            return replace(found, finding=counted(rows, pages), notes=(*notes, silent))
        return self._classed(run, found, rows, notes)

    def _rows(self, run: Run, given: Mapping[str, Any], explained: Explanations, tokens: TokenTexts) -> Iterator[Row]:
        for step in sources(run, self.config):
            by_model: Contexts = given[step]
            for model, own in by_model.items():
                for feature in own.features():
                    said = explained.get((model, SOURCES[step], feature.name))
                    yield {
                        "model": model,
                        "kind": SOURCES[step],
                        "feature": feature.name,
                        "unit": feature.unit,
                        "share": feature.share,
                        "largest": feature.largest,
                        "contexts": len(feature.contexts),
                        "strongest": " · ".join(map(repr, strongest_tokens(feature, tokens))),
                        "class": said.kind if said else "",
                        "explanation": said.explanation if said else "",
                    }

    def _classed(self, run: Run, found: Findings, rows: Sequence[Row], notes: Sequence[str]) -> Findings:
        confidence, resamples = run.use(Intervals).confidence, self.config.resamples
        counts = {
            kind: clusters(
                ((row["model"], row["unit"]), CLASSES.index(row["class"]))
                for row in rows
                if row["kind"] == kind and row["class"]
            )
            for kind in KINDS
        }
        shares = {
            kind: class_shares(own, confidence=confidence, resamples=resamples)
            for kind, own in counts.items()
            if len(own)
        }
        told = "; ".join(f"of {own.counts.sum()} {KINDS[kind]} {in_words(own)}" for kind, own in shares.items())
        claims = []
        if {UNITS, NEURONS} <= shares.keys():
            between = class_difference(counts[UNITS], counts[NEURONS], confidence=confidence, resamples=resamples)
            claims.append(claim(between, sum(int(shares[kind].counts.sum()) for kind in (UNITS, NEURONS))))
        kinds = [SOURCES[step] for step in explained_sources(run, self.config)]
        asked = [row for row in rows if row["kind"] in kinds]
        lost = sum(bool(row["contexts"]) and not row["class"] for row in asked)
        silent = sum(not row["contexts"] for row in asked)
        return replace(
            found,
            finding=f"By {self._explainer()}, {told}." if told else "No feature was put in a class.",
            claims=tuple(claims),
            figures=(figure(shares),) if shares else (),
            tables=(class_table(shares), *found.tables),
            cautions=(
                "Classes and explanations are a language model's reading of a few strong contexts of each; no one has "
                "checked them.",
                *([f"{lost} features have no usable explanation and are in no class."] if lost else []),
                *([f"{silent} features are active nowhere, and were not asked about."] if silent else []),
            ),
            notes=(
                *notes,
                f"Classes count 0 (monosemantic), 1 (broad), 2 (polysemantic). Intervals: BCa bootstrap, {resamples:,} "
                "resamples of units, each with both of its signs. The chi-square test takes features for independent, "
                "which the two signs of a unit are not.",
                f"The explainer was shown the {self.config.examples} strongest contexts of each, "
                f"{self.config.shown} tokens on each side, {self.config.shows} numbers.",
            ),
        )

    def _explainer(self) -> str:
        spec = self.config.explainer
        model = spec.options.get("model") if spec else None
        return str(model or (spec.name if spec else ""))
