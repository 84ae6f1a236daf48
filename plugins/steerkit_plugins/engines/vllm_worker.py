"""Inside vLLM's workers: the same pure edits, applied to tokens that lie one after another.

vLLM runs all requests of a step as one row of tokens, [N, H], and most of its blocks return (hidden, residual),
whose sum is the residual stream. The rest of this file needs no vLLM; only `SteeringExtension` reads its runner.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from steerkit.errors import SteerkitError
from steerkit.interfaces import EditContext
from steerkit.interventions.edits import Edit
from steerkit.models.language_model import BLOCK_NAMES

if TYPE_CHECKING:
    from torch import Tensor, nn

EDIT = "steerkit_edit"  # a request's entry in SamplingParams.extra_args: the place of its edit


@dataclass(frozen=True)
class FlatBatch:
    """The requests of one forward, whose tokens lie one after another; all [R].

    Attributes:
        edits: place of the request's edit, -1 for none.
        counts: tokens that this forward brings.
        computed: tokens of it that came before.
        prompts: length of its prompt.
    """

    edits: np.ndarray
    counts: np.ndarray
    computed: np.ndarray
    prompts: np.ndarray


def split(output: Any) -> tuple[Tensor, Tensor | None]:
    """A block's output as (hidden, residual): the residual stream is their sum, or hidden alone.

    Raises:
        SteerkitError: it is something else.
    """
    if isinstance(output, torch.Tensor):
        return output, None
    if isinstance(output, tuple) and len(output) == 2 and isinstance(output[0], torch.Tensor):
        hidden, residual = output
        if residual is None or (isinstance(residual, torch.Tensor) and residual.shape == hidden.shape):
            return hidden, residual
    raise SteerkitError(f"this model's blocks return {type(output).__name__}, not hidden states (and a residual)")


class FlatSteering:
    """Hooks on a worker's blocks that apply each request's edit to its tokens, and count them."""

    def __init__(self, edits: Sequence[Edit], read: Callable[[], FlatBatch]) -> None:
        self.read = read
        self.counts = np.zeros(len(edits), dtype=np.int64)  # positions steered, by edit
        self._prompt = np.array([edit.tokens != "generated" for edit in edits], dtype=bool)
        self._generated = np.array([edit.tokens != "prompt" for edit in edits], dtype=bool)
        keys: dict[tuple[int, int, bool], int] = {}
        found = [keys.setdefault((e.layer, id(e.intervention), e.direction is None), len(keys)) for e in edits]
        self._group_of = np.array(found, dtype=np.int64)
        self._within = np.zeros(len(edits), dtype=np.int64)  # place of an edit in its group
        self._groups: list[_Group] = []
        for number in range(len(keys)):
            members = np.flatnonzero(self._group_of == number)
            self._within[members] = np.arange(len(members))
            self._groups.append(_Group([edits[i] for i in members.tolist()]))
        self._now: list[tuple[_Group, np.ndarray, np.ndarray, np.ndarray]] = []
        self._handles: list[Any] = []

    def attach(self, model: nn.Module, blocks: Mapping[int, nn.Module]) -> None:
        """Hook the blocks that are here (of a pipeline's stages, one has an edit's block)."""
        self._handles.append(model.register_forward_pre_hook(self._before))
        for layer in sorted({group.site.layer for group in self._groups} & blocks.keys()):
            self._handles.append(blocks[layer].register_forward_hook(self._block_hook(layer)))
        self._here = set(blocks)

    def detach(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def _before(self, module: Any, args: Any) -> None:
        """Find this forward's steered tokens: (group, token, place in the group, position) each."""
        batch = self.read()
        request = np.repeat(np.arange(len(batch.counts)), batch.counts)
        first = np.cumsum(batch.counts) - batch.counts
        position = np.arange(len(request)) - first[request] + batch.computed[request]
        edit = batch.edits[request]
        wanted = np.where(position < batch.prompts[request], self._prompt[edit], self._generated[edit])
        steered = np.flatnonzero(wanted & (edit >= 0))
        edit, position = edit[steered], position[steered]
        numbers = self._group_of[edit]
        self._now = []
        for number in np.unique(numbers):
            group, mine = self._groups[number], numbers == number
            if group.site.layer in self._here:
                self._now.append((group, steered[mine], self._within[edit[mine]], position[mine]))
                self.counts += np.bincount(edit[mine], minlength=len(self.counts))

    def _block_hook(self, layer: int) -> Any:
        def hook(module: Any, args: Any, output: Any) -> Any:
            mine = [entry for entry in self._now if entry[0].site.layer == layer]
            if not mine:
                return None
            hidden, residual = split(output)
            for group, token, place, position in mine:
                at = torch.from_numpy(token).to(hidden.device)
                stream = hidden[at] if residual is None else hidden[at] + residual[at]
                edited = group.edit(stream, torch.from_numpy(place), torch.from_numpy(position))
                # The edited stream goes into `hidden` whole, its residual becomes 0: their sum is then exact.
                hidden = hidden.index_copy(0, at, edited)
                residual = residual if residual is None else residual.index_fill(0, at, 0)
            return (hidden, residual) if isinstance(output, tuple) else hidden

        return hook


