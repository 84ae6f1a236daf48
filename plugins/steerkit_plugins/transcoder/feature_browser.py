"""``features/MODEL.html``: a page for each adapter, to browse its features: a step."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from steerkit import report
from steerkit.code.source_files import source_digest
from steerkit.context import Run
from steerkit.data.placing import token_texts
from steerkit.data.trace import Trace
from steerkit.parts import Step
from steerkit.report.browse import Column, Feature, Shown, write_browser
from steerkit.report.browse.features import Value
from steerkit.store.files import digest
from steerkit.training.settings import Training
from steerkit.units.collected import CollectedUnits
from steerkit.units.contexts import Context
from steerkit_plugins.trained.halved import ENDS
from steerkit_plugins.trained.token_texts import TokenTexts
from steerkit_plugins.transcoder.arms import Diffing
from steerkit_plugins.transcoder.feature_config import FEATURES, FeaturesConfig, config_of
from steerkit_plugins.transcoder.feature_judging import Judged
from steerkit_plugins.transcoder.feature_labels import FeatureLabels
from steerkit_plugins.transcoder.feature_lens import FeatureLens, in_words
from steerkit_plugins.transcoder.feature_store import FeatureStore
from steerkit_plugins.transcoder.feature_words import ranked


def page_file(model: str) -> str:
    """Where a model's page lies in the run folder."""
    return f"{FEATURES}/{model}.html"


def needs_of(config: FeaturesConfig, arm: str) -> list[str]:
    """The steps that say something of an arm's features, the texts left out."""
    judged = [f"feature-judgements.{arm}"] if config.judge else []
    return [f"transcoder-features.{arm}", f"feature-labels.{arm}", f"feature-lens.{arm}", *judged]


class FeatureBrowser(Step):
    """``features/MODEL.html`` for each adapter of one arm: ``feature-browser.ARM``."""

    sealed = False
    uses = (Training, Diffing)

    def needs(self, run: Run) -> Sequence[str]:
        return ("traces", *needs_of(config_of(run), self.of))

    def depends(self, run: Run, *needs: Any) -> Any:
        files = sorted(Path(report.__file__).parent.rglob("*"))
        page = digest([source_digest(path) for path in files if path.suffix in (".py", ".j2", ".css", ".js")])
        c = config_of(run)
        return [page, c.page_features, c.page_contexts, c.bins, c.per_bin]

    def make(
        self,
        run: Run,
        traces: list[Trace],
        features: FeatureStore,
        labels: Mapping[str, FeatureLabels],
        lens: Mapping[str, FeatureLens],
        judged: Sequence[Judged] = (),
    ) -> list[str]:
        c, tokens = config_of(run), TokenTexts(run.models.tokenizer, traces)
        for number, model in enumerate(features):
            own = [each for each in judged if each.model == model]
            page = Page(c, features[model], labels[model], lens[model], tokens, run.models.tokenizer, own)
            write_browser(
                run.folder / page_file(model),
                title=f"Features of {model}",
                about=page.about(model),
                features=page.features(),
                columns=page.columns(),
            )
            run.progress(number + 1, len(features))
        return [page_file(model) for model in features]

    def save(self, run: Run, value: list[str]) -> Sequence[str]:
        return value

    def load(self, run: Run) -> None:
        return None


