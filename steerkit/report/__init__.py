"""The report of a run: figures, the finding in words, and one page, all from the files in its folder."""

from __future__ import annotations

from pathlib import Path

from steerkit.report.screen import print_summary, summary

__all__ = ["print_summary", "summary", "write_report"]


def write_report(folder: Path) -> list[str]:
    """Write ``figures/*`` (png and svg) and ``report.html``.

    Returns:
        The files that were written, relative to the folder.

    Raises:
        SteerkitError: the run is not finished, its files don't fit together, or the folder can't be written.
    """
    from steerkit.errors import readable
    from steerkit.report.figures import draw_all
    from steerkit.report.page import write_page
    from steerkit.report.run import Run
    from steerkit.report.texts import browse

    with readable(folder):
        run = Run.read(folder)
        shown, note = browse(run)
        figures = draw_all(run, shown)
        return [*figures, write_page(run, figures, shown, note)]
