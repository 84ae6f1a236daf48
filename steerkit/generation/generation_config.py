"""Sampling as a model's maker sets it: what its generation_config says, or why that can't be followed."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from steerkit.errors import InputError, SteerkitError
from steerkit.generation.sampling import Sampling

if TYPE_CHECKING:
    from steerkit.models.language_model import LanguageModel


class Wanted(Protocol):
    """How sampling is asked for: settings, or the word that the model's own are taken."""

    @property
    def sampling(self) -> str: ...
    @property
    def temperature(self) -> float: ...
    @property
    def top_k(self) -> int | None: ...
    @property
    def top_p(self) -> float | None: ...
    @property
    def min_p(self) -> float | None: ...


TAKEN = ("temperature", "top_k", "top_p", "min_p")
NOT_APPLIED: dict[str, tuple[Any, ...]] = {
    "repetition_penalty": (1,),
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "encoder_repetition_penalty": (1,),
    "no_repeat_ngram_size": (0,),
    "encoder_no_repeat_ngram_size": (0,),
    "typical_p": (1,),
    "top_h": (),
    "epsilon_cutoff": (0,),
    "eta_cutoff": (0,),
    "bad_words_ids": ([],),
    "suppress_tokens": ([],),
    "begin_suppress_tokens": ([],),
    "sequence_bias": ([], {}),
    "forced_bos_token_id": (),
    "forced_eos_token_id": (),
    "force_words_ids": ([],),
    "constraints": ([],),
    "exponential_decay_length_penalty": (),
    "min_length": (0,),
    "min_new_tokens": (0,),
    "stop_strings": ([], ""),
    "guidance_scale": (1,),
    "num_beams": (1,),
    "penalty_alpha": (0,),
    "dola_layers": (),
    "token_healing": (False,),
    "watermarking_config": (),
}
"""Settings that change which texts a model writes and that steerkit does not apply → values that change nothing."""


def sampling_for(args: Wanted, name: str, config: Callable[[], Any]) -> Sampling:
    """How a run's texts are sampled.

    Args:
        name: of the model whose own settings may be asked for.
        config: gives its generation_config, or None; called for ``sampling: model`` alone.

    Raises:
        SteerkitError: see `sampling_of`.
    """
    if args.sampling == "model":
        return sampling_of(config(), name)
    return Sampling(temperature=args.temperature, top_k=args.top_k, top_p=args.top_p, min_p=args.min_p)


def sampling_with(args: Wanted, lm: LanguageModel) -> Sampling:
    """The same of a model that is loaded. Raises: SteerkitError as `sampling_of`."""
    return sampling_for(args, lm.name, lambda: getattr(lm.model, "generation_config", None))


def sampling_of(config: Any, name: str) -> Sampling:
    """temperature, top_k, top_p and min_p of a transformers GenerationConfig; ``do_sample: false`` is greedy.

    What it leaves out is off (temperature 1): transformers' defaults, ``top_k: 50`` above all, are not the maker's.

    Args:
        config: of the model; None when it has none.
        name: of the model, for errors.

    Raises:
        SteerkitError: it says nothing about sampling, sets what steerkit does not apply, or has impossible values.
    """
    said = {k: v for k, v in config.to_diff_dict().items() if v is not None} if config is not None else {}
    found = {key: said[key] for key in TAKEN if key in said}
    if not found and "do_sample" not in said:
        raise SteerkitError(
            f"{name} has no sampling settings of its own (none were found in a generation_config.json): give "
            "temperature, and top_k, top_p or min_p, yourself"
        )
    if said.get("do_sample") is False:
        found = {"temperature": 0}
    elif found.get("top_k") in (0, -1):  # off, in transformers and in vLLM
        del found["top_k"]
    try:
        sampling = Sampling.of(**{"temperature": 1.0, **found})
    except InputError as error:
        raise InputError(f"{name}: sampling settings of its generation_config", error.problems) from error
    others = {key: said[key] for key, neutral in NOT_APPLIED.items() if key in said and said[key] not in neutral}
    if others:
        listed = ", ".join(f"{key} {str(value)[:40]}" for key, value in others.items())
        instead = ", ".join(f"{key}: {value:g}" for key, value in sampling.model_dump(exclude_none=True).items())
        raise SteerkitError(
            f"{name}: its generation_config also sets {listed}, which steerkit does not apply; to sample without that, "
            f"give {instead} yourself, in place of the model's own settings"
        )
    return sampling
