"""How near models' predictions and states are to the target's, in sums for each text.

Shapes: N texts, B of them in a batch, T tokens, M counted positions, L blocks, H width. A position counts where its
next token does.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from steerkit.extraction.batching import Queue
from steerkit.models.adapter_layout import adapter_state
from steerkit.models.limits import check_ids
from steerkit.models.parts_from import SwappedPart, put_parts
from steerkit.units.divergence import CPU_CHUNK, GPU_CHUNK, CountedText, divergences, log_probabilities, predicting
from steerkit_plugins.transcoder.bridging_pair import Pair
from steerkit_plugins.transcoder.bridging_passes import Halves, Outputs, can_begin, halves_of

if TYPE_CHECKING:
    from steerkit.models.language_model import LanguageModel

Sums = dict[str, np.ndarray]
"""``kl.NAME``, ``ce.NAME`` [N] in nats; ``error``, ``size``, ``ratio`` [L, N] squares of states; ``active`` [L, N] and
``alive.LAYER`` [F] features."""
Head = Callable[[Tensor], Tensor]
EPSILON = 1e-8


class Rows:
    """A batch of texts padded on the right, and where its counted positions are."""

    def __init__(self, lm: LanguageModel, texts: Sequence[CountedText]) -> None:
        ids = np.zeros((len(texts), max(len(text.ids) for text in texts)), np.int64)
        for row, text in enumerate(texts):
            ids[row, : len(text.ids)] = text.ids
        counts = predicting(texts)
        rows, columns = np.nonzero(counts)
        lengths = np.array([len(text.ids) for text in texts])
        self.ids = torch.from_numpy(ids).to(lm.device)
        self.mask = torch.from_numpy((np.arange(ids.shape[1]) < lengths[:, None]).astype(np.int64)).to(lm.device)
        self.counts = torch.from_numpy(counts)
        self.following = torch.from_numpy(ids[rows, columns + 1])
        self.row, self.count = rows, len(texts)

    def of_texts(self, values: Tensor) -> np.ndarray:
        """[M] of positions → [B] sums of texts."""
        return np.asarray(np.bincount(self.row, values.double().cpu().numpy(), self.count))

    def at(self, states: Tensor) -> Tensor:
        """[B, T, ...] → [M, ...]."""
        return states[self.counts.to(states.device)]


def adapter_sums(
    lm: LanguageModel, texts: Sequence[CountedText], batch_tokens: int, told: Callable[[int], None]
) -> Sums:
    """Of a hybrid with its transcoders in all blocks (``full``), in the first k (``first.k``), the last k (``last.k``)
    or one (``one.l``), with the target's own MLPs in the others; k = 1 … L − 1, l = 0 … L − 1. And the target's loss.

    Blocks below the first that differs from a pass that is known are not run again.
    """
    pair = Pair.of(lm)
    depth, whole = lm.depth, pair.whole
    cuts = range(1, depth)

    def passes(rows: Rows, halves: Halves) -> Iterator[tuple[str, Tensor]]:
        kept, own, f = Outputs(), Outputs(), dict[int, Tensor]()
        with pair.playing(whole):
            yield "target", halves.states(kept)
        with pair.playing(()), _watched(pair, f):
            yield "full", halves.states(own)
        for layer in range(depth):
            yield f"states.{layer}", _squares(rows, own[layer], kept[layer])
        for layer, active in f.items():
            yield f"features.{layer}", active
        for name, below, target, first in (
            *((f"first.{k}", own, whole - set(range(k)), k) for k in cuts),
            *((f"last.{k}", kept, set(range(depth - k)), depth - k) for k in cuts),
            *((f"one.{layer}", kept, whole - {layer}, layer) for layer in range(depth)),
        ):
            with pair.playing(target):
                yield name, halves.states(first=first if can_begin(lm, first) else 0, below=below)

    found: Sums = {}

    def add(places: list[int], rows: Rows) -> None:
        halves = halves_of(lm, rows.ids, rows.mask)
        states = dict(passes(rows, halves))
        _add_features(found, rows, states, depth, places, len(texts))
        target = rows.at(states.pop("target"))
        heads = {name: (rows.at(own), halves.logits) for name, own in states.items()}
        _add(found, rows, target, halves.logits, heads, places, len(texts))

    _each(lm, texts, batch_tokens, told, add)
    return found


def part_sums(
    lm: LanguageModel,
    donor: LanguageModel,
    parts: Sequence[tuple[SwappedPart, ...]],
    texts: Sequence[CountedText],
    batch_tokens: int,
    told: Callable[[int], None],
) -> Sums:
    """Of a target with parts of a donor, which it has only meanwhile: ``kl.mlp+attention``, ``ce.mlp+attention``, …"""
    found: Sums = {}

    @contextmanager
    def swapped(own: Collection[SwappedPart]) -> Iterator[None]:
        changed = put_parts(lm, donor, own)
        try:
            yield
        finally:
            changed.undo(lm.model)

    def within(own: Collection[SwappedPart], halves: Halves) -> Head:
        def head(states: Tensor) -> Tensor:
            with swapped(own):
                return halves.logits(states)

        return head

    def add(places: list[int], rows: Rows) -> None:
        halves = halves_of(lm, rows.ids, rows.mask)
        target, states = rows.at(halves.states()), dict[str, tuple[Tensor, Head]]()
        for own in parts:
            with swapped(own):
                states["+".join(own)] = rows.at(halves.states()), within(own, halves)
        _add(found, rows, target, halves.logits, states, places, len(texts))

    _each(lm, texts, batch_tokens, told, add)
    return found


def model_sums(
    lm: LanguageModel,
    target: LanguageModel,
    texts: Sequence[CountedText],
    theirs: Sequence[CountedText],
    batch_tokens: int,
    told: Callable[[int], None],
) -> Sums:
    """Of another model, whole: ``kl.whole`` and ``ce.whole``.

    Args:
        theirs: the same texts as the target reads them.
    """
    found: Sums = {}

    def add(places: list[int], rows: Rows) -> None:
        read = Rows(target, [theirs[place] for place in places])
        own, other = (halves_of(m, r.ids, r.mask) for m, r in ((lm, rows), (target, read)))
        states = {"whole": (rows.at(own.states()), own.logits)}
        _add(found, rows, read.at(other.states()), other.logits, states, places, len(texts))

    _each(lm, texts, batch_tokens, told, add)
    return found


def _each(
    lm: LanguageModel,
    texts: Sequence[CountedText],
    batch_tokens: int,
    told: Callable[[int], None],
    add: Callable[[list[int], Rows], None],
) -> None:
    """Call `add` with each batch and its places among the texts, under inference; with less where memory ran out."""
    check_ids(lm, [text.ids for text in texts])
    numbers = {id(text): number for number, text in enumerate(texts)}
    queue, done = Queue(lm, list(texts), batch_tokens), 0
    while queue.left:
        with queue.next() as [batch], torch.inference_mode(), adapter_state(lm):
            add([numbers[id(text)] for text in batch], Rows(lm, batch))
        if not queue.ran_out:
            done += len(batch)
            told(done)


@contextmanager
def _watched(pair: Pair, f: dict[int, Tensor]) -> Iterator[None]:
    """Inside, which features [B, T, F] are active goes to `f`."""

    def see(layer: int) -> Callable[[Tensor], None]:
        return lambda numbers: f.__setitem__(layer, numbers > 0)

    handles = [group.watch(see(group.layer)) for group in pair.groups]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _squares(rows: Rows, own: Any, kept: Any) -> Tensor:
    """[2, M] squared error of a block's states, and squares of the target's."""
    from steerkit.models.block_output import hidden_of

    mine, theirs = (rows.at(hidden_of(output)).float() for output in (own, kept))
    return torch.stack([(mine - theirs).square().sum(-1), theirs.square().sum(-1)])


def _add_features(
    found: Sums, rows: Rows, states: dict[str, Tensor], depth: int, places: Sequence[int], n: int
) -> None:
    """Move what is told of states and features from `states` to the sums."""
    for name in ("error", "size", "ratio", "active"):
        found.setdefault(name, np.zeros((depth, n)))
    for layer in range(depth):
        error, size = states.pop(f"states.{layer}")
        for name, values in (("error", error), ("size", size), ("ratio", error / (size + EPSILON))):
            found[name][layer, places] = rows.of_texts(values)
        if (active := states.pop(f"features.{layer}", None)) is not None:
            counted = rows.at(active)
            found["active"][layer, places] = rows.of_texts(counted.sum(-1))
            alive = counted.any(0).cpu().numpy()
            found[f"alive.{layer}"] = alive | found.get(f"alive.{layer}", False)


def _add(
    found: Sums,
    rows: Rows,
    target: Tensor,
    head: Head,
    states: Mapping[str, tuple[Tensor, Head]],
    places: Sequence[int],
    n: int,
) -> None:
    """KL(target ‖ each) and losses of a batch, a chunk of positions at a time."""
    names = list(states)
    following = rows.following.to(target.device)
    vocabulary = head(target[:1]).shape[-1]
    chunk = max(1, (CPU_CHUNK if target.device.type == "cpu" else GPU_CHUNK) // vocabulary)
    kl: dict[str, list[Tensor]] = {name: [] for name in names}
    ce: dict[str, list[Tensor]] = {name: [] for name in (*names, "target")}
    for begin in range(0, len(target), chunk):
        at = slice(begin, begin + chunk)
        reference = log_probabilities(head(target[at]))
        ce["target"].append(-reference.gather(1, following[at, None]).squeeze(1))
        for name, (own, its_head) in states.items():
            changed = log_probabilities(its_head(own[at]))
            kl[name].append(divergences(reference, changed))
            ce[name].append(-changed.gather(1, following[at, None]).squeeze(1))
    for kind, values in (("kl", kl), ("ce", ce)):
        for name, parts in values.items():
            row = found.setdefault(f"{kind}.{name}", np.zeros(n))
            row[list(places)] = rows.of_texts(torch.cat(parts))
