"""Steered generations: every condition on every prompt, many conditions in one batch."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import product
from typing import TYPE_CHECKING, Any

from steerkit.conditions import Condition, Experiment, Planner, VectorKey, distinct
from steerkit.data.placing import decode_in_place
from steerkit.data.trace import Prompt
from steerkit.errors import SteerkitError
from steerkit.generation.stream import Generated, GenerationRow
from steerkit.identity import Identity
from steerkit.interventions.steering import Edit
from steerkit.judging.scores import choose_strength
from steerkit.stats.noise import key_of
from steerkit.steps.batches import Job, generate_part, merged_rows
from steerkit.steps.scoring import score, scoring_inputs
from steerkit.store.files import digest, read_whole_lines, write_json, write_jsonl
from steerkit.vectors.steering_vector import SteeringVector

if TYPE_CHECKING:
    from steerkit.interfaces import Steerer
    from steerkit.run import SteeringTrainer

FILE = "generations.jsonl"
CHOICE = "choice.json"
Vectors = Mapping[VectorKey, SteeringVector]


def planner_for(trainer: SteeringTrainer, vectors: Vectors) -> Planner:
    """The conditions that these vectors make possible."""
    planner = Planner(trainer.args, trainer.pair.reasoning.depth, {})
    main = {key: vectors[key] for key in planner.main_vectors()}
    norms = {(key.source, layer): vector.norm(layer) for key, vector in main.items() for layer in vector.layers}
    return Planner(trainer.args, trainer.pair.reasoning.depth, norms)


def choose(trainer: SteeringTrainer, prompts: Sequence[Prompt], vectors: Vectors) -> tuple[float, list[Experiment]]:
    """The strength that claims are made at, found on the choose prompts, and what was run for it.

    NaN where no experiment steers.
    """
    path, planner = trainer.folder / CHOICE, planner_for(trainer, vectors)
    experiments = planner.choose()
    if not experiments:
        trainer.keys["choose"] = ""
        return float("nan"), []

    def make(key: str) -> tuple[float, list[str]]:
        rows = _merge(trainer, "choose")
        scores = score(trainer, rows, prompts)
        chosen, how = choose_strength(scores, planner)
        write_json(path, {"strength": chosen, "how": how, "texts": digest(rows)})
        trainer.log(chosen_strength=chosen, how=how)
        return chosen, [CHOICE, FILE]

    inputs = [*_inputs(trainer, experiments), trainer.args.choose.model_dump(), *scoring_inputs(trainer)]
    chosen = trainer.stage(
        "choose",
        inputs,
        make,
        lambda: float(json.loads(path.read_text())["strength"]),
        part=partial(_generate, trainer, "choose", experiments, prompts, vectors),
        sealed=(CHOICE,),  # the test's texts join the generations
    )
    return chosen, experiments


def test(trainer: SteeringTrainer, prompts: Sequence[Prompt], vectors: Vectors, chosen: float) -> list[Experiment]:
    """All experiments on the test prompts, in ``generations.jsonl``."""
    experiments = planner_for(trainer, vectors).test(chosen)
    if not experiments:
        trainer.keys["test"] = ""
        return []

    def make(key: str) -> tuple[None, list[str]]:
        _merge(trainer, "test")
        return None, [FILE]

    part = partial(_generate, trainer, "test", experiments, prompts, vectors)
    trainer.stage("test", _inputs(trainer, experiments), make, lambda: None, part=part)
    return experiments


def _inputs(trainer: SteeringTrainer, experiments: Sequence[Experiment]) -> list[Any]:
    args = trainer.args
    return [
        trainer.keys["prompts"],
        trainer.keys["vectors"],
        [[s, c.id] for s, c in distinct(experiments)],
        _steerers(trainer, experiments),
        args.tokens,
        args.max_new_tokens,
        trainer.decoding("base", "reasoning"),
        args.samples,
        args.seed,
        trainer.chats.settings(),
        args.per_device_batch_size,
        args.bf16,
        args.save_rows,
        trainer.identities["engine"],
    ]


def _steerers(trainer: SteeringTrainer, experiments: Sequence[Experiment]) -> list[Identity]:
    """The identities of the steerers that the conditions use."""
    used = dict.fromkeys(c.method for e in experiments for c in e.conditions if c.added_norm)
    names = dict.fromkeys(f"baseline {m}" if m in trainer.methods.steerers else "steerer" for m in used)
    return [trainer.identities[name] for name in names]


def _generate(
    trainer: SteeringTrainer,
    stage: str,
    experiments: Sequence[Experiment],
    prompts: Sequence[Prompt],
    vectors: Vectors,
) -> None:
    """Generate this process's part of a stage's texts."""
    wanted = distinct(experiments)
    jobs = steering_jobs(trainer, wanted, prompts, vectors)
    generate_part(trainer, stage, jobs, describe_with(trainer, wanted))


def _merge(trainer: SteeringTrainer, stage: str) -> list[dict[str, Any]]:
    """The stage's texts, put in ``generations.jsonl`` in place of earlier ones.

    Raises:
        SteerkitError: the other texts there are not as they were written.
    """
    path, rows = trainer.folder / FILE, merged_rows(trainer, stage)
    others = [row for row in read_whole_lines(path) if row["stage"] != stage]
    if stage == "test" and others and trainer.keys["choose"]:
        _check_chosen(trainer, others)
    write_jsonl(path, sorted([*others, *rows], key=lambda row: str(row["stage"])))  # choose, then test
    for line in breaks(rows):
        trainer.log(stage=stage, broken=line)
    return rows


def breaks(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """For each condition with texts that broke off: model, method and strength, how many, and the first one."""
    lost: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        if row.get("broken"):
            lost.setdefault(f"{row['split']} {row['condition']}", []).append(row)
    return [
        f"{row['target']} model, {row['method']} at strength {row['strength']:g} (block {row['layer']}, {row['split']} "
        f"prompts): {len(own)} texts broke off; prompt {row['prompt_id']!r}, sample {row['sample']}: {row['broken']}"
        for own in lost.values()
        for row in own[:1]
    ]


def _check_chosen(trainer: SteeringTrainer, rows: Sequence[dict[str, Any]]) -> None:
    """The file has no seal of its own until the test's texts are in it."""
    if json.loads((trainer.folder / CHOICE).read_text(encoding="utf-8"))["texts"] != digest(rows):
        raise SteerkitError(
            f"{trainer.folder / FILE}: was changed after stage 'choose' wrote it; delete it to have it made again "
            "(or put the original back)"
        )


