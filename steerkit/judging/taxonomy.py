"""Label sets as data: a YAML list of labels, each with a one-line gloss that annotators go by."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from steerkit.errors import InputError, Problem, SteerkitError
from steerkit.store.bounded_yaml import load

_SHIPPED = Path(__file__).parent / "taxonomies"

DEFAULT = "reasoning"


def load_taxonomy(name: str = DEFAULT) -> Mapping[str, str]:
    """Label → gloss, in the file's order.

    Args:
        name: a YAML file, or the name of a shipped taxonomy.

    Raises:
        SteerkitError: there is no such file, or it is not YAML.
        InputError: entries that aren't ``- label: gloss``, labels twice.
    """
    path = find_taxonomy(name)
    rows = load(path)
    if not isinstance(rows, list) or not rows:
        raise SteerkitError(f"{path}: must be a list of `- label: gloss` lines")
    found: dict[str, str] = {}
    problems = []
    for number, row in enumerate(rows, 1):
        pair = next(iter(row.items())) if isinstance(row, dict) and len(row) == 1 else (None, None)
        if not all(isinstance(part, str) and part.strip() for part in pair):
            problems.append(Problem(f"{path}, entry {number}", f"must be `label: gloss`, two texts, not {row!r}"))
        elif pair[0] in found or pair[0] == "other":
            why = "is kept for what fits no label" if pair[0] == "other" else "stands twice"
            problems.append(Problem(f"{path}, entry {number}", f"label {pair[0]!r} {why}"))
        else:
            found[str(pair[0])] = str(pair[1])
    if problems:
        raise InputError(str(path), problems)
    return found


def find_taxonomy(name: str) -> Path:
    """The file of a taxonomy. Raises: SteerkitError when it is neither a file nor a shipped one's name."""
    for path in (Path(name), _SHIPPED / f"{name}.yaml"):
        if path.is_file():
            return path
    known = ", ".join(sorted(p.stem for p in _SHIPPED.glob("*.yaml")))
    raise SteerkitError(f"taxonomy {name!r} is neither a file nor a shipped one ({known})")
