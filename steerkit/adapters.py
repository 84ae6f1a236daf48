"""PEFT adapters: put on a model with all of their tensors, their tokenizer and vocabulary, and never without effect."""

from __future__ import annotations

import copy
import logging
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steerkit.adapter_kinds import kind_of, refuse_kind
from steerkit.adapter_layout import Layout
from steerkit.block_output import hidden_of
from steerkit.errors import SteerkitError
from steerkit.hub import is_hub_id
from steerkit.load_errors import explained
from steerkit.loaded_weights import counted, reason_for
from steerkit.model import LanguageModel, adapter_state

if TYPE_CHECKING:
    from torch import Tensor

log = logging.getLogger("steerkit")
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
TRIED = 16  # tokens on which an adapter must change something


def with_adapter(lm: LanguageModel, adapter: str, *, trust_remote_code: bool = False) -> LanguageModel:
    """The reasoning model that an adapter makes of a base; the base's modules are wrapped in place.

    A tokenizer or chat template beside the adapter is taken, and a vocabulary of another size.

    Args:
        lm: the base.
        adapter: folder or hub id.

    Raises:
        SteerkitError: no adapter there, of a kind that doesn't work, made for another model, not whole, or one that
            changes nothing.
    """
    name = f"{lm.name}+{adapter}"
    config = adapter_config(adapter, lm.model)
    with explained(adapter):
        given = _tensors(adapter, lm.model)
    _tell_base(adapter, config, lm)
    rows = _fit_vocabulary(lm.model, given)
    model = _wrapped(adapter, lm, config)
    _check_tensors(adapter, model, config, given)
    _check_rows(adapter, model, rows)
    tokenizer = _tokenizer(adapter, lm.tokenizer, trust_remote_code)
    both = LanguageModel(name, model.eval(), tokenizer, adapter=True)
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


def check_effect(lm: LanguageModel) -> None:
    """Raises: SteerkitError when a model's adapter changes nothing, or changes what steerkit doesn't read."""
    import torch

    ids = tried_ids(lm)
    change, apart = effect(lm, [ids])
    if change == 0 and not _copies_differ(lm.model):
        raise SteerkitError(
            f"{lm.name}: the adapter changes nothing: logits are the same with and without it (an adapter that was "
            "never trained is like that)"
        )
    if not apart <= torch.finfo(torch.bfloat16).eps:
        raise SteerkitError(
            f"{lm.name}: the adapter acts outside the decoder that steerkit reads and steers: block outputs differ by "
            f"{apart:.2g}, relative"
        )


def effect(lm: LanguageModel, prompts: Sequence[Sequence[int]]) -> tuple[float, float]:
    """How much an adapter changes the logits, and how far the decoder run by itself is from the whole model's.

    Both relative L2 norms, the largest of all prompts; the second of the last block's outputs.
    """
    import torch

    on, off = LanguageModel(lm.name, lm.model, None, adapter=True), LanguageModel(lm.name, lm.model, None)
    change = apart = 0.0
    for prompt in prompts:
        ids = torch.tensor([list(prompt)], device=lm.device)
        with torch.inference_mode():
            with adapter_state(off):
                plain = lm.model(input_ids=ids, use_cache=False).logits
            with adapter_state(on):
                adapted, whole = _last_block(lm, lambda: lm.model(input_ids=ids, use_cache=False).logits)  # noqa: B023
                _, alone = _last_block(lm, lambda: lm.decoder(input_ids=ids, use_cache=False))  # noqa: B023
        change, apart = max(change, _distance(adapted, plain)), max(apart, _distance(alone, whole))
    return change, apart


