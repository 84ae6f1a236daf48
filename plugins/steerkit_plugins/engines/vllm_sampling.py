"""steerkit's sampling inside vLLM: logits / T + noise that is a function of (row key, step), then its argmax."""

from __future__ import annotations

from typing import Any

import torch
from vllm import SamplingParams
from vllm.v1.sample.logits_processor import BatchUpdate, LogitsProcessor
from vllm.v1.sample.logits_processor.builtin import process_dict_updates

from steerkit.generation.sampling import Sampler, Sampling

NOISE = "steerkit_noise"  # a request's entry in SamplingParams.extra_args: (row key, settings of its sampling)

State = tuple[int, Sampling, list[int]]  # row key, how it is sampled, and the ids that the request has so far


class PairedNoise(LogitsProcessor):
    """Requests are sampled greedily by vLLM; filters and noise are here, the same as in steerkit's own loop."""

    def __init__(self, vllm_config: Any, device: torch.device, is_pin_memory: bool) -> None:
        self.rows: dict[int, State] = {}
        self.samplers: dict[Sampling, Sampler] = {}

    def is_argmax_invariant(self) -> bool:
        return False

    def update_state(self, batch_update: BatchUpdate | None) -> None:
        process_dict_updates(self.rows, batch_update, self._state)

    def apply(self, logits: torch.Tensor) -> torch.Tensor:
        """[R, V] float32."""
        for sampling in {state[1] for state in self.rows.values()}:
            places = sorted(place for place, state in self.rows.items() if state[1] == sampling)
            sampler = self.samplers.setdefault(sampling, Sampler(sampling, logits.device))
            # A step of the sampler's is one of the batch; a row's own is how many ids it has.
            sampler.assign([self.rows[place][0] for place in places], [-len(self.rows[place][2]) for place in places])
            at = torch.tensor(places, device=logits.device)
            logits[at] = sampler.scores(logits[at], 0)
        return logits

    @staticmethod
    def _state(params: SamplingParams, prompt: list[int] | None, ids: list[int]) -> State | None:
        given = (params.extra_args or {}).get(NOISE)
        return None if given is None else (int(given[0]), Sampling(**given[1]), ids)
