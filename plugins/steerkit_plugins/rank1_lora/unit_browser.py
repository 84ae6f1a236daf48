"""``units/MODEL.html``: a page for each adapter, to browse its units and what they are held against."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from steerkit import report
from steerkit.code.source_files import source_digest
from steerkit.context import Run
from steerkit.data.trace import Trace
from steerkit.parts import Step
from steerkit.report.browse import Column, Feature, Shown, write_browser
from steerkit.report.browse.features import Value
from steerkit.store.files import digest
from steerkit.training.settings import Training
from steerkit.units.contexts import Context
from steerkit_plugins.judges.llm_explain import Explained
from steerkit_plugins.rank1_lora.arms import adapted
from steerkit_plugins.rank1_lora.explanations import Explanations
from steerkit_plugins.rank1_lora.feature_contexts import SHOWN, FeatureContexts, Found
from steerkit_plugins.rank1_lora.interpret_config import config_of, scalars_of
from steerkit_plugins.rank1_lora.sources import LATENTS, NEURONS, SOURCES, UNITS, parts_of_model, sources
from steerkit_plugins.trained.token_texts import TokenTexts

COLUMNS = (
    Column(key="sign", title="sign", about="of the numbers that count as the feature"),
    Column(key="share", title="active", about="share of tokens at which it is active", digits=3),
    Column(key="largest", title="largest", about="how far from 0 it gets", digits=2),
)
AUROC = Column(
    key="auroc",
    title="AUROC",
    about="how well it tells, at the ends of sentences of the testing half, that one with the label {label} follows",
    digits=3,
)
EXPLAINED = "explanations"


@dataclass(frozen=True)
class Group:
    """Features of one kind on a page.

    Attributes:
        explained: by feature.
    """

    kind: str
    contexts: FeatureContexts
    explained: Mapping[str, Explained] = field(default_factory=dict)


def page_file(model: str) -> str:
    """Where a model's page lies in the run folder."""
    return f"units/{model}.html"


def page_features(groups: Sequence[Group], tokens: TokenTexts, most: int) -> Iterator[Feature]:
    """The features of a page, with at most so many contexts; those that are no units have their kind in their name."""
    for group in groups:
        for found in group.contexts.features():
            name = found.name if group.kind == UNITS else f"{group.kind} {found.name}"
            own = group.explained.get(found.name)
            yield Feature(
                name=name,
                kind=group.kind,
                values=_values(found),
                explanation=own.explanation if own else "",
                label=own.kind if own else "",
                contexts=tuple(_shown(context, tokens) for context in found.contexts[:most]),
            )


def _values(found: Found) -> dict[str, Value]:
    auroc = {} if found.auroc is None else {"auroc": found.auroc}
    return {"sign": SHOWN[found.sign], "share": found.share, "largest": found.largest, **auroc}


def _shown(context: Context, tokens: TokenTexts) -> Shown:
    texts = tokens(context.trace, context.first, context.first + len(context.values))
    inside = context.at - tokens.prompt_length(context.trace)
    where = f"token {inside + 1} of the response" if inside >= 0 else f"token {context.at + 1} of the prompt"
    at = context.at - context.first
    return Shown(tokens=tuple(texts), values=context.values, at=at, facts=f"{context.trace}, {where}")


class UnitBrowser(Step):
    """``units/MODEL.html`` for each adapter of the experiment `interpret`."""

    sealed = False
    uses = (Training,)

    def needs(self, run: Run) -> Sequence[str]:
        c = config_of(run)
        return ("traces", *sources(run, c), *([EXPLAINED] if c.explainer else []))

    def depends(self, run: Run, *needs: Any) -> Any:
        files = sorted(Path(report.__file__).parent.rglob("*"))
        return digest([source_digest(path) for path in files if path.suffix in (".py", ".j2", ".css", ".js")])

    def make(self, run: Run, traces: list[Trace], *needs: Any) -> list[str]:
        c, tokens = config_of(run), TokenTexts(run.models.tokenizer, traces)
        given = dict(zip(self.needs(run)[1:], needs, strict=True))
        pages = {model: list(_groups(run, model, given)) for model in adapted(run, scalars_of(run))}
        done, total = 0, sum(len(group.contexts) for groups in pages.values() for group in groups)

        def told(feature: Feature) -> Feature:
            nonlocal done
            done += 1
            run.progress(done, total)
            return feature

        for model, groups in pages.items():
            write_browser(
                run.folder / page_file(model),
                title=f"Units of {model}",
                about=_about(run, model),
                features=map(told, page_features(groups, tokens, c.contexts)),
                columns=_columns(run, groups),
            )
        return [page_file(model) for model in pages]

    def save(self, run: Run, value: list[str]) -> Sequence[str]:
        return value

    def load(self, run: Run) -> None:
        return None


def _groups(run: Run, model: str, given: Mapping[str, Any]) -> Iterator[Group]:
    """What a model's page shows, of what the steps gave."""
    explained: Explanations = given.get(EXPLAINED, {})
    for step in sources(run, config_of(run)):
        kind, by_name = SOURCES[step], given[step]
        for part in parts_of_model(run, step, model):
            own = {name: each for (of, its, name), each in explained.items() if (of, its) == (part, kind)}
            yield Group(kind, by_name[part], own)


def _columns(run: Run, groups: Sequence[Group]) -> list[Column]:
    told = any(group.contexts.auroc is not None for group in groups)
    auroc = replace(AUROC, about=AUROC.about.format(label=scalars_of(run).label))
    return [*COLUMNS, *([auroc] if told else [])]


def _about(run: Run, model: str) -> str:
    c, s = config_of(run), scalars_of(run)
    numbers = "s · γ‖B‖, what each adds to its projection's output" if s.scale == "contribution" else "s = A x"
    texts = "responses" if s.context_tokens == "response" else "prompts and responses"
    kinds = {SOURCES[step] for step in sources(run, c)}
    what = f"{c.neurons} neurons of each block: the up projection's output, before the product with the gate"
    neurons = f" Beside them {what}." if NEURONS in kinds else ""
    latents = " And the latents of the run's SAEs on all scalars." if LATENTS in kinds else ""
    return (
        f"The scalars of {model} ({numbers}) at the tokens of the run's {texts}, each with both signs: where it is "
        f"above {s.context_least:g}, and where below −{s.context_least:g}. At most {min(c.contexts, s.contexts)} "
        f"contexts are shown of each, {s.contexts_per_trace} of a text.{neurons}{latents}"
    )
