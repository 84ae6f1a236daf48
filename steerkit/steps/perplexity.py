"""How likely the unsteered model finds each generation: broken text is improbable text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from steerkit.data.trace import Prompt
from steerkit.generation.likelihood import ScoredText, log_likelihoods
from steerkit.judging.scores import name_of
from steerkit.steps.generations import FILE as GENERATIONS
from steerkit.store.files import append_jsonl, read_whole_lines

if TYPE_CHECKING:
    from steerkit.run import SteeringTrainer

FILE = "likelihoods.jsonl"


def perplexity(trainer: SteeringTrainer, prompts: Sequence[Prompt]) -> None:
    """``likelihoods.jsonl``: each generation's log-likelihood under its own model without steering."""
    if not trainer.args.perplexity or not (trainer.keys["test"] or trainer.keys["choose"]):
        trainer.keys["perplexity"] = ""
        return

    def make(key: str) -> tuple[None, list[str]]:
        path = trainer.folder / FILE
        texts = texts_of(trainer, prompts)
        done = {tuple(row["name"]) for row in read_whole_lines(path) if row["key"] == key}
        if not done:
            path.unlink(missing_ok=True)
        todo = [(row, text) for row, text in texts if name_of(row) not in done]
        count = len(done)
        for role in ("base", "reasoning"):
            own = [(row, text) for row, text in todo if row["target"] == role]
            for places, found in log_likelihoods(trainer.pair[role], [text for _, text in own]):
                rows = [
                    {"key": key, "name": name_of(own[i][0]), "log_likelihood": value}
                    for i, value in zip(places, found, strict=True)
                ]
                append_jsonl(path, rows)
                count += len(rows)
                trainer.events.on_batch_end(trainer, "perplexity", count, len(texts))
        return None, [FILE]

    inputs = [trainer.keys["choose"], trainer.keys["test"]]
    trainer.stage("perplexity", inputs, make, lambda: None)


def likelihoods_of(trainer: SteeringTrainer) -> dict[tuple[str, ...], float]:
    """What the stage found, by generation; nothing where it was not asked for."""
    if not trainer.keys["perplexity"]:
        return {}
    return {tuple(row["name"]): row["log_likelihood"] for row in read_whole_lines(trainer.folder / FILE)}


def texts_of(trainer: SteeringTrainer, prompts: Sequence[Prompt]) -> list[tuple[dict[str, Any], ScoredText]]:
    """Generations with the ids that their own model reads; empty ones are left out."""
    formatted = {p.id: trainer.chats.ids(p.prompt) for p in prompts}
    ids_for = trainer.pair.ids_for
    return [
        (row, ScoredText(ids_for(row["target"], formatted[row["prompt_id"]]), ids_for(row["target"], row["ids"])))
        for row in read_whole_lines(trainer.folder / GENERATIONS)
        if row["ids"]
    ]
