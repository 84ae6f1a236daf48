"""Evaluation problems in three splits, told apart from each other and from training by a hash."""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha256
from random import Random
from typing import Any

from steerkit_plugins.pocket.ledger import Problem, problem

SPLITS = ("extract", "choose", "test", "train")


def split_of(p: Problem) -> str:
    """The only split that may use this problem: a tenth each to evaluate, the rest to train."""
    bucket = sha256(p.question.encode()).digest()[0] % 10
    return SPLITS[min(bucket, 3)]


def draw(split: str, rng: Random, split_of: Callable[[Problem], str] = split_of) -> Problem:
    """A random problem of the split."""
    while split_of(p := problem(rng)) != split:
        pass
    return p


def distinct(n: int, seed: int, split: str, split_of: Callable[[Problem], str] = split_of) -> list[Problem]:
    """`n` different problems of a split; asking for more leaves the first ones as they are."""
    rng = Random(f"{split}-{seed}")
    chosen: dict[str, Problem] = {}
    while len(chosen) < n:
        p = draw(split, rng, split_of)
        chosen[p.question] = p
    return list(chosen.values())


def row(p: Problem, number: int, seed: int, split: str) -> dict[str, Any]:
    """A problem with "id", "prompt", "answer" and "category"."""
    return {
        "id": f"{split}-{seed}-{number:04d}",
        "prompt": p.question,
        "answer": str(p.answer),
        "category": f"{len(p.changes)} days",
    }


def problems(n: int, seed: int, split: str) -> list[dict[str, Any]]:
    """`n` different problems of a split as rows."""
    if split not in SPLITS:
        raise ValueError(f"split {split!r} is none of {', '.join(SPLITS)}")
    return [row(p, number, seed, split) for number, p in enumerate(distinct(n, seed, split))]
