"""Statistics of a model over the traces, in pieces of whole traces whose sums add up."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from steerkit import registry
from steerkit.artifacts import PluginSpec
from steerkit.context import Run
from steerkit.data.draws import Draws, draw
from steerkit.data.statistics import ActivationStatistics
from steerkit.data.trace import Item, Span, Trace
from steerkit.data.windows import RawWindows
from steerkit.errors import SteerkitError
from steerkit.extraction.drawn_sums import spans_of
from steerkit.extraction.extract import extract, made_by
from steerkit.models.models import Models
from steerkit.parts import Step
from steerkit.settings import Drawing, Labelling, Reading
from steerkit.steps.wanted import draws_of, needs_of_fitters
from steerkit.store.files import atomic

TRACES = 256  # of a piece
RAW_TRACES = 16  # where single spans' windows are kept, too


@dataclass(frozen=True)
class TracePiece:
    """Traces that are read together, and what of them is summed."""

    model: str
    items: tuple[Item, ...]
    extractor: PluginSpec
    labels: tuple[str, ...]
    needs: frozenset[Any]
    batch_tokens: int
    draws: Draws | None

    def __len__(self) -> int:
        return len(self.items)


@dataclass(frozen=True)
class Read:
    """What a piece gave: sums, and the files of single spans' windows by name."""

    statistics: ActivationStatistics
    raw: dict[str, bytes]


class Statistics(Step):
    """``stats/MODEL.safetensors``: a model's sums over windows before and around the spans (`steerkit.extract`).

    Pseudo-labels and folds (`steerkit.data.draws`) are summed in the same forward.
    """

    uses = (Reading, Drawing)

    def needs(self, run: Run) -> Sequence[str]:
        return ("traces", "spans")

    def models(self, run: Run) -> Sequence[str]:
        return (self.of,)

    def depends(self, run: Run, traces: list[Trace], spans: tuple[list[Span], Any]) -> Any:
        names, folds = draws_of(run, self.of)
        drawn = [[names, folds, run.vector(self.of).to_json(), run.seed]] if names or folds else []
        return [self._labels(run, spans[0]), sorted(needs_of_fitters(run)), run.models.mapped(self.of), *drawn]

    def _labels(self, run: Run, spans: Sequence[Span]) -> list[str]:
        judge = registry.build("judges", run.peek(Labelling).span_judge)
        return sorted({*judge.labels(), *(span.label for span in spans)})

    def pieces(self, run: Run, traces: list[Trace], spans: tuple[list[Span], Any]) -> list[TracePiece]:
        s, needs = run.use(Reading), needs_of_fitters(run)
        items = run.models.items(self.of, traces, spans[0])
        items = sorted(items, key=lambda item: (len(item.ids), item.trace.id))
        size = RAW_TRACES if "raw" in needs else TRACES
        labels = tuple(self._labels(run, spans[0]))
        names, folds = draws_of(run, self.of)
        draws = drawn(run, self.of, items, names, folds) if names or folds else None
        return [
            TracePiece(
                model=self.of,
                items=tuple(items[i : i + size]),
                extractor=s.extractor,
                labels=labels,
                needs=needs,
                batch_tokens=s.batch_tokens,
                draws=draws.only(item.trace.id for item in items[i : i + size]) if draws else None,
            )
            for i in range(0, len(items), size)
        ]

    def work(self, models: Models, piece: TracePiece) -> Read:
        def progress(done: int, total: int) -> None:
            models.progress(len(piece) * done // total)

        with tempfile.TemporaryDirectory() as folder:
            found = extract(
                models[piece.model],
                piece.items,
                registry.build("extractors", piece.extractor),
                piece.labels,
                needs=piece.needs,
                raw_folder=Path(folder),
                batch_tokens=piece.batch_tokens,
                on_batch=progress,
                draws=piece.draws,
            )
            return Read(found, {file.name: file.read_bytes() for file in Path(folder).iterdir()})

    def keep(self, path: Path, result: Read) -> None:
        raw = path.parent / "raw"
        for name, data in result.raw.items():
            raw.mkdir(exist_ok=True)
            with atomic(raw / name) as temporary:
                temporary.write_bytes(data)
        _moved(result.statistics, raw).save(path)

    def kept(self, path: Path) -> ActivationStatistics:
        return ActivationStatistics.load(path)

    def join(
        self, run: Run, results: Iterable[ActivationStatistics], traces: list[Trace], spans: tuple[list[Span], Any]
    ) -> ActivationStatistics:
        rest = iter(results)
        total = next(rest, None)
        if total is None:
            raise SteerkitError("there is no trace to extract from")
        for each in rest:
            total += each
            del each  # before the next is read
        lm, main = run.models[self.of], total.at(run.vector(self.of).window)
        counted = {label: main.count(label, "span") for label in main.labels}
        run.log(model=self.of, dropped_windows=main.dropped, counted=counted, batches=lm.batches)
        return replace(total, meta={**made_by(lm), "source": self.of})

    def save(self, run: Run, value: ActivationStatistics) -> Sequence[str]:
        raw = run.folder / f"stats/{self.of}"
        shutil.rmtree(raw, ignore_errors=True)
        for file in {file for window in value.windows.values() if window.raw for file in window.raw.files}:
            raw.mkdir(parents=True, exist_ok=True)
            _linked(file, raw / file.name)
        kept = _moved(value, raw)
        kept.save(run.folder / self._file)
        value.windows.update(kept.windows)
        return [self._file]

    def load(self, run: Run) -> ActivationStatistics:
        return ActivationStatistics.load(run.folder / self._file)

    @property
    def _file(self) -> str:
        return f"stats/{self.of}.safetensors"


def drawn(run: Run, source: str, items: Sequence[Item], names: Sequence[str], folds: int) -> Draws:
    """Pseudo-labels of the fitter's label and window, and folds, of all traces."""
    extractor, key = registry.build("extractors", run.use(Reading).extractor), run.vector(source)
    spans = spans_of(items, extractor, key.label, key.window)
    return draw(spans, names, label=key.label, window=key.window, folds=folds, seed=run.seed)


def _linked(file: Path, to: Path) -> None:
    """A second name for a file, or a copy where the disk knows no such thing: a kill before the end loses neither."""
    try:
        os.link(file, to)
    except OSError:
        with atomic(to) as temporary:
            shutil.copyfile(file, temporary)


def _moved(statistics: ActivationStatistics, folder: Path) -> ActivationStatistics:
    """The same, its raw windows in another folder."""
    windows = {
        key: replace(
            window, raw=RawWindows(tuple(folder / file.name for file in window.raw.files)) if window.raw else None
        )
        for key, window in statistics.windows.items()
    }
    return replace(statistics, windows=windows)
