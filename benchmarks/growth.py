"""How cost grows with prompts, conditions, layers, labels' offsets and trace length: log-log slopes and a picture.

    python benchmarks/growth.py [--rounds 3] [--out FOLDER]

Each axis alone is doubled from a common middle size, the sizes in turns; the slope of a least-squares line through
the medians is 1 where cost is linear, below 1 where it is better. Writes growth.png and growth.json, into docs/ where
no folder is named. On the embedded model, which has little arithmetic of its own: what steerkit adds shows there the
most.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np

from steerkit import registry
from steerkit.bench.measure import Work, interleaved, ratio, settle
from steerkit.bench.sweep import ending, make_sweep
from steerkit.bench.traces import LABELS, random_traces
from steerkit.extraction.extract import extract
from steerkit.generation.sampling import Sampling
from steerkit.models.language_model import LanguageModel
from steerkit.models.loading import load_model

DOCS = Path(__file__).parent.parent / "docs"
LINEAR = 1.05  # a slope up to this is called linear


def extraction(lm: LanguageModel, *, traces: int = 16, length: int = 200, layers: int = 4, offsets: int = 46) -> Work:
    """Read `layers` blocks, spread over a stack that runs to its end, at `offsets` offsets."""
    items = random_traces(lm.config.vocab_size, traces, length, equal=True)
    extractor = registry.get("extractors", "offset-window")(windows=[(6 - offsets, 5)])
    # The last block is always read, so that the forward is the same whatever number is.
    chosen = sorted({lm.depth - 1 - i * lm.depth // layers for i in range(layers)})

    def run() -> None:
        extract(lm, items, extractor, LABELS, layers=chosen)

    return run


def sweep(lm: LanguageModel, *, prompts: int = 8, conditions: int = 8, new_tokens: int = 16) -> Work:
    """Generate at a fixed batch size."""
    steerer = registry.get("steerers", "residual-add")()
    made = make_sweep(lm, steerer, prompts=prompts, conditions=conditions, new_tokens=new_tokens, sampling=Sampling())

    def run() -> None:
        made.by_steerkit(64)

    return run


Axis = tuple[Callable[..., Work], str, tuple[int, ...]]
AXES: dict[str, Axis] = {
    "sweep: prompts": (sweep, "prompts", (8, 16, 32, 64)),
    "sweep: conditions": (sweep, "conditions", (8, 16, 32, 64)),
    "sweep: new tokens": (sweep, "new_tokens", (16, 32, 64, 128)),
    "extraction: traces": (extraction, "traces", (16, 32, 64, 128)),
    "extraction: trace length": (extraction, "length", (100, 200, 400, 800)),
    "extraction: layers read": (extraction, "layers", (1, 2, 4)),
    "extraction: offsets": (extraction, "offsets", (6, 12, 24, 46)),
}


def few(axis: Axis) -> Axis:
    """Two small sizes of little work: they only show that everything runs."""
    make, name, sizes = axis
    little = {"traces": 4} if make is extraction else {"prompts": 1, "conditions": 2, "new_tokens": 4}
    smaller = sizes[:2] if make is extraction and name != "traces" else tuple(size // 8 for size in sizes[:2])
    return partial(make, **little), name, smaller


def slope(sizes: tuple[int, ...], seconds: list[float]) -> float:
    """Of a least-squares line through the logarithms.

    Raises:
        SteerkitError: a time is 0 or no number.
    """
    times = [ratio(value, seconds[0], "time, times the smallest's") for value in seconds]
    return float(np.polyfit(np.log(sizes), np.log(times), 1)[0])


def measure(rounds: int, axes: Mapping[str, Axis]) -> dict[str, dict[str, Any]]:
    """Medians and slope by axis."""
    lm = load_model("pocket:reasoning")
    found = {}
    with ending(lm, None) as endless:
        for name, (make, axis, sizes) in axes.items():
            works = {str(size): make(endless, **{axis: size}) for size in sizes}
            seconds = [median(own) for own in interleaved(works, rounds).values()]
            grown = slope(sizes, seconds)
            how = "linear or better" if grown <= LINEAR else "MORE THAN LINEAR"
            found[name] = {"sizes": sizes, "relative": [s / seconds[0] for s in seconds], "slope": grown, "how": how}
            print(f"{name:<26} slope {grown:.2f}  {how}", flush=True)
    return found


def draw(found: dict[str, dict[str, Any]], path: Path) -> None:
    """One line an axis, beside a linear one."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, plots = plt.subplots(1, 2, figsize=(9, 3.8), sharey=True)
    for plot, kind in zip(plots, ("sweep", "extraction"), strict=True):
        for name, own in found.items():
            if name.startswith(kind):
                grown = [size / own["sizes"][0] for size in own["sizes"]]
                label = f"{name.partition(': ')[2]} (slope {own['slope']:.2f})"
                plot.plot(grown, own["relative"], marker="o", label=label)
        plot.plot([1, 8], [1, 8], color="0.6", linestyle="--", label="linear")
        plot.set(xscale="log", yscale="log", title=kind, xlabel="size, times the smallest")
        plot.set_xticks([1, 2, 4, 8], ["1", "2", "4", "8"])
        plot.set_yticks([1, 2, 4, 8], ["1", "2", "4", "8"])
        plot.minorticks_off()
        plot.legend(fontsize=8)
    plots[0].set_ylabel("time, times the smallest's")
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--size", choices=("full", "smallest"), default="full", help="smallest only shows that it runs")
    parser.add_argument("--out", type=Path, default=DOCS, help="folder for the table and the picture")
    args = parser.parse_args()
    settle()
    found = measure(args.rounds, AXES if args.size == "full" else {name: few(axis) for name, axis in AXES.items()})
    (args.out / "growth.json").write_text(json.dumps(found, indent=1) + "\n")
    draw(found, args.out / "growth.png")


if __name__ == "__main__":
    main()
