"""The report of a run, and the upload of its vectors."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from steerkit import report
from steerkit.code.source_files import source_digest
from steerkit.context import Run
from steerkit.graph import FINDINGS
from steerkit.models.hub import repo_for
from steerkit.parts import Step
from steerkit.provenance import version_of
from steerkit.steps.findings import asks_texts
from steerkit.steps.vectors import Vectors
from steerkit.store.files import digest, file_digest


class Report(Step):
    """``figures/`` and ``report.html``."""

    sealed = False

    def needs(self, run: Run) -> Sequence[str]:
        """All that is on the page; where any experiment has a vector, what is to be said of it, too."""
        steered = any(
            each.steers and (asks_texts(each) or "vectors" in each.needs(run.of(each, name)))
            for name, each in run.experiments.items()
        )
        return (*(f"{FINDINGS}.{name}" for name in run.experiments), "results", *(["directions"] if steered else []))

    def depends(self, run: Run, *needs: Any) -> Any:
        files = sorted(Path(report.__file__).parent.rglob("*"))
        page = digest([source_digest(path) for path in files if path.suffix in (".py", ".j2", ".css", ".js")])
        return [file_digest(run.folder / "recipe.yaml"), version_of("steerkit-hf"), page]

    def make(self, run: Run, *needs: Any) -> list[str]:
        return report.write_report(run.folder.path)

    def save(self, run: Run, value: list[str]) -> Sequence[str]:
        return value

    def load(self, run: Run) -> None:
        return None


class Push(Step):
    """Uploads every vector to a repository of its own (`push_to_hub`); those of drawn labels are no one's to use."""

    def needs(self, run: Run) -> Sequence[str]:
        return ("vectors", "report")

    def depends(self, run: Run, *needs: Any) -> Any:
        return [run.args.hub_model_id, run.args.hub_private_repo]

    def make(self, run: Run, vectors: Vectors, report: Any) -> list[str]:
        return [
            vector.push_to_hub(repo_for(str(run.args.hub_model_id), key.file), private=run.args.hub_private_repo)
            for key, vector in vectors.items()
            if not key.draw
        ]
