"""Checkpoints in the form of the paper's authors (github.com/nathanhu0/transcoder-adapters), to an adapter and back.

Theirs is a whole model: the hybrid's weights under transformers' names, and beside each MLP's projections
`transcoder_enc` and `transcoder_dec`. Its configuration is the hybrid's with `transcoder_n_features` and
`transcoder_dec_bias`.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steerkit.errors import SteerkitError
from steerkit.models.adapters import CONFIG, WEIGHTS
from steerkit.store.files import write_json
from steerkit_plugins.transcoder.kind import KIND

if TYPE_CHECKING:
    from torch import Tensor

    from steerkit.models.language_model import LanguageModel

log = logging.getLogger("steerkit")

THEIRS = {
    "transcoder_enc.weight": "encoder.weight",
    "transcoder_enc.bias": "encoder.bias",
    "transcoder_dec.weight": "decoder.weight",
    "transcoder_dec.bias": "decoder.bias",
}
"""Their names of a block's tensors → ours."""
FEATURES, BIAS = "transcoder_n_features", "transcoder_dec_bias"
SUFFIX = "WithTranscoder"
"""What their class of the model has behind transformers' name."""
INDEX, SINGLE = "model.safetensors.index.json", "model.safetensors"
_OWN = re.compile(r"(?P<mlp>.+)\.(?P<name>transcoder_[a-z]+\.[a-z]+)$")


@dataclass(frozen=True)
class Imported:
    """What a checkpoint held.

    Attributes:
        blocks: with a transcoder each.
        features: of a block.
        decoder_bias: whether decoders have one.
        differing: weights that are not the hybrid's, by name; empty where none was given.
    """

    blocks: int
    features: int
    decoder_bias: bool
    differing: tuple[str, ...]


def import_checkpoint(source: Path, folder: Path, *, hybrid: LanguageModel | None = None) -> Imported:
    """Write the transcoders of a checkpoint as an adapter that `adapter:` takes, numbers and number format as they are.

    Args:
        source: folder of the checkpoint, in one file or in shards.
        folder: where the adapter goes.
        hybrid: the model that it will be put on; the checkpoint's other weights are held against it, tensor by tensor.

    Raises:
        SteerkitError: the folder holds no such checkpoint, or not all of its tensors, or ones of other names or shapes.
    """
    from safetensors.torch import save_file

    told = _configuration(source)
    own, differing, kept = dict[str, Any](), list[str](), _state(hybrid)
    for name, tensor in _tensors(source):
        if "transcoder" in name:
            own[name] = tensor
        elif kept is not None and not _same(kept.pop(name, None), tensor):
            differing.append(name)
    tied = {"lm_head.weight"} if told.get("tie_word_embeddings") else set()
    differing += sorted(set(kept or ()) - tied)
    mlps = _checked(source, own, told)
    folder.mkdir(parents=True, exist_ok=True)
    renamed = {f"base_model.model.{_our_name(name)}": tensor.contiguous() for name, tensor in own.items()}
    save_file(renamed, folder / WEIGHTS)
    write_json(
        folder / CONFIG,
        {
            "base_model_name_or_path": hybrid.name if hybrid else str(told.get("_name_or_path") or ""),
            "decoder_bias": bool(told[BIAS]),
            "features": int(told[FEATURES]),
            "inference_mode": True,
            "peft_type": KIND,
            "scale": 1.0,
            "target_modules": mlps,
            "task_type": "CAUSAL_LM",
        },
    )
    if differing:
        named = hybrid.name if hybrid else ""
        log.warning("%s: %d weights are not those of %s: %s", source, len(differing), named, differing[0])
    return Imported(len(mlps), int(told[FEATURES]), bool(told[BIAS]), tuple(differing))


