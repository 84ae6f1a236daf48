"""An experiment that trains: plain, steered while it learns, and one that goes on from the steered one."""

from __future__ import annotations

from collections.abc import Sequence

from steerkit import Arm, Condition, Experiment, Findings, Run, Training, register


@register("experiments", "arms")
class Arms(Experiment):
    """What does a vector added in training leave of it?"""

    uses = (Training,)

    def needs(self, run: Run) -> Sequence[str]:
        return ("training",)

    def arms(self, run: Run) -> Sequence[Arm]:
        steered = run.place(run.vector("base"), 30.0)
        return [
            Arm(name="plain", model="reasoning"),
            Arm(name="steered", model="reasoning", interventions=(steered,)),
            Arm(name="off", model="reasoning", interventions=(run.place(run.vector("base"), 0.0),)),
            Arm(name="asked", model="reasoning", prefix="Max has 3 cups. "),
            Arm(name="further", model="reasoning", after="steered"),
        ]

    def conditions(self, run: Run, trained: object) -> Sequence[Condition]:
        names = [arm.trained(seed) for arm in self.arms(run) for seed in run.use(Training).training_seeds]
        own = [Condition(model=name, labels={"model": name}) for name in names]
        return [Condition(model="reasoning", labels={"model": "untrained"}), *own]

    def findings(self, run: Run, results: object, trained: object) -> Findings:
        return Findings(title="Arms")
