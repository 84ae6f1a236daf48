"""The finding on the screen, at the end of a run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from steerkit.report import words
from steerkit.report.beside import beside_of
from steerkit.report.cautions import cautions
from steerkit.report.finding import Claim, claims_of, headline
from steerkit.report.run import Run

if TYPE_CHECKING:
    from rich.console import Console

STYLES = {"holds": "green", "does not hold": "red", "cannot be told": "yellow"}
NOTE = (
    "Paired differences, of shares in percentage points; skew-corrected t intervals over test prompts, each on its "
    "own. Verdicts beside the claims are Holm's, over all comparisons of an experiment and metric."
)


def summary(folder: Path) -> list[Claim]:
    """The claims, then what stands beside them (`kind`).

    Raises:
        SteerkitError: the run is not finished.
    """
    run = Run.read(folder)
    return [*claims_of(run), *beside_of(run)]


def print_summary(folder: Path, console: Console) -> None:
    """Print the finding in words, and a line for each claim.

    Raises:
        SteerkitError: the run is not finished.
    """
    from rich.table import Table
    from rich.text import Text

    run = Run.read(folder)
    claims = claims_of(run)
    console.print()
    console.print(Text(headline(run, claims)), soft_wrap=False)
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("claim", ratio=1)
    table.add_column(words.difference(run.shown).removeprefix("difference, "), justify="right", no_wrap=True)
    table.add_column(f"{run.level} interval", no_wrap=True)
    table.add_column("n", justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    for group in (claims, beside_of(run)):
        for claim in group:
            n = "" if claim.n is None else str(claim.n)
            cells = ("", "") if claim.delta is None else (claim.points, claim.interval)
            verdict = Text(claim.verdict, style=STYLES.get(claim.verdict, "dim"))
            table.add_row(Text(claim.text), *map(Text, cells), n, verdict)
        table.add_row()
    console.print(table, soft_wrap=False)
    for line in (NOTE, *cautions(run, claims)):
        console.print(Text(line), style="dim", soft_wrap=False)
