"""Training speed of SAEs on scalars: tokens a second, beside masks on a dense batch, and beside sae-lens.

    python benchmarks/sae.py [--rounds 7] [--size quick] [--threads 1]

Rows have a planted sparse structure; all sides take the same batches of 512 of them, from first weights each round.
`dense` is the author's formulation: entries that are not kept are masked, and all latents decoded. sae-lens trains its
BatchTopK by its own trainer; without the package (`pip install sae-lens`, which brings transformer-lens) it is left
out. What each side leaves unexplained of other rows after these steps is printed, too: speed alone says little.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from importlib.util import find_spec
from statistics import median
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from options import parser_of
from steerkit_plugins.rank1_lora.sae.batch_topk import Weights, encode, forward, scores
from steerkit_plugins.rank1_lora.sae.learner import Learner
from steerkit_plugins.rank1_lora.sae.options import SAEOptions, SAETraining, Variant
from torch import Tensor

from steerkit.bench.measure import Question, Result, Work, interleaved, machine, ratios_of, result, settle, write
from steerkit.bench.table import text_table

SIZES = {"full": (448, 512, 100), "quick": (448, 512, 20), "smallest": (28, 64, 5)}
"""Units, rows of a batch, steps."""

CPU = torch.device("cpu")
PEER = "sae-lens"
Rebuild = Callable[[Tensor], Tensor]


def rows_of(units: int, count: int) -> Tensor:
    """Rows that are sums of a few of 4 U directions, of variance about 1."""
    draw = torch.Generator().manual_seed(0)
    directions = torch.randn(4 * units, units, generator=draw) / 4
    on = torch.rand(count, 4 * units, generator=draw) < 16 / (4 * units)
    return (on * torch.rand(count, 4 * units, generator=draw) * 2) @ directions


def by_steerkit(data: Tensor, options: SAEOptions) -> Rebuild:
    """`Learner`, a step a batch."""
    learner = Learner(data.shape[1], options, CPU)
    for x in data.split(options.batch_rows):
        learner.step(x)
    return lambda x: forward(learner.weights, x, options).rebuilt


def by_masks(data: Tensor, options: SAEOptions) -> Rebuild:
    """The author's variant with dense masks."""
    first = Learner(data.shape[1], options, CPU).weights
    weights = Weights(**{name: value.detach().clone().requires_grad_() for name, value in first.tensors().items()})
    optimizer = torch.optim.Adam(list(weights.tensors().values()), lr=options.learning_rate)

    def rebuilt(x: Tensor) -> Tensor:
        z = encode(weights, x, options)
        flat = scores(weights, z).flatten()
        mask = torch.zeros_like(flat)
        mask[flat.topk(options.k * len(x)).indices] = 1.0
        return z * mask.view_as(z) @ weights.decoder + weights.decoder_bias

    for number, x in enumerate(data.split(options.batch_rows)):
        optimizer.param_groups[0]["lr"] = options.learning_rate * min(1.0, number / options.warmup_steps)
        optimizer.zero_grad()
        torch.nn.functional.mse_loss(rebuilt(x), x).backward()
        optimizer.step()
    return rebuilt


def by_sae_lens(data: Tensor, options: SAEOptions) -> Rebuild:
    """Its BatchTopK by its own trainer."""
    from sae_lens import BatchTopKTrainingSAE, BatchTopKTrainingSAEConfig
    from sae_lens.config import SAETrainerConfig
    from sae_lens.training.sae_trainer import SAETrainer

    units = data.shape[1]
    config = BatchTopKTrainingSAEConfig(
        d_in=units, d_sae=options.latents(units), k=float(options.k), apply_b_dec_to_input=False
    )
    sae: Any = BatchTopKTrainingSAE(config)
    trainer = SAETrainer(
        SAETrainerConfig(
            total_training_samples=len(data),
            train_batch_size_samples=options.batch_rows,
            lr=options.learning_rate,
            lr_end=options.learning_rate,
            lr_warm_up_steps=options.warmup_steps,
        ),
        sae,
        iter(data.split(options.batch_rows)),
    )
    trainer.fit()
    return lambda x: sae.decode(sae.encode(x))


def unexplained(rebuild: Rebuild, x: Tensor) -> float:
    """FVU of rows as one batch."""
    with torch.no_grad():
        return float((rebuild(x) - x).square().sum() / (x - x.mean(dim=0)).square().sum())


def run(rounds: int, size: str = "full", threads: int = 1) -> list[Result]:
    """Measure everything."""
    settle(threads or 1)
    units, batch, steps = SIZES[size]
    data = rows_of(units, batch * (steps + 1))
    train, held_out = data[:-batch], data[-batch:]
    sides: dict[str, Callable[[], Rebuild]] = {}
    variants: tuple[Variant, ...] = ("author", "standard")
    for variant in variants:
        options = SAETraining(batch_rows=batch, warmup_steps=max(steps // 10, 1)).sae(variant)
        sides[variant] = lambda options=options: by_steerkit(train, options)  # type: ignore[misc]
        if variant == "author":
            sides["dense"] = lambda options=options: by_masks(train, options)  # type: ignore[misc]
    if find_spec("sae_lens") is not None:
        sides[PEER] = lambda: by_sae_lens(train, options)
    else:
        print(f"not compared with {PEER}, which is not installed (pip install sae-lens)", flush=True)
    print(f"{units} units, {8 * units} latents, {steps} steps of {batch} tokens; {machine()}", flush=True)
    left = {name: unexplained(side(), held_out) for name, side in sides.items()}

    def work(side: Callable[[], Rebuild]) -> Work:
        def measured() -> int:
            side()
            return len(train)

        return measured

    seconds = interleaved({name: work(side) for name, side in sides.items()}, rounds, warm=False)
    for name, own in seconds.items():
        print(f"  {name}: {1 / median(own):,.0f} tokens/s, FVU {left[name]:.3f} after {steps} steps", flush=True)
    note = f"{units} units, batches of {batch}; FVU {', '.join(f'{name} {value:.3f}' for name, value in left.items())}"
    questions = [Question("SAE training, times faster than dense masks", "author", "dense", 1.0, True, note)]
    if PEER in sides:
        questions.append(Question(f"SAE training, times faster than {PEER}", "standard", PEER, 1.0, True, note))
    return [result(question, ratios_of(seconds, question)) for question in questions]


def main() -> None:
    args = parser_of(__doc__, rounds=7).parse_args()
    results = run(args.rounds, args.size, args.threads)
    print(text_table(results))
    write(results, args.out, keep=True)


if __name__ == "__main__":
    main()
