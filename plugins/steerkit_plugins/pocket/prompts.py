"""Evaluation problems in three splits, told apart from each other and from training by a hash."""

from __future__ import annotations

from hashlib import sha256
from random import Random
from typing import Any

from steerkit_plugins.pocket.ledger import Problem, problem

SPLITS = ("extract", "choose", "test", "train")


def split_of(p: Problem) -> str:
    """The only split that may use this problem: a tenth each to evaluate, the rest to train."""
    bucket = sha256(p.question.encode()).digest()[0] % 10
    return SPLITS[min(bucket, 3)]


def draw(split: str, rng: Random) -> Problem:
    """A random problem of the split."""
    while split_of(p := problem(rng)) != split:
        pass
    return p


def problems(n: int, seed: int, split: str) -> list[dict[str, Any]]:
    """`n` different problems of a split as rows with "id", "prompt", "answer" and "category"."""
    if split not in SPLITS:
        raise ValueError(f"split {split!r} is none of {', '.join(SPLITS)}")
    rng = Random(f"{split}-{seed}")
    chosen: dict[str, Problem] = {}
    while len(chosen) < n:
        p = draw(split, rng)
        chosen[p.question] = p
    return [
        {
            "id": f"{split}-{seed}-{i:04d}",
            "prompt": question,
            "answer": str(p.answer),
            "category": f"{len(p.changes)} days",
        }
        for i, (question, p) in enumerate(chosen.items())
    ]
