"""Rows whose values stop being finite (found at the draw of a token) are traced to the block where it began."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from steerkit.interventions.edits import EditSet
from steerkit.interventions.steering import Steering
from steerkit.models.block_output import hidden_of

if TYPE_CHECKING:
    from steerkit.models.language_model import LanguageModel


def first_break(lm: LanguageModel, prompt: Sequence[int], ids: Sequence[int], edits: EditSet) -> str:
    """Where a row stops being finite, in words: one forward over its tokens, with its edits.

    Args:
        prompt: the row's prompt ids.
        ids: what it generated before it broke.
    """
    import torch

    broken: list[int] = []

    def look(layer: int) -> Any:
        def hook(module: Any, args: Any, output: Any) -> None:
            hidden = hidden_of(output)
            if not broken and not bool(hidden.isfinite().all()):
                broken.append(layer)

        return hook

    steering = Steering(lm, [edits], prompt_lengths=[len(prompt)])
    with torch.inference_mode(), steering:
        # After the edit's hook, so that the block's output is seen as the next one gets it.
        handles = [block.register_forward_hook(look(layer)) for layer, block in enumerate(lm.blocks)]
        try:
            lm.model(input_ids=torch.tensor([[*prompt, *ids]], device=lm.device), use_cache=False)
        finally:
            for handle in handles:
                handle.remove()
        steering.excused = steering.steered_at.keys()
    if not broken:
        return "behind the last block (final norm or LM head)"
    here = [edit for edit in edits if edit.layer == broken[0]]
    added = [f"{e.norm:g} is added" + ("" if e.site.is_block_output else f" at {e.site.name}") for e in here]
    return f"in the output of block {broken[0]}" + (f", where {' and '.join(added)}" if added else "")
