"""PEFT adapters: put on a model with all of their tensors, their tokenizer and vocabulary, and never without effect."""

from __future__ import annotations

import json
import logging
import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from steerkit.errors import SteerkitError
from steerkit.models.adapter_effect import check_effect
from steerkit.models.adapter_kinds import kind_of, refuse_kind
from steerkit.models.adapter_layout import Layout
from steerkit.models.adapter_vocabulary import beside, check_rows, fit_vocabulary, tokenizer_of
from steerkit.models.hub import is_hub_id
from steerkit.models.language_model import LanguageModel
from steerkit.models.load_errors import explained
from steerkit.models.loaded_weights import counted, reason_for

log = logging.getLogger("steerkit")
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


def with_adapter(
    lm: LanguageModel, adapter: str, *, trust_remote_code: bool = False, must_change: bool = True
) -> LanguageModel:
    """The reasoning model that an adapter makes of a base; the base's modules are wrapped in place.

    A tokenizer or chat template beside the adapter is taken, and a vocabulary of another size.

    Args:
        lm: the base.
        adapter: folder or hub id.
        must_change: whether one that changes nothing is an error. A training that this run has done itself may end
            where it began.

    Raises:
        SteerkitError: no adapter there, of a kind that doesn't work, made for another model, not whole, or one that
            changes nothing.
    """
    name = f"{lm.name}+{adapter}"
    config = adapter_config(adapter, lm.model)
    with explained(adapter):
        given = _tensors(adapter, lm.model)
    _tell_base(adapter, config, lm)
    rows = fit_vocabulary(lm.model, config, given)
    model = _wrapped(adapter, lm, config)
    _check_tensors(adapter, model, config, given)
    check_rows(adapter, model, rows)
    tokenizer = tokenizer_of(adapter, lm.tokenizer, trust_remote_code)
    both = LanguageModel(name, model.eval(), tokenizer, adapter=True)
    if must_change:
        with explained(adapter):
            check_effect(both)
    return both


def adapter_config(adapter: str, base: Any = None) -> Any:
    """An adapter's configuration, its kind and options checked.

    Args:
        adapter: folder or hub id.
        base: the model that it is put on; whether it is offloaded, or in half precision, matters to some kinds.

    Raises:
        SteerkitError: no adapter there, or of a kind that doesn't work.
    """
    from peft import PeftConfig

    weights = list(base.parameters()) if base is not None else []
    with explained(adapter):
        file = beside(adapter, CONFIG)
        if file is None:
            raise OSError(f"there is no {CONFIG}, so it is no adapter")
        told = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(told, dict) or not isinstance(told.get("peft_type"), str):
            raise ValueError(f"its {CONFIG} names no peft_type, so it is no adapter of PEFT's")
        refuse_kind(adapter, [SimpleNamespace(**told)])  # before PEFT, which may not know the kind either
        config = PeftConfig.from_pretrained(adapter)
    offloaded = any(weight.device.type == "meta" for weight in weights)
    refuse_kind(adapter, [config], offloaded=offloaded, half=any(w.dtype.itemsize == 2 for w in weights[:1]))
    return config


def merged_model(model: Any, name: str) -> Any:
    """A PEFT model's base with the adapter in its weights, which are changed.

    Raises:
        SteerkitError: PEFT can't merge this kind.
    """
    try:
        return model.merge_and_unload()
    except (AttributeError, NotImplementedError, RuntimeError, ValueError) as error:
        told = str(error).strip().splitlines() or [type(error).__name__]
        raise SteerkitError(f"{name}: PEFT can't merge this adapter into the weights ({told[0]})") from error


def _tensors(adapter: str, base: Any) -> dict[str, Any]:
    """The adapter's file. Raises: OSError when its weights are there as pickle alone, which PEFT would read."""
    from peft import load_peft_weights

    if is_hub_id(adapter):
        from huggingface_hub import hf_hub_download

        hf_hub_download(adapter, WEIGHTS)
    elif not (Path(adapter) / WEIGHTS).is_file():
        raise OSError(f"the adapter has no {WEIGHTS}, and weights are not read from pickle")
    found: dict[str, Any] = load_peft_weights(
        adapter, device="cpu", key_mapping=getattr(base, "_checkpoint_conversion_mapping", None)
    )
    return found


