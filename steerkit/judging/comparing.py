"""What `steerkit judge compare` does: files and live judges → labels of the same units."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import yaml

from steerkit import registry
from steerkit.artifacts import PluginSpec
from steerkit.data.trace import Trace
from steerkit.errors import SteerkitError, nearest
from steerkit.interfaces import OTHER, Judge
from steerkit.judging.units import LabelFile, labels_by, labels_on, read_labelled, read_texts


@dataclass(frozen=True)
class Compared:
    """Labels of the same units by every judge, the reference first.

    Attributes:
        clusters: trace of each unit.
        groups: group of each unit; empty strings when none was asked for.
        labels: labels that count; None for all.
        remarks: what was counted on the way, a line each.
    """

    judged: dict[str, list[str | None]]
    clusters: list[str]
    groups: list[str]
    labels: Sequence[str] | None
    remarks: list[str]

    def by_group(self) -> dict[str, Compared]:
        """Group → its units, groups in the order of numbers, then of names."""
        found = {}
        for group in sorted(set(self.groups), key=_number_first):
            kept = [index for index, name in enumerate(self.groups) if name == group]
            found[group] = replace(
                self,
                judged={judge: [each[i] for i in kept] for judge, each in self.judged.items()},
                clusters=[self.clusters[i] for i in kept],
                groups=[group] * len(kept),
            )
        return found


def compare_judges(
    files: Sequence[str],
    live: Sequence[str] = (),
    *,
    reference: str | None = None,
    traces: Path | None = None,
    labels: Sequence[str] | None = None,
    by: str = "",
    uncovered_is_other: bool = True,
) -> Compared:
    """Labels of the reference's spans by every judge of the files, and by judges that are asked live.

    Args:
        files: spans, as `FILE` or `NAME=FILE`.
        live: judge plugins, as `NAME` or `NAME:{option: value}`. Labels that one of them can't give count as `other`
            unless `labels` says what counts.
        reference: the judge whose spans are the units; the first one by default.
        traces: the spans' traces; `traces.jsonl` beside the first file by default, needed for live judges.
        by: field of the reference's rows that groups them.

    Raises:
        SteerkitError: what is wrong with the files, the judges or the names.
    """
    sources = [LabelFile.parse(text) for text in files]
    known = _texts(traces, sources[0].path, needed=bool(live))
    labelled = read_labelled(sources, known, by)
    first = reference or next(iter(labelled))
    if first not in labelled:
        raise SteerkitError(
            f"--reference {first}: no judge of that name in the files; {nearest(first, list(labelled))}"
        )
    units, groups = labelled[first].spans, labelled[first].groups
    if by and not any(groups):
        raise SteerkitError(f"--by {by}: no row of {first!r} has a field {by!r}")
    judged: dict[str, list[str | None]] = {first: [unit.label for unit in units]}
    remarks = [f"{first}: {len(units):,} spans are the units, of {len({u.trace_id for u in units}):,} traces"]
    for name, other in labelled.items():
        if name != first:
            judged[name] = labels_on(units, other.spans)
            missing = judged[name].count(None)
            if missing and uncovered_is_other:
                judged[name] = [label or OTHER for label in judged[name]]
            remarks.append(
                f"{name}: {len(other.spans):,} spans; {missing:,} units have none of them"
                + (" and count as other" if missing and uncovered_is_other else "")
            )
    texts = [known[unit.trace_id].text[unit.start : unit.end] for unit in units] if known and live else []
    can: list[set[str]] = []
    for text in live:
        if text in judged:
            raise SteerkitError(f"--judge {text}: two judges have this name; judges need names that differ")
        judge = parse_judge(text)
        judged[text] = labels_by(judge, texts)
        can.append(set(judge.labels()))
    if can and labels is None:
        labels = sorted(set.intersection(*can))
    if labels is not None:
        remarks.append(f"labels that count: {', '.join(labels)}; any other is taken for `{OTHER}`")
    return Compared(judged, [unit.trace_id for unit in units], groups, labels, remarks)


def parse_judge(text: str) -> Judge:
    """The judge plugin that `NAME` or `NAME:{option: value}` (YAML) names.

    Raises:
        SteerkitError: no such judge, or options that don't fit it.
    """
    name, _, options = text.partition(":")
    try:
        found = yaml.safe_load(options) if options.strip() else {}
    except yaml.YAMLError as error:
        raise SteerkitError(f"--judge {text}: its options are not YAML ({error})") from error
    if not isinstance(found, dict) or not all(isinstance(key, str) for key in found):
        raise SteerkitError(f"--judge {text}: options are given as {name}:{{option: value, ...}}")
    judge: Judge = registry.build("judges", PluginSpec(**{**found, "name": name}))
    return judge


def _texts(path: Path | None, first: Path, *, needed: bool) -> Mapping[str, Trace] | None:
    beside = first.with_name("traces.jsonl")
    if path is None and not beside.is_file():
        if needed:
            raise SteerkitError(f"{beside}: no such file; a live judge reads the spans' texts: name them with --traces")
        return None
    return read_texts(path or beside)


def _number_first(group: str) -> tuple[bool, float, str]:
    try:
        return False, float(group), group
    except ValueError:
        return True, 0.0, group
