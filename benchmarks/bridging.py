"""What a step of objective `bridging` costs: passes that share prefixes against whole ones.

    python benchmarks/bridging.py [--rounds 5] [--size quick] [--threads 1]

Whole passes are those of the paper's authors: the student's for KL, the student's for the error of its states, and two
mixed models', each with a backward of its own; and one of the target, without gradients. Both cut the mixed models in
the middle, and take the L1 term from the first pass.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from models import smollm2_shaped
from options import parser_of
from steerkit_plugins.transcoder.bridging_pair import Pair
from steerkit_plugins.transcoder.bridging_terms import nmse, weights_of
from steerkit_plugins.transcoder.objective import Bridging
from torch import Tensor
from torch.nn.functional import log_softmax

from steerkit import registry
from steerkit.bench.measure import Question, Result, compare, machine, settle, write
from steerkit.bench.table import text_table
from steerkit.models.language_model import LanguageModel
from steerkit.models.parts_from import put_parts
from steerkit.models.threads import fastest_thread_count
from steerkit.training.contract import Batch
from steerkit.units.continued import kept_outputs

ROWS = {"full": (2, 192), "quick": (2, 96), "smallest": (2, 16)}
"""Rows of a batch, and their tokens."""
FEATURES = {"full": 2048, "quick": 2048, "smallest": 64}
GOAL = 0.75


class InTheMiddle(Bridging):
    """Cuts mixed models in the middle: what a drawn cut costs on average."""

    def _cut(self, lm: LanguageModel, batch: Batch) -> int:
        return lm.depth // 2


def hybrid(size: str) -> LanguageModel:
    """A random model with the MLPs of another, and transcoders that are not 0."""
    lm = smollm2_shaped(size)
    base = LanguageModel("base", copy.deepcopy(lm.model), lm.tokenizer)
    with torch.no_grad():
        for block in base.blocks:
            for weight in block.mlp.parameters():  # type: ignore[union-attr]
                weight.add_(0.01 * torch.randn_like(weight))
    swapped = put_parts(lm, base, ["mlp"])
    lm.model.steerkit_swapped = swapped
    attached: LanguageModel = registry.get("adapters", "transcoder")(features=FEATURES[size]).attach(lm, seed=0)
    with torch.no_grad():
        for name, weight in attached.model.named_parameters():
            if name.endswith("decoder.weight"):
                weight.normal_(std=0.01)
    attached.model.eval()
    return attached


def batch_of(lm: LanguageModel, size: str) -> Batch:
    """Random ids, all learned but a row's first."""
    count, length = ROWS[size]
    ids = torch.randint(3, lm.config.vocab_size, (count, length), generator=torch.Generator().manual_seed(0))
    labels = ids.clone()
    labels[:, 0] = -100
    return Batch(ids, torch.ones_like(ids), labels, (1,) * count, tuple(range(count)), count * (length - 1))


def shared(lm: LanguageModel, batch: Batch) -> None:
    """A step's gradients by the objective."""
    InTheMiddle().loss(lm, batch).total.backward()
    lm.model.zero_grad()


def whole(lm: LanguageModel, batch: Batch) -> None:
    """The same by whole passes, one after the other."""
    pair, depth, k = Pair.of(lm), lm.depth, lm.depth // 2
    counts = torch.ones_like(batch.mask, dtype=torch.bool)
    counts[:, -1] = False
    weights = weights_of(counts, "tokens")
    states: dict[int, Any] = {}
    own: dict[int, Any] = {}
    seen: dict[int, tuple[Tensor, Tensor, Tensor]] = {}

    def logits() -> Tensor:
        found: Tensor = lm.model(input_ids=batch.ids, attention_mask=batch.mask, use_cache=False).logits
        return found

    with torch.no_grad(), pair.playing(pair.whole), kept_outputs(lm, set(range(depth)), states):
        target = log_softmax(logits().float(), -1)
    probabilities = target.exp()

    def kl() -> Tensor:
        return (weights * (probabilities * (target - log_softmax(logits().float(), -1))).sum(-1)).sum()

    with pair.playing((), weights, seen):
        first = kl()
    (first + 1e-3 * torch.stack([one for one, _, _ in seen.values()]).sum()).backward()
    with pair.playing(()), kept_outputs(lm, set(range(depth)), own):
        logits()
    errors = [nmse(own[n], states[n], weights, "ratio_of_sums", "tokens") for n in range(depth)]
    torch.stack(errors).mean().backward()
    for blocks in (range(k, depth), range(k)):
        with pair.playing(blocks):
            kl().backward()
    lm.model.zero_grad()


def run(rounds: int, size: str = "full", threads: int = 0) -> list[Result]:
    """Measure everything."""
    lm = hybrid(size)
    batch = batch_of(lm, size)
    settle(threads or fastest_thread_count(lm.width, ROWS[size][0]))
    print(f"{lm.name}: {lm.depth} blocks × {lm.width}; {machine()}", flush=True)
    works: dict[str, Callable[[], None]] = {"shared": lambda: shared(lm, batch), "whole": lambda: whole(lm, batch)}
    name = f"{lm.name}: step of objective bridging, shared prefixes / whole passes"
    return compare(works, [Question(name, "shared", "whole", GOAL)], rounds)


def main() -> None:
    args = parser_of(__doc__, rounds=5).parse_args()
    results = run(args.rounds, args.size, args.threads)
    print(text_table(results))
    write(results, args.out, keep=True)


if __name__ == "__main__":
    main()
