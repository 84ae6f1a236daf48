"""The report of a run: one page and its figures, drawn from the findings of its experiments."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

    from steerkit.findings import Claim

__all__ = ["print_summary", "summary", "write_comparison", "write_report"]


def write_report(folder: Path) -> list[str]:
    """Write ``figures/NAME.png``, ``figures/NAME.svg`` and ``report.html``.

    Returns:
        The files that were written, relative to the folder.

    Raises:
        SteerkitError: the run is not finished, its files don't fit together, or the folder can't be written.
    """
    from steerkit.errors import readable
    from steerkit.report.figures import draw_all, files_of
    from steerkit.report.page import write_page
    from steerkit.report.run import Run

    with readable(folder):
        run = Run.read(folder)
        images = draw_all(run)
        return [*files_of(images), write_page(run, images)]


def summary(folder: Path) -> list[Claim]:
    """The claims of all experiments, in the order of the page; `kind` tells claims from what stands beside them.

    Raises:
        SteerkitError: the run is not finished, or its files don't fit together.
    """
    from steerkit.errors import readable
    from steerkit.report.run import Run

    with readable(folder):
        return [claim for part in Run.read(folder).parts for claim in part.findings.claims]


def print_summary(folder: Path, console: Console) -> None:
    """Print the finding of each experiment, its claims, and the cautions.

    Raises:
        SteerkitError: the run is not finished, or its files don't fit together.
    """
    from steerkit.errors import readable
    from steerkit.report.run import Run
    from steerkit.report.screen import show

    with readable(folder):
        show(Run.read(folder), console)


def write_comparison(first: Path, second: Path, out: Path) -> None:
    """Write a page that puts two finished runs side by side.

    Raises:
        SteerkitError: a run is not finished, their files don't fit together, or the page can't be written.
    """
    from steerkit.errors import readable
    from steerkit.report.compare import write_page
    from steerkit.report.run import Run

    with readable(f"{first} and {second}"):
        write_page(Run.read(first), Run.read(second), out)
