"""What features respond to, by the experiment's explainer: a step that pays for no answer twice."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from steerkit import registry
from steerkit.context import Run
from steerkit.data.trace import Trace
from steerkit.errors import Problem, SteerkitError
from steerkit.identity import spec_identity
from steerkit.parts import Step
from steerkit_plugins.judges.llm_explain import Explained
from steerkit_plugins.rank1_lora.contexts import Contexts
from steerkit_plugins.rank1_lora.interpret_config import INTERPRET, config_of
from steerkit_plugins.rank1_lora.sources import SOURCES, explained_sources
from steerkit_plugins.trained.examples import examples_text
from steerkit_plugins.trained.token_texts import TokenTexts

Name = tuple[str, str, str]
"""Model (or SAE), kind, feature (``3.down +``)."""
Explanations = Mapping[Name, Explained]


class ExplainFeatures(Step):
    """``units/explanations.json``: an explanation and a class of each feature that has contexts.

    The explainer keeps its answers in the run folder as they come, below ``judges/``.
    """

    def needs(self, run: Run) -> Sequence[str]:
        return ("traces", *explained_sources(run, config_of(run)))

    def check(self, run: Run) -> Iterator[Problem]:
        spec = config_of(run).explainer
        if spec and not hasattr(registry.get("judges", spec.name), "explain"):
            yield Problem(f"{INTERPRET}.explainer", f"the judge {spec.name!r} explains no features", "name llm-explain")

    def depends(self, run: Run, *needs: Any) -> Any:
        c = config_of(run)
        judge = [spec_identity("judges", c.explainer, f"explainer {c.explainer.name}")] if c.explainer else []
        return [c.examples, c.shown, c.shows, run.seed, *judge]

    def make(self, run: Run, traces: list[Trace], *contexts: Contexts) -> Explanations:
        c = config_of(run)
        if c.explainer is None:
            raise SteerkitError(f"{INTERPRET}.explainer is null: nothing can be explained")
        texts = dict(self._texts(run, TokenTexts(run.models.tokenizer, traces), contexts))
        judge: Any = run.judge(c.explainer)
        if estimate := judge.estimate(texts.values()):
            run.log(judge=judge.name, estimate=estimate)
        found = judge.explain(list(texts.values()))
        run.log(explained_by=judge.name, features=len(texts), **judge.notes())
        return {name: each for name, each in zip(texts, found, strict=True) if each}

    def _texts(self, run: Run, tokens: TokenTexts, contexts: Sequence[Contexts]) -> Iterator[tuple[Name, str]]:
        """What the explainer is shown of each feature."""
        c = config_of(run)
        for step, by_model in zip(explained_sources(run, c), contexts, strict=True):
            for model, own in by_model.items():
                for feature in own.features():
                    name = model, SOURCES[step], feature.name
                    text = examples_text(
                        feature.contexts,
                        feature.sign,
                        tokens,
                        count=c.examples,
                        width=c.shown,
                        shows=c.shows,
                        seed=run.seed,
                        name="/".join(name),
                    )
                    if text:
                        yield name, text

    def save(self, run: Run, value: Explanations) -> Sequence[str]:
        rows = [[*name, each.explanation, each.kind] for name, each in value.items()]
        return super().save(run, rows)

    def load(self, run: Run) -> Explanations:
        return {(model, kind, name): Explained(said, label) for model, kind, name, said, label in super().load(run)}

    @property
    def _file(self) -> str:
        return "units/explanations.json"
