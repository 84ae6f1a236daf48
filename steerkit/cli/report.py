"""`steerkit report`: make a run's figures and page again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def report(
    run: Annotated[Path, typer.Argument(help="Run folder, e.g. runs/backtracking.")],
) -> None:
    """Build figures and report.html again from a run folder's tables."""
    from rich.console import Console

    from steerkit.errors import SteerkitError
    from steerkit.report import print_summary, write_report

    if not (run / "results.csv").is_file():
        raise SteerkitError(f"{run}: no finished run there (no results.csv); give the folder that `recipe run` printed")
    write_report(run)
    console = Console(soft_wrap=True)
    print_summary(run, console)
    console.print(f"report {run / 'report.html'}", highlight=False)
