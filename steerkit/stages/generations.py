"""Steered generations: every condition on every prompt, many conditions in one batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from steerkit.conditions import Condition, VectorKey
from steerkit.generation import Generated, GenerationRow
from steerkit.noise import key_of
from steerkit.stages.batches import Job
from steerkit.steering import Edit
from steerkit.tokens import decode, format_prompt
from steerkit.trace import Prompt

if TYPE_CHECKING:
    from steerkit.interfaces import Steerer
    from steerkit.trainer import SteeringTrainer
    from steerkit.vector import SteeringVector


def steering_jobs(
    trainer: SteeringTrainer,
    wanted: Sequence[tuple[str, Condition]],
    prompts: Sequence[Prompt],
    vectors: Mapping[VectorKey, SteeringVector],
) -> list[Job]:
    """A job a condition, prompt and sample. Prompts of a sample share their noise over all conditions."""
    args, pair = trainer.args, trainer.pair
    steerers: dict[str, Steerer] = {spec.name: spec.build("steerers") for spec in args.baselines}
    main = args.steerer.build("steerers")
    tokenizer = pair.reasoning.tokenizer
    formatted = {p.id: format_prompt(tokenizer, p.prompt, args.chat) for p in prompts}
    by_target = {role: {k: pair.ids_for(role, ids) for k, ids in formatted.items()} for role in ("base", "reasoning")}
    jobs = []
    for split, condition in wanted:
        steerer = steerers.get(condition.method, main)
        direction = _direction(steerer, condition, vectors)
        for prompt in (p for p in prompts if p.split == split):
            for sample in range(args.samples):
                edit = None
                if condition.added_norm:
                    noise = key_of(args.seed, "noise", prompt.id, sample)
                    edit = Edit(steerer, condition.layer, condition.added_norm, direction, args.tokens, noise)
                row = GenerationRow(
                    by_target[condition.target][prompt.id],
                    key_of(args.seed, "sample", prompt.id, sample),
                    edit,
                )
                jobs.append(Job(condition.target, row, (condition.id, prompt.id, str(sample))))
    return jobs


def _direction(steerer: Steerer, condition: Condition, vectors: Mapping[VectorKey, SteeringVector]) -> Any:
    if condition.vector is None or not condition.added_norm or steerer.direction == "none":
        return None
    vector = vectors[condition.vector]
    return vector.mean_unit(condition.layer) if steerer.direction == "mean" else vector.unit(condition.layer)


def describe_with(trainer: SteeringTrainer, wanted: Sequence[tuple[str, Condition]]) -> Any:
    """How a generation is written to ``generations.jsonl``."""
    tokenizer = trainer.pair.reasoning.tokenizer
    by_id = {condition.id: (split, condition) for split, condition in wanted}

    def describe(job: Job, text: Generated) -> dict[str, Any]:
        condition_id, prompt_id, sample = job.names
        split, condition = by_id[condition_id]
        return {
            "split": split,
            "condition": condition_id,
            **condition.columns(),
            "prompt_id": prompt_id,
            "sample": int(sample),
            "finished": text.finished,
            "text": decode(tokenizer, text.ids),
            "ids": text.ids,
        }

    return describe