def _wrapped(adapter: str, lm: LanguageModel, config: Any) -> Any:
    from peft import PeftModel

    with explained(adapter), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Found missing adapter keys")  # `_check_tensors` refuses them
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)  # PEFT's own use
        try:
            return PeftModel.from_pretrained(lm.model, adapter, **_places(lm.model))
        except KeyError as error:
            raise SteerkitError(
                f"{adapter}: the adapter's {WEIGHTS} lacks {error}, which its {CONFIG} names"
            ) from error
        except RuntimeError as error:
            lines = [line.strip() for line in str(error).splitlines() if "size mismatch" in line]
            if not lines:
                raise
            made_for = config.base_model_name_or_path or "another model"
            raise SteerkitError(
                f"{adapter}: the adapter does not fit {lm.name}: it was made for {made_for}\n  {len(lines)} tensors of "
                f"another shape, the first: {lines[0].removeprefix('size mismatch for ')}"
            ) from error


def _places(base: Any) -> dict[str, Any]:
    """Where accelerate keeps a base's modules, as PEFT takes it; it would find places of its own."""
    own = getattr(base, "hf_device_map", None) or {}
    found: dict[str, Any] = {}
    if {"cpu", "disk"} & set(map(str, own.values())):
        found["device_map"] = {f"base_model.model.{path}" if path else "": place for path, place in own.items()}
    if "disk" in own.values():  # the files that are there already are read; nothing is written to it
        found["offload_folder"] = str(Path(tempfile.gettempdir()) / "steerkit-offloaded")
    return found


def _check_tensors(adapter: str, model: Any, config: Any, given: Mapping[str, Any]) -> None:
    """Raises: SteerkitError when tensors of the adapter were not in its file, or the file's had no place."""
    from peft import set_peft_model_state_dict
    from peft.mapping import PEFT_TYPE_TO_PREFIX_MAPPING

    kind = kind_of(config)
    result = set_peft_model_state_dict(model, dict(given))  # once more, for what it reports
    layout, state, prefix = Layout(model), model.state_dict(), PEFT_TYPE_TO_PREFIX_MAPPING.get(kind) or ""
    read = {_place(state, key) for key in state.keys() - set(result.missing_keys)}
    missing = [
        key
        for key in result.missing_keys
        if layout.plain(key) is None and prefix in key and _place(state, key) not in read  # some share their values
    ]
    # Where PEFT saves embeddings, it saves the copies of `modules_to_save` a second time, under the wrapper's names.
    unknown = [key for key in result.unexpected_keys if key.replace("modules_to_save.", "") not in given.keys() - {key}]
    if not missing and not unknown:
        return
    ours, theirs = ([key.replace(".default", "") for key in keys] for keys in (missing, unknown))
    lines = [counted(ours, "not in its file, and would be random"), counted(theirs, "in its file alone")]
    reason = reason_for(ours, theirs) or "its configuration and its tensors are not of one adapter, or of another base"
    raise SteerkitError(
        f"{adapter}: the adapter does not match the model\n  " + "\n  ".join(filter(None, [*lines, reason]))
    )


def _place(state: Mapping[str, Any], key: str) -> Any:
    return state[key].data_ptr() or key  # offloaded tensors have none


def _tell_base(adapter: str, config: Any, lm: LanguageModel) -> None:
    """Log that an adapter names another base than the one it is put on; folders and hub ids by their last part."""
    made_for = str(config.base_model_name_or_path or "")
    if made_for and Path(made_for).name.lower() not in (Path(lm.name).name.lower(), Path(lm.origin).name.lower()):
        log.warning("%s: says that it was made for %s; it is put on %s", adapter, made_for, lm.name)
