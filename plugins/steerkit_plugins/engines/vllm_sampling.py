"""steerkit's sampling inside vLLM: logits / T + noise that is a function of (row key, step), then its argmax."""

from __future__ import annotations

from typing import Any

import torch
from vllm import SamplingParams
from vllm.v1.sample.logits_processor import BatchUpdate, LogitsProcessor
from vllm.v1.sample.logits_processor.builtin import process_dict_updates

from steerkit.noise import gumbel
from steerkit.sampling import STREAM

NOISE = "steerkit_noise"  # a request's entry in SamplingParams.extra_args: (row key, temperature)

State = tuple[int, float, list[int]]  # row key, temperature, and the ids that the request has so far


class PairedNoise(LogitsProcessor):
    """Requests are sampled greedily by vLLM; the noise is here, the same as in steerkit's own loop."""

    def __init__(self, vllm_config: Any, device: torch.device, is_pin_memory: bool) -> None:
        self.rows: dict[int, State] = {}

    def is_argmax_invariant(self) -> bool:
        return False

    def update_state(self, batch_update: BatchUpdate | None) -> None:
        process_dict_updates(self.rows, batch_update, self._state)

    def apply(self, logits: torch.Tensor) -> torch.Tensor:
        """[R, V] float32."""
        if not self.rows:
            return logits
        places = sorted(self.rows)
        states = [self.rows[place] for place in places]
        # Rows of one prompt and seed share their noise: it is drawn once for all conditions.
        wanted = [(key, len(ids)) for key, _, ids in states]
        unique = {pair: i for i, pair in enumerate(dict.fromkeys(wanted))}
        keys, steps = torch.tensor(list(unique), device=logits.device).unbind(1)
        noise = gumbel(keys, steps, stream=STREAM, size=logits.shape[-1])
        at = torch.tensor(places, device=logits.device)
        drawn = noise[torch.tensor([unique[pair] for pair in wanted], device=logits.device)]
        scale = torch.tensor([1 / temperature for _, temperature, _ in states], device=logits.device)
        logits[at] = drawn + logits[at] * scale[:, None]
        return logits

    @staticmethod
    def _state(params: SamplingParams, prompt: list[int] | None, ids: list[int]) -> State | None:
        given = (params.extra_args or {}).get(NOISE)
        return None if given is None else (int(given[0]), float(given[1]), ids)
