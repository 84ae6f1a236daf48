"""Do hooks read and change what they should, where they should?"""

from __future__ import annotations

from typing import Any

from steerkit.checks.forward import distance, inputs_of, padded, running
from steerkit.checks.outcome import Measured
from steerkit.checks.outside import greedy_by_hf, hidden_states_by_hf
from steerkit.checks.probe import KINDS, Probe, alone
from steerkit.errors import SteerkitError
from steerkit.interventions.steering import Steering

NEW = 5  # tokens generated where positions are counted


def hidden_states(probe: Probe) -> Measured:
    """Activations that steerkit reads at every block, against the model's own `output_hidden_states`.

    Failure: a layer is off by one, or the hook reads another tensor than the residual stream. Vectors of this
    model would come from wrong places; do not extract.
    """
    lm, item = probe.lm, probe.items[1 % len(probe.items)]
    read = [alone(lm, [item], layer)[0] for layer in range(lm.depth)]
    told = hidden_states_by_hf(lm, item.ids)
    errors = [distance([found], [expected]) for found, expected in zip(read[:-1], told[:-1], strict=True)]
    with running(lm):
        last = distance([read[-1]], [told[-1]])  # a few models keep it before the final norm
        note = f"{lm.depth} blocks"
        try:
            last = min(last, distance([lm.final_norm(read[-1])], [told[-1]]))
        except SteerkitError as error:
            if last > probe.tolerance:
                last, note = 0.0, f"{lm.depth - 1} blocks; not the last one: {error}"
    return Measured(max([*errors, last]), probe.tolerance, note)


def edit_lands(probe: Probe) -> Measured:
    """What the next block is given, steered minus unsteered: norm · v̂ at the steered tokens, 0 elsewhere.

    Each layer in a left-padded batch, rows with tokens: all, prompt and generated. Relative to the activations.
    Failure: the hook does not fire, the edit goes to another block or to other tokens (padding, the prompt's end),
    or is not what was asked for. Do not steer this model.
    """
    import torch

    lm, rows = probe.lm, len(probe.together)
    inputs = padded(lm, probe.together)
    mask = inputs["attention_mask"].cpu()
    position = inputs["position_ids"].cpu()
    lengths = [len(prompt) // 2 for prompt in probe.together]
    is_prompt = position < torch.tensor(lengths)[:, None]
    wants = {"all": mask > 0, "prompt": (mask > 0) & is_prompt, "generated": (mask > 0) & ~is_prompt}
    after = {layer: lm.blocks[layer + 1] if layer + 1 < lm.depth else _final_norm(probe) for layer in probe.layers}
    after = {layer: module for layer, module in after.items() if module is not None}
    if not after:
        raise SteerkitError("nothing follows the last block that steerkit knows of: name other --layers")
    watched = {**{-1 - layer: lm.blocks[layer] for layer in after}, **after}
    worst = 0.0
    with inputs_of(watched) as bare, running(lm):
        lm.model(**inputs, use_cache=False)
    for turn, layer in enumerate(after):
        kinds = [KINDS[(turn + row) % len(KINDS)] for row in range(rows)]
        edits = [probe.edit(layer, 1.0, kind) for kind in kinds]
        with inputs_of(watched) as seen, running(lm), Steering(lm, edits, lengths):
            lm.model(**inputs, use_cache=False)
        if not {layer, -1 - layer} <= seen.keys() & bare.keys():
            raise SteerkitError(f"hooks on block {layer} or on what follows it do not fire")
        keep = torch.stack([wants[kind][row] for row, kind in enumerate(kinds)])
        expected = keep[..., None] * probe.norm(layer) * probe.direction(layer)
        size = bare[layer].norm(dim=-1) + probe.norm(layer)
        off = (seen[layer] - bare[layer] - expected).norm(dim=-1) / size
        before = (seen[-1 - layer] - bare[-1 - layer]).norm(dim=-1) / size
        worst = max([worst, *torch.nan_to_num(torch.stack([off, before]), nan=float("inf")).flatten().tolist()])
    return Measured(worst, 4 * torch.finfo(probe.dtype).eps, f"{len(after)} of {len(probe.layers)} layers, {rows} rows")


def positions_counted(probe: Probe) -> Measured:
    """Steered positions that steerkit counts in `model.generate`, against those there are (tokens).

    A left-padded batch; tokens: all is every real prompt token and each decoded one, prompt and generated are
    their parts. The unit is positions.
    Failure: the prompt's end or the padding is misread, so `tokens: prompt` and `generated` steer other tokens
    than they say.
    """
    rows, real = len(probe.together), sum(map(len, probe.together))
    decoded = rows * (NEW - 1)  # the last token that is chosen is never read
    expected = {"all": real + decoded, "prompt": real, "generated": decoded}
    worst = 0
    for kind in KINDS:
        edits = [probe.edit(probe.layers[0], 1.0, kind)] * rows
        with Steering(probe.lm, edits) as steering:
            greedy_by_hf(probe.lm, probe.together, NEW, to_the_end=True)
        worst = max(worst, abs(steering.steered - expected[kind]))
    return Measured(worst, 0, ", ".join(f"{kind} {count}" for kind, count in expected.items()))


def read_padded(probe: Probe) -> Measured:
    """Activations of traces read in one right-padded batch, against each trace alone.

    Failure: padding leaks into real tokens. Extract with `batch_tokens: 1`, which pads nothing.
    """
    from steerkit.extraction.extract import read_layer

    worst = 0.0
    for layer in probe.layers:
        for batch, hidden in read_layer(probe.lm, probe.items, layer):
            for item, row in zip(batch, hidden, strict=True):
                number = probe.items.index(item)
                worst = max(worst, distance([row[: len(item.ids)]], [probe.states[layer][number]]))
    return Measured(worst, probe.tolerance, f"{len(probe.items)} traces, {len(probe.layers)} layers")


def _final_norm(probe: Probe) -> Any:
    try:
        return probe.lm.final_norm
    except SteerkitError:
        return None
