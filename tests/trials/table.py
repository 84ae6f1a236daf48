"""Puts tests/trials/results.json into docs/trust.md, between its markers: `python tests/trials/table.py`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from forked import STEPS
from points import KINDS
from records import Record, get

HERE = Path(__file__).parent
PAGE = HERE.parents[1] / "docs" / "trust.md"


def crash_table(records: Sequence[Record]) -> str:
    """A line a step, a column a kind of crash: how many there were, and how many of them lost something."""
    found = {record.what: record for record in records}
    kinds = [kind for kind in KINDS.values() if any(what.startswith(f"{kind}: ") for what in found)]
    lines = [_line("step", *kinds, "lost"), _line("---", *["---:" for _ in [*kinds, 0]])]
    for step in STEPS:
        own = [found.get(f"{kind}: {step}", Record("", 0, 0, 0.0)) for kind in kinds]
        lines.append(_line(step, *(r.tried for r in own), sum(r.lost for r in own)))
    sums = [[r for what, r in found.items() if what.startswith(f"{kind}: ")] for kind in kinds]
    lost = sum(r.lost for own in sums for r in own)
    return "\n".join([*lines, _line("**all**", *(sum(r.tried for r in own) for own in sums), lost)])


def other_table(records: Sequence[Record]) -> str:
    """A line for all else that was tried."""
    lines = [_line("what", "where", "tried", "lost", "seconds"), _line("---", "---", "---:", "---:", "---:")]
    families: dict[str, list[Record]] = {}
    for record in records:
        family = record.what.partition(": ")[0]
        if family not in KINDS.values():
            families.setdefault(family, []).append(record)
    for family, own in families.items():
        where = ", ".join(record.what.partition(": ")[2] for record in own)
        tried, lost = (sum(getattr(record, name) for record in own) for name in ("tried", "lost"))
        lines.append(_line(family, where, tried, lost, f"{sum(record.seconds for record in own):.0f}"))
    return "\n".join(lines)


def _line(*cells: object) -> str:
    return f"| {' | '.join(map(str, cells))} |"


def put(page: str, name: str, text: str) -> str:
    """The page with the text between its markers `<!-- NAME -->` and `<!-- end of NAME -->`."""
    begin, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
    head, _, rest = page.partition(begin)
    return f"{head}{begin}\n{text}\n{end}{rest.partition(end)[2]}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--page", type=Path, default=PAGE, help="page to change")
    args = parser.parse_args()
    records = get(HERE / "results.json")
    page = put(args.page.read_text(encoding="utf-8"), "crashes", crash_table(records))
    args.page.write_text(put(page, "others", other_table(records)), encoding="utf-8")


if __name__ == "__main__":
    main()