def tried_ids(lm: LanguageModel) -> list[int]:
    """Ids from the whole vocabulary, and those that an adapter has vectors of its own for."""
    rows = lm.model.get_input_embeddings().weight.shape[0]
    own: list[int] = []
    for config in lm.model.peft_config.values():
        for option in ("token_indices", "trainable_token_indices"):
            listed = getattr(config, option, None) or []
            own += [i for part in listed.values() for i in part] if isinstance(listed, dict) else listed
    return [*own[:TRIED], *range(0, rows, max(1, rows // TRIED))]


def _last_block(lm: LanguageModel, run: Any) -> tuple[Any, Tensor]:
    seen: list[Tensor] = []
    handle = lm.blocks[-1].register_forward_hook(lambda module, args, output: seen.append(hidden_of(output)))
    try:
        return run(), seen[-1]
    finally:
        handle.remove()


def _distance(a: Tensor, b: Tensor) -> float:
    """Relative L2 distance; infinite for other shapes."""
    if a.shape != b.shape:
        return float("inf")
    size = (a - b).float().norm()
    return float(size / b.float().norm()) if size > 0 else 0.0


def _copies_differ(model: Any) -> bool:
    """Whether a module that the adapter holds a copy of (`modules_to_save`) was trained."""
    import torch

    for module in model.modules():
        copies = getattr(module, "modules_to_save", None)
        original = getattr(module, "original_module", None)
        if copies is None or original is None:
            continue
        own = dict(original.named_parameters())
        for trained in copies.values():
            if any(not torch.equal(value, own[key]) for key, value in trained.named_parameters() if key in own):
                return True
    return False


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


def _fit_vocabulary(model: Any, given: Mapping[str, Any]) -> int:
    """Make the base's vocabulary as large as the embedding that an adapter brings; the size that it had.

    New rows are NaN until the adapter's tensors take their place.
    """
    import torch

    before = int(model.get_input_embeddings().weight.shape[0])
    names = {id(module): path for path, module in model.named_modules()}
    layers = [layer for layer in (model.get_input_embeddings(), model.get_output_embeddings()) if layer is not None]
    keys = {f"base_model.model.{names[id(layer)]}.weight" for layer in layers}
    rows = {int(value.shape[0]) for key, value in given.items() if key in keys} - {before}
    if not rows:
        return before
    model.resize_token_embeddings(max(rows), mean_resizing=False)
    with torch.no_grad():
        for layer in (model.get_input_embeddings(), model.get_output_embeddings()):
            if layer is not None:
                layer.weight[before:] = float("nan")
    return before


def _check_rows(adapter: str, model: Any, before: int) -> None:
    """Raises: SteerkitError when rows that the vocabulary got for an adapter are not in it."""
    for layer in (model.get_input_embeddings(), model.get_output_embeddings()):
        if layer is not None and layer.weight[before:].isnan().any():
            raise SteerkitError(
                f"{adapter}: the adapter has a vocabulary of {layer.weight.shape[0]} tokens, and lacks the rows of the "
                "new ones in the embedding or in the head; save it with save_embedding_layers=True"
            )


def _tokenizer(adapter: str, own: Any, trust_remote_code: bool) -> Any:
    """The tokenizer beside an adapter, or the base's with the chat template beside it, or the base's."""
    from transformers import AutoTokenizer

    with explained(adapter):
        if any(_file(adapter, name) for name in ("tokenizer.json", "tokenizer_config.json")):
            found = AutoTokenizer.from_pretrained(adapter, trust_remote_code=trust_remote_code)
            if not found.is_fast:
                raise SteerkitError(f"{adapter}: its tokenizer is not a fast one; convert it with transformers first")
            return found
        if template := _file(adapter, "chat_template.jinja"):
            found = copy.deepcopy(own)
            found.chat_template = template.read_text(encoding="utf-8")
            return found
    return own


def _file(adapter: str, name: str) -> Path | None:
    """A file beside an adapter, here or on the hub."""
    if not is_hub_id(adapter):
        path = Path(adapter, name)
        return path if path.is_file() else None
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    try:
        return Path(hf_hub_download(adapter, name))
    except (EntryNotFoundError, LocalEntryNotFoundError):
        return None


def _tell_base(adapter: str, config: Any, lm: LanguageModel) -> None:
    """Log that an adapter names another base than the one it is put on; folders and hub ids by their last part."""
    made_for = str(config.base_model_name_or_path or "")
    if made_for and Path(made_for).name.lower() not in (Path(lm.name).name.lower(), Path(lm.source).name.lower()):
        log.warning("%s: says that it was made for %s; it is put on %s", adapter, made_for, lm.name)
