"""What steering one scalar says: claims, bars, lines over strength, a table."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from steerkit.findings import Claim, Figure, Lines, Series, Table
from steerkit.judging.metrics import OTHERS, RunMetric
from steerkit.report import words
from steerkit.steps.compose import panel
from steerkit.steps.results import Results
from steerkit_plugins.experiments.measured import capital
from steerkit_plugins.experiments.words import strength_label
from steerkit_plugins.rank1_lora.steered import Steered
from steerkit_plugins.rank1_lora.unit_conditions import BEST, ISOTROPIC, LATENT, NONE, RANDOM, VECTOR
from steerkit_plugins.trained.measured import table_of
from steerkit_plugins.trained.words import changed, told

IN_WORDS = {
    NONE: "unsteered",
    ISOTROPIC: "isotropic direction",
    RANDOM: "random scalar",
    BEST: "best scalar",
    LATENT: "best latent",
    VECTOR: "the vector",
}
CONTROLS = {RANDOM: "random scalars", ISOTROPIC: "isotropic directions at its site"}


class Said:
    """The experiment's results at one strength, and over all.

    Args:
        strength: that claims are about.
        metric: that claims are about; the score judge's first one when empty.
        margin: share of what the best scalar changes that counts.
        draws: of each control, a model.
    """

    def __init__(self, results: Results, strength: float, metric: str, margin: float, draws: int) -> None:
        self.results, self.strength, self.margin, self.draws = results, strength, margin, draws
        self.metrics = _metrics(results, metric)
        self.found = [Steered(at_strength(results, strength), each) for each in self.metrics]
        self.main = self.found[0]
        self.names = {way: name for way, name in IN_WORDS.items() if self.main.has(way)}
        self.scalars = {c.model: str(c.labels["along"]) for c in results.conditions if c.labels["arm"] == BEST}
        """Model → its best scalar with its sign."""

    @property
    def _at(self) -> str:
        return f"at strength {words.short(self.strength)}"

    def sentence(self) -> str:
        return f"{capital(self._at)}: {told(self.main, self.names)}"

    def heading(self) -> str:
        """Of figures, where there is one training seed."""
        n = max((int(row["n_prompts"]) for row in self.results.rows), default=0)
        return f"n = {n} prompts, one training seed, {self.results.level} intervals"

    def claims(self) -> Iterator[Claim]:
        """What was laid down, then the vector, the latent and the other metrics beside it."""
        main, name = self.main, words.named(self.main.metric)
        least = self.margin * changed(main, BEST, NONE)
        raises = f"The best scalar, moved, raises {name} over unsteered"
        if main.has(BEST, NONE):
            yield main.claim(raises, NONE, BEST, 0.0)
        else:
            yield Claim(text=raises, verdict="cannot be told", detail="not every model has a best scalar, or its texts")
        for other, what in CONTROLS.items():
            if main.has(BEST, other):
                yield main.claim(f"The best scalar raises {name} more than {what}, norm for norm", other, BEST, least)
        others = [way for way in (VECTOR, LATENT) if main.has(BEST, way)]
        yield from main.beside(
            {f"{capital(name)}: {IN_WORDS[way]} minus best scalar, norm for norm": (way, BEST) for way in others}
        )
        for measured in self.found[1:]:
            ways = [way for way in (BEST, VECTOR) if measured.has(way, NONE)]
            what = capital(words.named(measured.metric))
            yield from measured.beside({f"{what}: {IN_WORDS[way]} minus unsteered": (way, NONE) for way in ways})

    def figures(self, name: str, heading: str) -> Iterator[Figure]:
        """Bars at the strength, and lines over all strengths."""
        yield Figure(
            name=name,
            title="Steering one scalar",
            caption=f"What is added {self._at}: nothing, the scalar that tells best when the model turns back, and "
            "what else has its norm. Sentences that fit no label stand beside.",
            heading=heading,
            panels=tuple(measured.bars(self.names) for measured in self.found),
        )
        yield Figure(
            name=f"{name}-strength",
            title="Norm for norm",
            caption="The best scalar, and what else adds the same norm, at every strength. At 0 nothing is added.",
            heading=heading,
            panels=tuple(self._lines(metric) for metric in self.metrics),
        )

    def _lines(self, metric: RunMetric) -> Lines:
        """A line for each way that is tried at every strength."""
        conditions, norms = self.results.conditions, {0.0: 0.0}
        for condition in conditions:
            if condition.labels["arm"] == VECTOR:
                norms[float(condition.labels["strength"])] = self.results.norms[condition.id]
        measured = {s: Steered(at_strength(self.results, s), metric) for s in sorted(norms)}
        lines, scale = [], words.factor(metric)
        for look, way in enumerate(way for way in (BEST, VECTOR, LATENT) if way in self.names):
            found = {norms[s]: own.mean(at) for s, own in measured.items() if own.has(at := way if s else NONE)}
            y, low, high = (
                tuple(None if words.missing(v := getattr(each, end)) else scale * v for each in found.values())
                for end in ("mean", "low", "high")
            )
            lines.append(Series(name=self.names[way], x=tuple(found), y=y, low=low, high=high, look=look))
        return panel(metric, strength_label(self.results), lines)

    def table(self) -> Table:
        """A row a way."""
        made = table_of(
            {measured.metric.name: measured for measured in self.found}, self.names, {"along": self._along()}
        )
        return replace(made, headings=("added", *made.headings[1:]), title=capital(self._at))

    def _along(self) -> list[str]:
        """What each way adds along, model by model."""
        own: dict[str, list[str]] = {way: [] for way in self.names}
        for condition in at_strength(self.results, self.strength).conditions:
            if (way := str(condition.labels["arm"])) in own:
                own[way].append(str(condition.labels["along"]))
        drawn = f"{self.draws} draws a model"
        return [drawn if way in CONTROLS else "; ".join(dict.fromkeys(each)) for way, each in own.items()]

    def notes(self, layer: int) -> Iterator[str]:
        """How it was made.

        Args:
            layer: block that the vector is added at.
        """
        best = ", ".join(f"{unit} of {model}" for model, unit in self.scalars.items())
        if best:
            yield (
                f"The best scalars ({best}; + is raised, − lowered) were chosen on traces, none of which answers a "
                "prompt of this experiment."
            )
        yield (
            "Every way adds one norm at every steered token: a scalar along B at the output of its projection, the "
            f"vector at the output of block {layer}, a latent over all projections together (the squares of their "
            "norms sum to that of the whole). Equal norms at different sites are not equal effects."
        )
        yield "Prompts and sampling noise are the same for all; differences are paired by prompt and training seed."


def _metrics(results: Results, name: str) -> Sequence[RunMetric]:
    """The metric that claims are about, the others that are shown, and sentences that fit no label."""
    main = results.metric(name) if name else results.score
    damage = [metric for metric in results.metrics if metric.name == OTHERS]
    return [main, *(metric for metric in (*results.shown, *damage) if metric.name != main.name)]


def at_strength(results: Results, strength: float) -> Results:
    """The results of what is added at one strength, and of nothing."""
    kept = [c for c in results.conditions if c.labels["strength"] in (0.0, strength)]
    return replace(results, conditions=kept)
