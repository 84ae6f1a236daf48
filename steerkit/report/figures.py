"""figures/*.png: transfer between the models, and the fitted vector beside its baselines."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from steerkit.judging.metrics import OTHERS
from steerkit.report import judges, style, sweeps, textgrid, vectors, words
from steerkit.report.run import Row, Run, select
from steerkit.report.style import Look
from steerkit.report.texts import Shown


def draw_all(run: Run, shown: Sequence[Shown]) -> list[str]:
    """Draw what was run; returns relative file names."""
    drawn: dict[str, tuple[Any, Callable[[], None]]] = {
        "transfer": (run.has("transfer"), lambda: transfer(run)),
        "baselines": (run.has("baselines"), lambda: baselines(run)),
        "offsets": (run.has("offsets"), lambda: sweeps.offsets(run)),
        "layers": (run.has("layers"), lambda: sweeps.layers(run)),
        "lens": (run.csv("lens.csv"), lambda: vectors.draw_lens(run)),
        "projection": (run.jsonl("projections.jsonl"), lambda: vectors.draw_projection(run)),
        "agreement": (run.csv("agreement.csv"), lambda: judges.draw(run)),
        "texts": (len(shown[0].texts) > 1 if shown else False, lambda: texts(run, shown[0])),
    }
    names = [name for name, (there, _) in drawn.items() if there]
    for name in names:
        drawn[name][1]()
    return [f"figures/{name}.{kind}" for name in names for kind in style.KINDS]


def transfer(run: Run) -> None:
    """The shown metrics against the norm added, for both sources on both targets."""
    looks = {
        ("base", "reasoning"): Look(style.BLUE, "o", "-"),
        ("reasoning", "reasoning"): Look(style.VERMILLION, "s", "--"),
        ("base", "base"): Look(style.BLUE, "o", ":", hollow=True),
        ("reasoning", "base"): Look(style.VERMILLION, "s", ":", hollow=True),
    }
    down, across = style.grid(len(run.shown))
    with style.figure(run, "transfer", 3.8 * max(across, 2), 3.6 * down) as made:
        axes = style.panels(made, len(run.shown))
        shown = _test(run, "transfer")
        for ax, metric in zip(axes, run.shown, strict=True):
            for shift, ((source, target), look) in zip(_shifts(4, shown), looks.items(), strict=True):
                rows = select(shown, target=target, metric=metric.name)
                rows = [row for row in rows if row["source"] == source or row["method"] == "none"]
                label = f"{source}-derived vector on {target} model"
                style.series(ax, rows, [row["added_norm"] for row in rows], look, label, metric, shift=shift)
            style.strength_ticks(ax, shown)
            style.panel(ax, words.heading(metric), metric, style.strength_label(run))
        style.legend(made, axes[0], 2)
        style.heading(made, run, f"Steering both models, block {run.layer}", shown)


def baselines(run: Run) -> None:
    """The shown metrics and text damage against the norm added, for the fitted vector and every baseline."""
    shown = _test(run, "baselines")
    methods = list(dict.fromkeys(str(row["method"]) for row in shown if row["method"] not in ("none", run.fitter)))
    metrics = [*run.shown, run.metric(OTHERS)]
    down, across = style.grid(len(metrics))
    with style.figure(run, "baselines", 3.4 * max(across, 3), 3.9 * down) as made:
        axes = style.panels(made, len(metrics))
        for ax, metric in zip(axes, metrics, strict=True):
            style.unsteered_band(ax, run.unsteered("reasoning", metric.name), metric)
            for index, (shift, method) in enumerate(
                zip(_shifts(len(methods) + 1, shown), [run.fitter, *methods], strict=True)
            ):
                rows = select(shown, metric=metric.name, method=method)
                label = f"{run.label} ({method}, fitted vector)" if method == run.fitter else method
                look = style.LOOKS[index % len(style.LOOKS)]
                style.series(ax, rows, [row["added_norm"] for row in rows], look, label, metric, shift=shift)
            style.strength_ticks(ax, [row for row in shown if row["method"] != "none"])
            style.panel(ax, words.heading(metric), metric, style.strength_label(run))
        style.legend(made, axes[0], 4)
        style.heading(made, run, f"Reasoning model, equal norm added at block {run.layer}", shown)


def texts(run: Run, shown: Shown) -> None:
    """The first test prompt's texts, one below the other: sentences, counted words and windows marked."""
    columns, width = 92, 8.2
    plain = [[replace(piece, shade=0) for piece in text.pieces] for text in shown.texts]
    pages = [textgrid.lines_of(pieces, columns, 14) for pieces in plain]
    heights = [textgrid.inches(len(lines), width, columns) for lines in pages]
    with style.figure(run, "texts", width + 0.4, sum(heights) + 0.45 * len(pages) + 0.4) as made:
        axes = made.subplots(len(pages), 1, height_ratios=heights, squeeze=False)[:, 0]
        for ax, text, lines in zip(axes, shown.texts, pages, strict=True):
            textgrid.draw(ax, lines, columns)
            ax.set_title(text.name)
        window = words.window(*run.window)
        boxed = "" if shown.texts[0].marked is None else f"boxed: counted in {run.score.title}; "
        made.suptitle(
            f"filled: judged {run.label}; {boxed}underlined: tokens {window} before such a sentence",
            fontsize=9,
            x=0.01,
            ha="left",
        )
        textgrid.fit(made, list(axes), columns)


def _test(run: Run, experiment: str) -> list[Row]:
    return select(run.results, experiment=experiment, split="test")


def _shifts(count: int, rows: Sequence[Row]) -> list[float]:
    """Small shifts along x, so that the intervals of several series stand side by side."""
    norms = [row["added_norm"] for row in rows]
    gap = (max(norms) - min(norms)) / max(len({row["strength"] for row in rows}) - 1, 1)
    return [gap * 0.07 * (index - (count - 1) / 2) for index in range(count)]