def export_checkpoint(adapter: Path, hybrid: LanguageModel, folder: Path, *, max_shard_size: str = "5GB") -> None:
    """Write a hybrid and an adapter on it as one checkpoint of their form.

    A scale other than 1, which their form does not have, goes into the decoders.

    Args:
        adapter: folder of a saved adapter.
        hybrid: the model that it was trained on, without it.

    Raises:
        SteerkitError: the folder holds no such adapter, or a block has no transcoder, which theirs all have.
    """
    from huggingface_hub import save_torch_state_dict
    from safetensors.torch import load_file

    told = _json(adapter / CONFIG) if (adapter / CONFIG).is_file() else {}
    if told.get("peft_type") != KIND:
        raise SteerkitError(f"{adapter}: holds no transcoder adapter")
    ours = {name: theirs for theirs, name in THEIRS.items()}
    state, config = dict(hybrid.transformer.state_dict()), hybrid.transformer.config.to_dict()
    for name, tensor in load_file(adapter / WEIGHTS).items():
        mlp, _, kind = name.removeprefix("base_model.model.").partition(".transcoder_parts.")
        scaled = kind.startswith("decoder") and told["scale"] != 1
        state[f"{mlp}.{ours[kind]}"] = told["scale"] * tensor if scaled else tensor
    config |= {FEATURES: told["features"], BIAS: told["decoder_bias"]}
    config["architectures"] = [f"{type(hybrid.transformer).__name__}{SUFFIX}"]
    _checked(adapter, {name: tensor for name, tensor in state.items() if "transcoder" in name}, config)
    if config.get("tie_word_embeddings"):
        state.pop("lm_head.weight", None)
    folder.mkdir(parents=True, exist_ok=True)
    save_torch_state_dict(state, folder, max_shard_size=max_shard_size)
    write_json(folder / "config.json", config)


def _configuration(source: Path) -> dict[str, Any]:
    path = source / "config.json"
    told = _json(path) if path.is_file() else {}
    if FEATURES not in told:
        raise SteerkitError(
            f"{source}: is no checkpoint of the authors' form: its config.json has no {FEATURES}. An adapter of "
            f"steerkit's (a folder with {CONFIG}) needs no import"
        )
    return {BIAS: False, **told}


def _tensors(source: Path) -> Iterator[tuple[str, Tensor]]:
    """Each tensor of a checkpoint by its name, one at a time."""
    from safetensors import safe_open

    index = source / INDEX
    files = sorted(set(_json(index)["weight_map"].values())) if index.is_file() else [SINGLE]
    for file in files:
        if not (source / file).is_file():
            raise SteerkitError(f"{source}: has no {file}; weights are read from safetensors alone")
        with safe_open(source / file, framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118  (no mapping)
                yield name, tensors.get_tensor(name)


def _json(path: Path) -> Any:
    """Raises: SteerkitError when it is no JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise SteerkitError(f"{path}: is no JSON: {error}") from error


def _state(hybrid: LanguageModel | None) -> dict[str, Tensor] | None:
    return None if hybrid is None else dict(hybrid.transformer.state_dict())


def _same(own: Tensor | None, tensor: Tensor) -> bool:
    """Whether a weight is the same in the checkpoint's number format."""
    if own is None or own.shape != tensor.shape:
        return False
    return bool((own.to(tensor.dtype).cpu() == tensor).all())


def _our_name(name: str) -> str:
    found = _OWN.match(name)
    assert found  # `_checked` has seen to it
    return f"{found['mlp']}.transcoder_parts.{THEIRS[found['name']]}"


def _checked(source: Path, own: Mapping[str, Tensor], told: Mapping[str, Any]) -> list[str]:
    """Names of the MLPs. Raises: SteerkitError for names and shapes that are not of the form, all of them."""
    width, features, blocks = int(told["hidden_size"]), int(told[FEATURES]), int(told["num_hidden_layers"])
    shapes = {
        "transcoder_enc.weight": (features, width),
        "transcoder_enc.bias": (features,),
        "transcoder_dec.weight": (width, features),
        **({"transcoder_dec.bias": (width,)} if told[BIAS] else {}),
    }
    by_mlp: dict[str, dict[str, tuple[int, ...]]] = {}
    unknown = []
    for name, tensor in own.items():
        found = _OWN.match(name)
        if found and shapes.get(found["name"]) == tuple(tensor.shape):
            by_mlp.setdefault(found["mlp"], {})[found["name"]] = tuple(tensor.shape)
        else:
            unknown.append(f"{name} {list(tensor.shape)}")
    missing = [f"{mlp}.{name}" for mlp, there in by_mlp.items() for name in shapes if name not in there]
    if unknown or missing or len(by_mlp) != blocks:
        wrong = [f"{each} is not expected" for each in unknown[:4]] + [f"{each} is missing" for each in missing[:4]]
        wrong += [f"{len(by_mlp)} of {blocks} blocks have a transcoder"] if len(by_mlp) != blocks else []
        raise SteerkitError(f"{source}: not the transcoders that its configuration names: {'; '.join(wrong)}")
    return sorted(by_mlp, key=lambda name: [int(part) for part in name.split(".") if part.isdecimal()])
