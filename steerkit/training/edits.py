"""Interventions of a training: which rows have which, and the `with` around a micro-batch's forward and backward."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from steerkit.errors import SteerkitError
from steerkit.interventions.edits import Edit, Edits, EditSet, sets_of
from steerkit.interventions.steering import Steering
from steerkit.store.files import digest

if TYPE_CHECKING:
    from steerkit.models.language_model import LanguageModel


class TrainingEdits:
    """The edits of a training's rows. In training, `tokens: generated` are the response's.

    Args:
        edits: one set for all rows, or a list with an entry for each.

    Raises:
        SteerkitError: there are other than edits, not one for each row, or the model has no such block.
    """

    def __init__(self, lm: LanguageModel, edits: Edits, rows: int) -> None:
        self._shared = isinstance(edits, Edit | tuple)
        self._sets = sets_of(edits)
        if not self._shared and len(self._sets) != rows:
            raise SteerkitError(
                f"edits for {len(self._sets)} rows were given, and there are {rows}: give a tuple of edits for all "
                "rows, or a list with an entry for each"
            )
        for edit in (edit for own in self._sets for edit in own):
            lm.check_layer(edit.layer)

    @contextmanager
    def on(self, lm: LanguageModel, rows: Sequence[int], prompt_lengths: Sequence[int]) -> Iterator[Steering | None]:
        """Inside, these rows have their edits, in forward and backward passes; None when they have none."""
        edits: EditSet | list[EditSet] = self._sets[0] if self._shared else [self._sets[row] for row in rows]
        if not any(edit.norm for own in sets_of(edits) for edit in own):
            yield None
            return
        with Steering(lm, edits, prompt_lengths) as steering:
            yield steering

    def settings(self) -> Any:
        """JSON of them, with digests of what is long: directions, and the edits of rows that have their own."""
        found = [[_told(edit) for edit in own if edit.norm] for own in self._sets]
        return found[0] if self._shared else digest(found)


def positions_changed(steering: Steering | None) -> int:
    """Positions at which activations, their gradients, or both were changed, over all sites."""
    if steering is None:
        return 0
    forward, backward = steering.steered_at, steering.gradients_at
    return sum(max(forward.get(site, 0), backward.get(site, 0)) for site in forward.keys() | backward.keys())


def _told(edit: Edit) -> dict[str, Any]:
    vector = edit.direction
    values = b"" if vector is None else vector.detach().cpu().double().numpy().tobytes()
    return {
        "intervention": type(edit.intervention).__name__,
        "options": edit.intervention.config.model_dump(mode="json"),
        "site": str(edit.site),
        "norm": edit.norm,
        "direction": hashlib.sha256(values).hexdigest()[:16] if values else "",
        "tokens": edit.tokens,
        "key": edit.key,
    }
