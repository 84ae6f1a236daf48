"""A watch measures while a model is trained, changes nothing, and ends the training; also one that is gone on with."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from tiny import build
from tiny_training import lora, push, run, same, weights

from steerkit.models.language_model import LanguageModel
from steerkit.training.train import Trained
from steerkit.training.watch import Measure, Watch, stalled


class Draws(Watch):
    """Uses all global random states, and ends at a step."""

    every = 2

    def __init__(self, end: int) -> None:
        self.end, self.seen = end, 0

    def measure(self, lm: LanguageModel) -> Mapping[str, float]:
        self.seen += 1
        assert not lm.model.training and not torch.is_grad_enabled()
        logits = lm.model(torch.tensor([[5, 9, 12]]), use_cache=False).logits
        return {"first": float(logits[0, -1, 3]), "drawn": float(torch.rand(()))}

    def enough(self, measures: Sequence[Measure]) -> bool:
        return bool(measures) and measures[-1].step >= self.end

    def settings(self) -> Any:
        return self.end


def trained(folder: Path, watch: Watch | None) -> Trained:
    adapter = lora(options={"lora_dropout": 0.2})
    arguments = {"save_strategy": "steps", "save_steps": 2, "logging_steps": 3}
    return run(build("llama"), folder, adapter=adapter, edits=push(), arguments=arguments, watch=watch)


def test_it_measures_without_influence_and_ends(tmp_path: Path) -> None:
    plain, seen = trained(tmp_path / "plain", None), Draws(9)
    watched = trained(tmp_path / "watched", seen)
    assert same(weights(plain.lm), weights(watched.lm)) and plain.log == watched.log and not plain.measures
    assert [measure.step for measure in watched.measures] == [2, 4, 6, 8] == [2 * n for n in range(1, seen.seen + 1)]
    assert len({measure.values["first"] for measure in watched.measures}) == 4
    short = trained(tmp_path / "short", Draws(4))
    assert short.steps == 4 and short.measures == watched.measures[:2] and short.log[-1].step == 4
    again = trained(tmp_path / "short", watch := Draws(4))  # it had ended: nothing is measured or trained
    assert same(weights(short.lm), weights(again.lm)) and again.steps == 4 and again.log == short.log
    assert again.measures == short.measures and not watch.seen
    shutil.rmtree(tmp_path / "short" / "checkpoint-4")
    resumed = trained(tmp_path / "short", watch := Draws(4))
    assert same(weights(short.lm), weights(resumed.lm)) and resumed.measures == short.measures and watch.seen == 1


def test_stalled() -> None:
    assert not stalled([1, 2, 3], goal=5, patience=3)
    assert stalled([1, 4, 3, 7], goal=5, patience=2) and not stalled([1, 4, 3, 5.5], goal=5, patience=2)
    assert stalled([4, 6, 6, 6], goal=5, patience=3)  # as near is not nearer