def steering_jobs(
    trainer: SteeringTrainer,
    wanted: Sequence[tuple[str, Condition]],
    prompts: Sequence[Prompt],
    vectors: Vectors,
) -> list[Job]:
    """A job a prompt, sample and condition: all conditions of a prompt together, so that a batch reads it once.

    They share their sampling noise.
    """
    args, pair = trainer.args, trainer.pair
    steerers: dict[str, Steerer] = {m: spec.build("steerers") for m, spec in trainer.methods.steerers.items()}
    main = args.steerer.build("steerers")
    formatted = {p.id: trainer.chats.ids(p.prompt) for p in prompts}
    by_target = {role: {k: pair.ids_for(role, ids) for k, ids in formatted.items()} for role in ("base", "reasoning")}
    edits: dict[str, Edit] = {}
    for _, condition in wanted:
        if condition.added_norm:
            steerer = steerers.get(condition.method, main)
            direction = _direction(steerer, condition, vectors)
            edits[condition.id] = Edit(steerer, condition.layer, condition.added_norm, direction, args.tokens)
    jobs = []
    for prompt, sample in product(prompts, range(args.samples)):
        draw, noise = (key_of(args.seed, use, prompt.id, sample) for use in ("sample", "noise"))
        for split, condition in wanted:
            if split == prompt.split:
                edit = edits.get(condition.id)
                ids = by_target[condition.target][prompt.id]
                row = GenerationRow(ids, draw, (replace(edit, key=noise),) if edit else ())
                jobs.append(Job(condition.target, row, (condition.id, prompt.id, str(sample))))
    return jobs


def _direction(steerer: Steerer, condition: Condition, vectors: Vectors) -> Any:
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
        placed = decode_in_place(tokenizer, text.ids)
        return {
            "split": split,
            "condition": condition_id,
            **condition.columns(),
            "prompt_id": prompt_id,
            "sample": int(sample),
            "finished": text.finished,
            "text": placed.text,
            "ids": text.ids,
            "starts": placed.starts,
            **({"continues": placed.continues} if placed.continues else {}),
            **({"broken": text.broken} if text.broken else {}),
        }

    return describe
