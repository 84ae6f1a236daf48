"""The findings on the screen, at the end of a run."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from steerkit.errors import printable
from steerkit.findings import Claim
from steerkit.report.cautions import cautions
from steerkit.report.facts import same_models
from steerkit.report.run import Part, Run

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

STYLES = {"holds": "green", "does not hold": "red", "unclear": "yellow", "cannot be told": "yellow"}


def tally(claims: Iterable[Claim]) -> str:
    """``5 of 8 claims hold``; empty where nothing is claimed."""
    own = [claim for claim in claims if claim.kind == "claim"]
    return f"{sum(claim.holds for claim in own)} of {len(own)} claims hold" if own else ""


def show(run: Run, console: Console) -> None:
    """Print each experiment's finding, all claims, and the cautions."""
    console.print()
    if run.about:
        console.print(_text(run.about), style="bold", soft_wrap=False)
    for part in run.parts:
        if part.asked and part.findings.finding:
            console.print(_text(f"{part.findings.title}: {part.findings.finding}"), soft_wrap=False)
    claims = [claim for part in run.parts for claim in part.findings.claims]
    if claims:
        console.print(_table(run), soft_wrap=False)
        if tally(claims):
            console.print(f"{tally(claims)}.", soft_wrap=False)
    if not run.parts:
        console.print("No experiments were run.", soft_wrap=False)
    for line in (*same_models(run), *cautions(run)):
        console.print(_text(line), style="dim", soft_wrap=False)


def _table(run: Run) -> Table:
    from rich.table import Table

    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("claim", ratio=1)
    table.add_column("difference", justify="right", no_wrap=True)
    table.add_column(f"{run.level} interval", no_wrap=True)
    table.add_column("n", justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    for part in run.parts:
        _add(table, part)
    return table


def _text(text: str, style: str = "") -> Text:
    """A text of the run's files, which can't steer the terminal."""
    from rich.text import Text

    return Text(printable(text), style=style)


def _add(table: Table, part: Part) -> None:
    for kind, heading in (("claim", ""), ("beside", ", not claimed beforehand")):
        own = [claim for claim in part.findings.claims if claim.kind == kind]
        if own:
            table.add_row(_text(part.findings.title + heading, style="bold"))
        for claim in own:
            n = "" if claim.n is None else str(claim.n)
            verdict = _text(claim.verdict, style=STYLES.get(claim.verdict, "dim"))
            table.add_row(_text(f"  {claim.text}"), _text(claim.difference), _text(claim.interval), n, verdict)
