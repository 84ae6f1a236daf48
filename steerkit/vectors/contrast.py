"""A contrast vector in one call, for a notebook: pairs of chats to a SteeringVector, no run folder."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

from steerkit import registry
from steerkit.artifacts import PluginSpec
from steerkit.data.chat_format import ChatFormat, Mode
from steerkit.data.chats import parse_chat
from steerkit.data.importing import place
from steerkit.data.pairs import POSITIVE, SIDES, side_id
from steerkit.data.tokens import given_trace
from steerkit.data.trace import Item, Prompt
from steerkit.errors import InputError, Problem, SteerkitError
from steerkit.extraction.batching import BATCH_TOKENS
from steerkit.extraction.extract import extract
from steerkit.interfaces import OWN_TOKENS, Extractor, VectorFitter
from steerkit.models.language_model import LanguageModel
from steerkit.vectors.fit import fit
from steerkit.vectors.steering_vector import SteeringVector

Position = Literal["response mean", "prompt mean", "last prompt token", "last token"]


def contrast_vector(
    lm: LanguageModel,
    pairs: Iterable[tuple[Any, Any]],
    *,
    position: Position = "last token",
    fitter: VectorFitter | None = None,
    layers: Sequence[int] | None = None,
    chat: Mode = "auto",
    batch_tokens: int = BATCH_TOKENS,
) -> SteeringVector:
    """What the first sides of pairs have more of than the second sides.

    Args:
        pairs: (positive, negative), each a text or messages; a last assistant message is the response.
        position: whose activations are read (extractor `positions`).
        fitter: of the label ``positive`` and the window (0, -1); the difference of means when left out, in its own
            length (`dom` with reference ``rest``), which over pairs is the mean of their differences.
        layers: 0-based blocks, all by default; directions are of ``hidden_states[layer + 1]``, before the final norm.
        chat: whether texts go through the chat template; `auto`: when the tokenizer has one.

    Raises:
        InputError: every side that is no chat, or that the chat template refuses.
        SteerkitError: no pairs, or a position that they don't have.
    """
    extractor: Extractor = registry.build("extractors", PluginSpec(name="positions", at=position))
    if fitter is None:
        options = {"label": POSITIVE, "window": OWN_TOKENS, "reference": "rest", "scale": "raw"}
        fitter = registry.get("fitters", "dom")(**options)
    items = pair_items(lm, pairs, ChatFormat(lm.tokenizer, chat))
    with tempfile.TemporaryDirectory() as folder:
        statistics = extract(
            lm,
            items,
            extractor,
            SIDES,
            layers=layers,
            needs=fitter.needs,
            raw_folder=Path(folder),
            batch_tokens=batch_tokens,
        )
        if lost := statistics.at(OWN_TOKENS).dropped:
            raise SteerkitError(f"{sum(lost.values())} sides of the pairs have no response; take another position")
        return fit(fitter, statistics)


def pair_items(lm: LanguageModel, pairs: Iterable[tuple[Any, Any]], chats: ChatFormat) -> list[Item]:
    """Pairs as `extract` takes them: a trace a side, with one span over all of it, labelled by the side.

    Raises:
        InputError: every side that is no chat, or that can't be formatted.
    """
    items, problems = [], []
    for number, pair in enumerate(pairs):
        if isinstance(pair, str) or len(pair) != len(SIDES):
            problems.append(Problem(f"pairs[{number}]", "must be a pair: (positive, negative)"))
            continue
        for side, given in zip(SIDES, pair, strict=True):
            asked, wrong = parse_chat(given)
            where = f"pairs[{number}], {side}"
            problems += [Problem(where, what) for what in wrong]
            if wrong:
                continue
            try:
                trace = given_trace(lm.tokenizer, Prompt(id=side_id(f"p{number:05d}", side), prompt=asked), "", chats)
            except SteerkitError as error:
                problems.append(Problem(where, str(error)))
                continue
            items.append(Item(trace, [place(trace, 0, len(trace.text), side, "pairs")], trace.tokens))
    if problems:
        raise InputError("pairs", problems)
    return items
