"""Puts benchmarks/results.json into docs/benchmarks.md, between its markers: `python benchmarks/table.py`."""

from __future__ import annotations

import json
from pathlib import Path

from steerkit.bench.measure import read
from steerkit.bench.table import markdown_table

HERE = Path(__file__).parent
PAGE = HERE.parent / "docs" / "benchmarks.md"
GROWTH = PAGE.parent / "growth.json"


def growth_table(path: Path) -> str:
    """A line an axis."""
    lines = ["| what is doubled | sizes | slope | |", "| --- | --- | --- | --- |"]
    for name, own in json.loads(path.read_text()).items():
        lines.append(f"| {name} | {', '.join(map(str, own['sizes']))} | {own['slope']:.2f} | {own['how']} |")
    return "\n".join(lines)


def put(page: str, name: str, text: str) -> str:
    """The page with the text between its markers `<!-- NAME -->` and `<!-- end of NAME -->`."""
    begin, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
    head, _, rest = page.partition(begin)
    return f"{head}{begin}\n{text}\n{end}{rest.partition(end)[2]}"


def main() -> None:
    page = put(PAGE.read_text(), "results", markdown_table(read(HERE / "results.json")))
    if GROWTH.is_file():
        page = put(page, "growth", growth_table(GROWTH))
    PAGE.write_text(page)


if __name__ == "__main__":
    main()
