"""Sparse autoencoders on an adapter's scalars: how well do they rebuild them, and does a latent tell more than one?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Self

from pydantic import Field, model_validator

from steerkit.context import Run
from steerkit.data.trace import Item, Span, Trace, spans_by_trace
from steerkit.errors import Problem
from steerkit.findings import Claim, Findings
from steerkit.parts import Experiment
from steerkit.report import words
from steerkit.settings import Intervals
from steerkit.stats.intervals import Estimate
from steerkit.training.arms import Arm
from steerkit.training.settings import Training
from steerkit.units.marks import Which
from steerkit.units.store import UnitStore
from steerkit_plugins.rank1_lora.arms import PairConfig, adapter_arm, unknown_models
from steerkit_plugins.rank1_lora.latents import Best, Telling
from steerkit_plugins.rank1_lora.sae.options import PRESETS, SAETraining, Variant
from steerkit_plugins.rank1_lora.sae.trained import TrainedSAE
from steerkit_plugins.rank1_lora.sae_tables import ENDS, EVERY, WHERE, Row, figure_of, rebuilt_table, signed, told_table
from steerkit_plugins.rank1_lora.sae_training import file_of, held_out, saes_of
from steerkit_plugins.rank1_lora.scalar_capture import SCALARS
from steerkit_plugins.trained.halved import FEW_HITS
from steerkit_plugins.trained.numbers import above_zero, shown


class SAEConfig(PairConfig, SAETraining):
    variants: tuple[Variant, ...] = Field(default=("author", "standard"), min_length=1)
    """Presets that are trained: `author`, as the code behind the paper has it, and `standard`, as the literature."""
    sae_seeds: tuple[int, ...] = Field(default=(0,), min_length=1)
    """An SAE is trained with each, of each variant and model."""

    @model_validator(mode="after")
    def _once(self) -> Self:
        for name in ("variants", "sae_seeds"):
            own = getattr(self, name)
            if len(set(own)) < len(own):
                raise ValueError(f"{name}: each may stand once, not {', '.join(map(str, own))}")
        return self


class SAEs(Experiment):
    """Does a latent of an SAE on all scalars tell that the model turns back better than the best scalar does?"""

    Config = SAEConfig
    uses = (Training, Intervals)

    def check(self, run: Run) -> Iterator[Problem]:
        yield from unknown_models(self.name, run, self.config)

    def needs(self, run: Run) -> Sequence[str]:
        return (SCALARS, "unit-scalars", "saes", "traces", "spans", "training")

    def arms(self, run: Run) -> Sequence[Arm]:
        return [adapter_arm(self.config)]

    def findings(
        self,
        run: Run,
        results: Any,
        scalars: Any,
        captured: Mapping[str, UnitStore],
        saes: Mapping[str, TrainedSAE],
        traces: list[Trace],
        spans: tuple[list[Span], Any],
        trained: Any,
    ) -> Findings:
        grouped, i, c = spans_by_trace(spans[0]), run.use(Intervals), run.experiment(SCALARS).config
        items = [Item(trace, grouped.get(trace.id, ()), trace.tokens) for trace in traces]
        bootstrap = {"confidence": i.confidence, "resamples": i.resamples, "seed": run.seed}
        places = {where: Telling(items, c.label, where, c.halves_seed, **bootstrap) for where in WHERE}
        known = [where for where in WHERE if places[where].enough]
        best = {model: {where: places[where].scalar(captured[model]) for where in known} for model in captured}
        rows = list[Row]()
        for name, model, _ in saes_of(run):
            rows.append(_row(name, model, saes[name], captured[model], {w: places[w] for w in known}, best[model]))
            run.of(self, f"findings.{self.name}").progress(len(rows), len(saes))
        chosen = {model: _chosen([row for row in rows if row.model == model], ENDS) for model in captured}
        named = {model: (_named(captured[model], own), own) for model, own in best.items()}
        gain = {where: self._gain(where, places[where], best, rows) for where in WHERE}
        return Findings(
            title="SAEs on the scalars",
            question=f"Does a latent of an SAE on all scalars tell {c.label} better than the best scalar does?",
            finding=self._finding(rows, gain[ENDS]),
            claims=(self._claim(c.label, gain),),
            figures=(figure_of(self.name, c.label, rows, best),),
            tables=(rebuilt_table(rows), told_table(rows, named)),
            cautions=tuple(self._cautions(run, c.label, places[ENDS])),
            notes=tuple(self._notes(rows)),
            value={"best": {model: _value(row) for model, row in chosen.items() if row is not None}},
        )

    def _gain(
        self, where: Which, telling: Telling, scalars: Mapping[str, Mapping[Which, Best]], rows: Sequence[Row]
    ) -> Estimate | None:
        """Mean over models of AUROC of the chosen SAE's best latent less the best scalar's."""
        found = [_chosen([row for row in rows if row.model == model], where) for model in scalars]
        chosen = [row for row in found if row is not None]
        terms = [(sign / len(chosen), best) for row in chosen for sign, best in _pair(row, scalars, where)]
        gain = telling.contrast(terms) if terms else None
        return None if gain is None or words.missing(gain.low) else gain

    def _claim(self, label: str, gain: Mapping[Which, Estimate | None]) -> Claim:
        text = f"An SAE latent tells {label} better than the best scalar, among sentence ends"
        ends, every = gain[ENDS], gain[EVERY]
        if ends is None:
            return Claim(text=text, verdict="cannot be told", detail="too few traces with such a sentence")
        more = f"; over all tokens {shown(every, 3)}" if every else ""
        return above_zero(text, ends, 3, detail=f"n: traces; difference of AUROCs, paired by trace{more}")

    def _finding(self, rows: Sequence[Row], gain: Estimate | None) -> str:
        fvu = {row.name: row.held_out["threshold"].fvu_contribution[0] for row in rows}
        told = ", ".join(f"{name} {words.number(value, 3)}" for name, value in fvu.items())
        rebuilt = f"Share of the variance of held-out scalars (contributions) that SAEs leave unexplained: {told}."
        if gain is None:
            return f"{rebuilt} Whether a latent tells more than a scalar cannot be told."
        return f"{rebuilt} The best latent's AUROC among sentence ends less the best scalar's: {shown(gain, 3)}."

    def _notes(self, rows: Sequence[Row]) -> Iterator[str]:
        first = rows[0].sae.options
        yield (
            f"SAEs: BatchTopK, {first.expansion} latents a unit, k = {first.k}, Adam {first.learning_rate:g}, batches "
            f"of {first.batch_rows} tokens, {first.warmup_steps} warm-up steps, {first.epochs} times over the tokens "
            "of the choosing half. Everything shown is of the testing half."
        )
        for variant in self.config.variants:
            own = self.config.sae(variant)
            told = ", ".join(f"{name} {getattr(own, name)}" for name in PRESETS[variant])
            yield f"Variant {variant}: {told}."
        yield (
            "Latents are on where their score, z times the length of their direction, is above one threshold, which is "
            "set after training so that k are on at a token of the choosing half in the mean. With BatchTopK, the "
            "k · B largest of a batch, the same token may have other latents in another batch."
        )

    def _cautions(self, run: Run, label: str, telling: Telling) -> Iterator[str]:
        if (hits := telling.hits(telling.testing)) < FEW_HITS:
            yield f"Few {label} sentences: AUROCs of latents rest on {hits} of them in the testing half."
        if len(run.use(Training).training_seeds) == 1 and len(self.config.sae_seeds) == 1:
            yield "One adapter and one SAE of each variant: intervals cover traces alone."


def _row(
    name: str,
    model: str,
    sae: TrainedSAE,
    store: UnitStore,
    places: Mapping[Which, Telling],
    scalars: Mapping[Which, Best],
) -> Row:
    sae.check(store.units, store.norms)
    told = {where: telling.latent(sae, store) for where, telling in places.items()}
    gain = {w: telling.contrast([(1.0, told[w]), (-1.0, scalars[w])]) for w, telling in places.items()}
    return Row(name, model, sae, held_out(sae), told, gain)


def _chosen(rows: Sequence[Row], where: Which) -> Row | None:
    """The SAE whose best latent tells best on the choosing half."""
    known = [row for row in rows if where in row.told]
    return max(known, key=lambda row: row.told[where].choosing) if known else None


def _pair(row: Row, scalars: Mapping[str, Mapping[Which, Best]], where: Which) -> tuple[tuple[float, Best], ...]:
    return (1.0, row.told[where]), (-1.0, scalars[row.model][where])


def _named(store: UnitStore, best: Mapping[Which, Best]) -> str:
    return " / ".join(signed(best[where], store.units[best[where].number].name) for where in WHERE if where in best)


def _value(row: Row) -> dict[str, Any]:
    best = row.told[ENDS]
    return {
        "sae": row.name,
        "variant": row.sae.options.variant,
        "seed": row.sae.options.seed,
        "latent": best.number,
        "sign": best.sign,
        "auroc": best.tested.mean,
        "low": None if words.missing(best.tested.low) else best.tested.low,
        "high": None if words.missing(best.tested.high) else best.tested.high,
        "file": file_of(row.name),
    }
