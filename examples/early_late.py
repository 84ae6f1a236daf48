"""An experiment in one local file: `plugins: [early_late.py]` and `experiments: [early-late]` in a recipe run it."""

from collections.abc import Sequence

import steerkit as sk
from steerkit.settings import Steering
from steerkit.steps import compose
from steerkit.steps.results import Results


@sk.register("experiments", "early-late")
class EarlyLate(sk.Experiment):
    """Does steering only the prompt do less than steering only what is generated?"""

    uses = (Steering,)

    def conditions(self, run: sk.Run) -> Sequence[sk.Condition]:
        vector, strength = run.vector("base"), max(run.use(Steering).strengths)
        steered = [run.steered("reasoning", vector, strength, tokens=at) for at in ("prompt", "generated")]
        return [run.unsteered("reasoning"), *steered]

    def pairs(self, run: sk.Run, conditions: Sequence[sk.Condition]) -> Sequence[sk.Pair]:
        unsteered, early, late = conditions
        return [sk.Pair(ours=late, other=early), sk.Pair(ours=early, other=unsteered)]

    def findings(self, run: sk.Run, results: Results) -> sk.Findings:
        unsteered, early, late = results.conditions
        more = compose.compared(results, late, early, "Steering generated tokens does more than steering the prompt")
        alone = compose.compared(results, early, unsteered, "Steered prompt minus unsteered", laid_down=False)
        named = {"nothing": unsteered, "prompt": early, "generated": late}
        caption = "Mean of the texts, by which of their tokens are steered."
        return sk.Findings(
            title="Early or late",
            question=self.__doc__ or "",
            finding=f"Steering generated tokens minus steering the prompt: {more.difference} {more.interval}.",
            claims=(more, alone),
            figures=(compose.bars(results, "early-late", named, title="Early or late", caption=caption),),
            tables=(compose.table(results, {"steered": lambda c: str(c.labels.get("tokens", "nothing"))}),),
        )
