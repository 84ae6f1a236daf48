"""Which adapters matter? KL divergence of predictions without them (arXiv 2511.06739, figure 1)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from steerkit.context import Run
from steerkit.errors import Problem
from steerkit.findings import Claim, Findings
from steerkit.parts import Experiment
from steerkit.settings import Intervals
from steerkit.stats.intervals import ENOUGH
from steerkit.steps.results import Results
from steerkit.training.arms import Arm
from steerkit.training.settings import Training
from steerkit_plugins.rank1_lora.ablation_figures import SCALE, digits, estimated, figures, nats, tables
from steerkit_plugins.rank1_lora.ablation_options import AblationOptions
from steerkit_plugins.rank1_lora.ablation_read import Read
from steerkit_plugins.rank1_lora.ablation_sets import ALL, EARLY, IN_ATTENTION, IN_MLP, LATE
from steerkit_plugins.rank1_lora.arms import adapted, adapter_arm, unknown_models
from steerkit_plugins.trained.numbers import above_zero
from steerkit_plugins.trained.words import few_seeds

WORDS = {
    "full || ablated": "KL(full ‖ ablated), with the full adapter's probabilities as weights",
    "ablated || full": "KL(ablated ‖ full), with the ablated model's probabilities as weights",
}


class Ablation(Experiment):
    """Which of the adapters do the predictions rest on: which blocks, which projections, MLP or attention?"""

    Config = AblationOptions
    uses = (Training, Intervals)

    def check(self, run: Run) -> Iterator[Problem]:
        yield from unknown_models(self.name, run, self.config)
        if self.config.text == "held_out" and run.use(Training).held_out is None:
            yield Problem("held_out", f"is left out, and {self.name}.text asks for it", "name a source of rows")

    def needs(self, run: Run) -> Sequence[str]:
        return ("ablations",)

    def arms(self, run: Run) -> Sequence[Arm]:
        return [adapter_arm(self.config)]

    def findings(self, run: Run, results: Results, ablations: Mapping[str, Any]) -> Findings:
        options: AblationOptions = self.config
        own = Read(ablations, options.average, run.use(Intervals).confidence)
        seeds, texts = len(own.models), len(own.texts)
        heading = f"n = {texts} texts, {seeds} training seed{'s' * (seeds > 1)}"
        claims = tuple(self._claims(own))
        told = {name: own.mean(name) for name in (ALL, IN_MLP, IN_ATTENTION) if name in own.kinds}
        best = max(own.named("block"), key=lambda name: own.mean(name).mean)
        return Findings(
            title="Ablation",
            question="Which adapters do the predictions rest on?",
            finding="KL divergence per token (nats) without "
            + ", ".join(f"{name} {nats(estimate.mean)}" for name, estimate in told.items())
            + f". The strongest block is {best.removeprefix('block ')}, {nats(own.mean(best).mean)}.",
            claims=claims,
            figures=tuple(figures(own, heading)),
            tables=tuple(tables(own)),
            cautions=tuple(self._cautions(run, own)),
            notes=tuple(self._notes(own)),
            value={
                **{claim.text: claim.verdict for claim in claims},
                "kl": {name: float(own.kl(name).mean()) for name in own.kinds},
            },
            data={"ablation.csv": list(self._rows(run, ablations))},
        )

    def _claims(self, own: Read) -> Iterator[Claim]:
        """What was laid down beforehand: what the paper says."""
        for text, more, less in (
            ("MLP adapters matter more than attention adapters", IN_MLP, IN_ATTENTION),
            ("Mid-to-late blocks dominate", LATE, EARLY),
        ):
            if more in own.kinds and less in own.kinds:
                estimate = own.estimate(own.kl(more) - own.kl(less))
                detail = f"KL without {more} {estimated(own.mean(more))} − without {less} {estimated(own.mean(less))}"
                yield above_zero(text, estimate, digits(estimate.mean), detail=detail)

    def _cautions(self, run: Run, own: Read) -> Iterator[str]:
        yield (
            "KL divergence is that of single predictions on a given text. What a model without these adapters writes, "
            "and whether it still reasons, it doesn't say: that takes texts that it generates."
        )
        yield from few_seeds(run)
        texts = len(own.texts)
        if texts < ENOUGH:
            yield (
                f"Few texts: {texts}. Below {ENOUGH}, intervals hold less often than they say on some kinds of data "
                "(docs/statistics.md)."
            )
        singles, noise = own.named("projection"), own.noise()
        if lost := sum(own.kl(name).mean() <= noise for name in singles):
            yield (
                f"Rounding alone gives a KL divergence of {nats(noise)}; {lost} of {len(singles)} single projections "
                "do no more, and can't be told apart. Float32 rounds less."
            )

    def _notes(self, own: Read) -> Iterator[str]:
        options: AblationOptions = self.config
        which = "the run's traces" if options.text == "traces" else "held-out rows"
        counted = "all tokens but the first" if options.tokens == "all" else "the response's tokens"
        over = "texts, of each one's mean per token" if options.average == "per_sequence" else "all tokens of all texts"
        yield (
            f"{WORDS[options.direction]}: over {counted} of {which}, cut at {options.max_tokens:,} tokens; mean over "
            f"{over}."
        )
        yield (
            "A projection's scalars are set to 0 in the forward; no weights are touched. Other parts that were trained "
            "beside the adapters (the output matrix, say) stay, so that zeroing all adapters gives the base only where "
            f"there are none. {SCALE['base || adapter']} turns off all that was trained."
        )
        yield f"The full model against itself, in other batches: {nats(own.noise())} (what rounding alone gives)."
        yield "Halves of an odd number of blocks leave out the one in the middle."
        if own.curve():
            how = {
                "greedy": "at each step what adds least to the KL divergence, given all that is gone",
                "by_single_effects": "by what each does alone (the cheap order, not the greedy one)",
            }[options.removal]
            yield f"Removal: {how}; chosen on every other text, measured on those between."
        if whole := sorted({block for model in own.models for block in model["sets"]["whole"]}):
            yield (
                "This family's blocks hand on more than hidden states, so that ablations from block "
                f"{', '.join(map(str, whole))} on took whole forwards."
            )

    def _rows(self, run: Run, ablations: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        for model in adapted(run, self.config):
            sets = ablations[model]["sets"]
            for name, kind in sets["names"].items():
                for number, text in enumerate(sets["texts"]):
                    count = sets["counts"][number]
                    yield {
                        "model": model,
                        "kind": kind,
                        "zeroed": name,
                        "text": text,
                        "tokens": count,
                        "kl": sets["kl"][name][number] / count,
                        "cross_entropy": sets["ce"][name][number] / count,
                        "full_cross_entropy": sets["full"][number] / count,
                    }