class Page:
    """What a model's page shows."""

    def __init__(
        self,
        config: FeaturesConfig,
        own: CollectedUnits,
        labels: FeatureLabels,
        lens: FeatureLens,
        tokens: TokenTexts,
        tokenizer: Any,
        judged: Sequence[Judged],
    ) -> None:
        self.config, self.own, self.labels, self.lens, self.tokens = config, own, labels, lens, tokens
        self.texts = token_texts(tokenizer)
        self.density = own.density()
        self.judged = {each.column: each for each in judged if each.label}

    def shown(self) -> list[int]:
        """Columns of the features on the page: those that tell best, those that were judged, and those that add most,
        ordered by what they add."""
        best = list(self.judged)
        if ENDS in self.labels.told:
            best += ranked(self.labels.told[ENDS], self.config.top)
        order = np.argsort(-self.own.contribution, kind="stable")
        most = [int(u) for u in order if self.own.active[u]][: self.config.page_features]
        chosen = {*best, *most[: max(0, self.config.page_features - len(set(best) - set(most)))]}
        return [int(u) for u in order if int(u) in chosen]

    def columns(self) -> list[Column]:
        """Of the list."""
        label = self.config.label
        found = [
            Column(key="block", title="block", about="0-based decoder block", digits=0, better="down"),
            Column(key="frequency", title="active", about="share of the tokens that count", digits=4),
            Column(key="added", title="adds", about="mean length f · ‖W_dec‖ that it adds at a token", digits=4),
            Column(key="largest", title="max", about="its largest number", digits=2),
            Column(key="where", title="mostly in", about="part of the texts with the highest share of active tokens"),
        ]
        if ENDS in self.labels.told:
            about = f"how well it tells, at sentence ends of the testing half, that a {label} sentence follows"
            found.append(Column(key="auroc", title="AUROC", about=about, digits=3))
        lifts = [self._lift_column(name) for name in self._labels()]
        return [
            *found,
            *lifts[:1],
            Column(key="likelier", title="makes likelier", about="top of its logit lens"),
            Column(key="unlikelier", title="less likely", about="bottom of its logit lens"),
            *lifts[1:],
        ]

    def _labels(self) -> list[str]:
        """Labels that any sentence of the testing half has, the experiment's first."""
        known = [
            name for name, own in zip(self.labels.labels, self.labels.lifts, strict=True) if np.isfinite(own).any()
        ]
        return sorted(known, key=lambda name: name != self.config.label)

    @staticmethod
    def _lift_column(name: str) -> Column:
        about = f"share of {name} sentences where it is active at the end before, over their share among all"
        return Column(key=f"lift {name}", title=f"lift {name}", about=about, digits=2)

    def features(self) -> Iterator[Feature]:
        """In the order of what they add."""
        for u in self.shown():
            yield Feature(
                name=self.own.layout.unit(u).name,
                kind=self.judged[u].kind if u in self.judged else "",
                label=self.judged[u].label if u in self.judged else "",
                explanation=self.judged[u].description if u in self.judged else "",
                values=self._values(u),
                contexts=tuple(self._contexts(u)),
            )

    def about(self, model: str) -> str:
        """What the page shows."""
        c, own = self.config, self.own
        count, alive = len(self.shown()), int(own.alive.sum())
        which = "all" if count == alive else f"{count:,} (those that add most, tell best or were judged)"
        return (
            f"Features of {model}: {which} of {alive:,} that are active at any of {own.tokens:,} tokens, of "
            f"{own.layout.units:,}. The {c.page_contexts} strongest contexts of each, {c.contexts_per_trace} of a text "
            f"at most, then contexts drawn from all others, from {c.bins} parts of equal size by its number, the "
            "strongest part first."
        )

    def _values(self, u: int) -> dict[str, Value]:
        own, labels = self.own, self.labels
        where = self.density[:, u]
        found: dict[str, Value] = {
            "block": int(own.layer[u]),
            "frequency": float(own.frequency[u]),
            "added": float(own.contribution[u]),
            "largest": float(own.largest[u]),
            "where": own.layout.regions[int(np.nanargmax(where))] if np.isfinite(where).any() else "",
            "likelier": self.words(self.lens.top[u]),
            "unlikelier": self.words(self.lens.bottom[u]),
        }
        if ENDS in labels.told:
            found["auroc"] = float(labels.told[ENDS].testing[u])
        lifts = {name: float(labels.lifts[i, u]) for i, name in enumerate(labels.labels)}
        return found | {f"lift {name}": lifts[name] for name in self._labels()}

    def words(self, ids: Sequence[int] | np.ndarray) -> str:
        """Some tokens in a line."""
        return in_words(self.texts, ids)

    def _contexts(self, u: int) -> Iterator[Shown]:
        c, strongest = self.config, self.own.contexts(u, self.config.page_contexts)
        for context in strongest:
            yield self._shown(context, "")
        seen = {(context.trace, context.at) for context in strongest}
        for number, part in enumerate(self.own.quantiles(u, c.bins), 1):
            left = [context for context in part if (context.trace, context.at) not in seen]
            for context in left[: c.per_bin]:
                yield self._shown(context, f"part {number} of {c.bins}: ")

    def _shown(self, context: Context, before: str) -> Shown:
        texts = self.tokens(context.trace, context.first, context.first + len(context.values))
        inside = context.at - self.tokens.prompt_length(context.trace)
        where = f"token {inside + 1} of the response" if inside >= 0 else f"token {context.at + 1} of the prompt"
        return Shown(
            tokens=tuple(texts),
            values=context.values,
            at=context.at - context.first,
            facts=f"{before}{context.trace}, {where}",
        )