class _Group:
    """Edits of one steerer at one block, with their tensors on that block's device."""

    def __init__(self, edits: list[Edit]) -> None:
        self.edits = edits
        self.intervention, self.site = edits[0].intervention, edits[0].site
        self._ready: tuple[Tensor, Tensor, Tensor] | None = None

    def edit(self, stream: Tensor, place: Tensor, position: Tensor) -> Tensor:
        """[N, H] tokens of this group, each a row of its own for the steerer."""
        norm, direction, key = self._tensors(stream)
        place, position = place.to(stream.device), position.to(stream.device)
        context = EditContext(self.site, norm[place], direction[place], position[:, None], key[place])
        return self.intervention.forward(stream[:, None], context)[:, 0]

    def _tensors(self, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        if self._ready is None:
            vectors = [edit.direction for edit in self.edits if edit.direction is not None]
            for vector in vectors:
                if vector.shape != like.shape[-1:]:
                    raise SteerkitError(f"a direction of width {len(vector)} on hidden states of {like.shape[-1]}")
            norm = like.new_tensor([edit.norm for edit in self.edits])[:, None, None]
            direction = torch.stack([v.detach().to(like) for v in vectors])[:, None] if vectors else norm * 0
            self._ready = norm, direction, torch.tensor([edit.key for edit in self.edits], device=like.device)
        return self._ready


class SteeringExtension:
    """Mixed into vLLM's Worker (`worker_extension_cls`); these methods are called by `collective_rpc`."""

    model_runner: Any
    steerkit_now: FlatSteering | None

    def steerkit_begin(self, pickled: bytes) -> None:
        """Take the edits that requests from now on name by their place."""
        self.steerkit_end()
        edits: list[Edit] = pickle.loads(pickled)
        if edits:
            model = self.model_runner.get_model()
            self.steerkit_now = FlatSteering(edits, self._steerkit_batch)
            self.steerkit_now.attach(model, blocks_of(model, self.model_runner.model_config.hf_text_config))

    def steerkit_end(self) -> list[int]:
        """Remove the hooks.

        Returns:
            Steered positions by edit, of the blocks that this worker has.
        """
        now = getattr(self, "steerkit_now", None)
        self.steerkit_now = None
        if now is None:
            return []
        now.detach()
        return now.counts.tolist()

    def _steerkit_batch(self) -> FlatBatch:
        runner = self.model_runner
        batch = runner.input_batch
        count = batch.num_reqs
        given = [runner.requests[name].sampling_params.extra_args or {} for name in batch.req_ids[:count]]
        return FlatBatch(
            np.array([args.get(EDIT, -1) for args in given], dtype=np.int64),
            np.diff(runner.query_start_loc.np[: count + 1]).astype(np.int64),
            batch.num_computed_tokens_cpu[:count].astype(np.int64),
            batch.num_prompt_tokens[:count].astype(np.int64),
        )


def blocks_of(model: nn.Module, config: Any) -> dict[int, nn.Module]:
    """The decoder blocks that are on this worker, by their 0-based number in the whole model.

    Raises:
        SteerkitError: the model keeps them where steerkit doesn't look.
    """
    depth = int(config.num_hidden_layers)
    for name, module in model.named_modules():
        if name.rpartition(".")[2] in BLOCK_NAMES and isinstance(module, torch.nn.ModuleList) and len(module) == depth:
            # vLLM puts a PPMissingLayer where another pipeline stage has the block.
            return {i: block for i, block in enumerate(module) if type(block).__name__ != "PPMissingLayer"}
    raise SteerkitError(f"{type(model).__name__} has no list of {depth} decoder blocks under {', '.join(BLOCK_NAMES)}")
