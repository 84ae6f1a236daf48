"""`steerkit report`: make a run's figures and page again, or put two runs side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def report(
    run: Annotated[Path, typer.Argument(help="Run folder, e.g. runs/backtracking.")],
    other: Annotated[Path | None, typer.Argument(help="Another run folder, to put beside it.")] = None,
    out: Annotated[Path, typer.Option("--out", help="The page about two runs.", dir_okay=False)] = Path(
        "comparison.html"
    ),
) -> None:
    """Build a run's figures and report.html again; or, of two runs, a page that puts them side by side."""
    from rich.console import Console

    from steerkit.report import print_summary, write_comparison, write_report

    console = Console(soft_wrap=True, markup=False, emoji=False)
    if other:
        write_comparison(run, other, out)
        console.print(f"comparison {out}", highlight=False)
        return
    write_report(run)
    print_summary(run, console)
    console.print(f"report {run / 'report.html'}", highlight=False)
