"""Whether two models read the same ids as the same tokens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from steerkit.errors import SteerkitError
from steerkit.models.language_model import LanguageModel

SHOWN = 5  # differing ids named in an error


Named = tuple[str, LanguageModel]


def check_vocabulary(reader: Named, writer: Named, maps: Mapping[int, int]) -> None:
    """Hold a model's ids against those of the model whose texts it reads.

    Args:
        maps: ids of the writer's → ids that the model reads in their place.

    Raises:
        SteerkitError: it reads the writer's ids as other tokens, or an id is mapped to none of its own.
    """
    (one, lm), (other, writing) = reader, writer
    where = f"models.{one}.id_map.{other}"
    rows = lm.model.get_input_embeddings().weight.shape[0]
    for there, here in maps.items():
        if not 0 <= here < rows:
            raise SteerkitError(f"{where}: {there} is mapped to {here}, but {lm.name} has no such id")
    if lm.tokenizer is writing.tokenizer:
        return
    ours, theirs = _by_id(writing.tokenizer), _by_id(lm.tokenizer)
    different = [(i, ours[i], theirs.get(i)) for i in sorted(ours) if ours[i] != theirs.get(i) and i not in maps]
    if different:
        shown = "\n".join(
            f"  id {i}: {mine!r} in {writing.name}, {theirs!r} in {lm.name}" for i, mine, theirs in different[:SHOWN]
        )
        raise SteerkitError(
            f"the tokenizers of {other} and {one} disagree on {len(different)} ids that are not in id_map; the "
            f"first:\n{shown}\n  For special tokens, map each id to a neutral one of {one}'s under `{where}` (BOS and "
            f"EOS to themselves); with other differences {one} can't read what {other} writes"
        )


def _by_id(tokenizer: Any) -> dict[int, str]:
    return {index: token for token, index in tokenizer.get_vocab().items()}
