"""Did the files hold this model's weights, all of them and nothing else? What they lack would be random."""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from steerkit.errors import SteerkitError

log = logging.getLogger("steerkit")
SHOWN = 3  # names in a message

LEFT_OUT = {
    "another modality's encoder": re.compile(
        r"(^|\.)(vision\w*|visual|vit|multi_modal_projector|mm_projector|image_newline|audio\w*|embed_audio|"
        r"speech_\w+)(\.|$)"
    ),
    "heads that predict further tokens": re.compile(r"(^|\.)(mtp\w*|nextn)(\.|$)"),
    "a value or classification head": re.compile(r"^(v_head|value_head|score|classifier)\."),
    "buffers that are computed": re.compile(r"(inv_freq|position_ids|\.masked_bias)$"),
}
"""What a text model does without."""

WRAPPERS = {
    "_orig_mod.": "torch.compile",
    "_fsdp_wrapped_module.": "FSDP",
    "_checkpoint_wrapped_module.": "activation checkpointing",
    "module.": "DistributedDataParallel or DeepSpeed",
}
_BLOCK = re.compile(r"(?:^|\.)(?:layers|h|blocks)\.(\d+)\.")


def check_loaded(name: str, model: Any, info: Mapping[str, Any]) -> None:
    """Hold transformers' loading report (`output_loading_info`) against the model.

    What a text model does without (a vision tower, say) is logged.

    Raises:
        SteerkitError: tensors missing, unknown or of another shape, a few of them named, with the likely reason.
    """
    missing, unknown = sorted(info["missing_keys"]), sorted(info["unexpected_keys"])
    left_out = _left_out(unknown, model)
    unknown = [key for key in unknown if key not in left_out]
    mismatched = sorted(info.get("mismatched_keys", ()))
    errors = [str(error) for error in info.get("error_msgs", ())]
    found = [
        counted(missing, "missing, and would be random"),
        counted(unknown, "unknown to the model"),
        counted(
            [f"{key} is {_shape(there)} and not {_shape(here)}" for key, there, here in mismatched], "of another shape"
        ),
        *errors[:SHOWN],
    ]
    if lines := [line for line in found if line]:
        reason = reason_for(missing, unknown) or _blocks(model, missing, unknown) or _hint(missing, mismatched)
        raise SteerkitError(
            f"{name}: the weights are not those of the {type(model).__name__} that its configuration describes\n  "
            + "\n  ".join([*lines, reason])
        )
    for what, count in Counter(left_out.values()).items():
        log.warning("%s: %d tensor%s left out: %s", name, count, "s are" if count > 1 else " is", what)


@contextmanager
def loading_report(name: str) -> Iterator[None]:
    """Inside, transformers' own report is kept off the terminal: `check_loaded` says what matters in it.

    Raises:
        SteerkitError: tensors could not be turned into the model's; they are named in the report alone.
    """
    source = logging.getLogger("transformers.modeling_utils")
    told: list[str] = []
    level, shown = source.level, source.getEffectiveLevel()  # a quiet transformers writes no report at all

    def keep(record: logging.LogRecord) -> bool:
        text = record.getMessage()
        if "LOAD REPORT" not in text:
            return record.levelno >= shown
        told.extend(line.partition("|")[0].strip() for line in text.splitlines() if "| CONVERSION" in line)
        return False

    source.addFilter(keep)
    if shown > logging.WARNING:
        source.setLevel(logging.WARNING)
    try:
        yield
    except RuntimeError as error:
        if not told:
            raise
        raise SteerkitError(f"{name}: {counted(told, 'not stored as this model needs them')}") from error
    finally:
        source.removeFilter(keep)
        source.setLevel(level)


def check_in_memory(name: str, model: Any) -> None:
    """Raises: SteerkitError when a model has parameters without values (on `meta`, and nowhere offloaded)."""
    from accelerate.utils.modeling import has_offloaded_params

    empty = [
        f"{path}.{own}" if path else own
        for path, module in model.named_modules()
        if not has_offloaded_params(module)
        for own, value in module.named_parameters(recurse=False)
        if value.device.type == "meta"
    ]
    if empty:
        raise SteerkitError(
            f"{name}: {counted(empty, 'without values (on the device `meta`)')}; load the weights first"
        )


def reason_for(missing: Sequence[str], unknown: Sequence[str]) -> str:
    """Why names don't match, where a prefix or a wrapper in them explains most of it; else empty."""
    if not missing or not unknown:
        return ""
    wanted = set(missing)
    for wrapper, maker in WRAPPERS.items():
        plain = {key.replace(wrapper, "") for key in unknown if wrapper in key}
        if len(plain & wanted) > len(wanted) / 2:
            return (
                f"their names hold `{wrapper}`: they were saved while wrapped by {maker}; save the model inside it "
                "(accelerate's unwrap_model), or rename the tensors"
            )
    for ours, theirs, which in ((missing, unknown, "begin with"), (unknown, missing, "lack")):
        prefix, count = _prefix(ours, theirs)
        if count > len(missing) / 2:
            return f"their names {which} `{prefix}`: they were saved from another module; rename the tensors"
    return ""


def _prefix(short: Iterable[str], long: Iterable[str]) -> tuple[str, int]:
    """What most of the long names have before a short one, and how many."""
    ends = set(short)
    found: Counter[str] = Counter()
    for key in long:
        places = [at for at, mark in enumerate(key) if mark == "."]
        found.update(key[: at + 1] for at in places if key[at + 1 :] in ends)
    return found.most_common(1)[0] if found else ("", 0)


def _blocks(model: Any, missing: Sequence[str], unknown: Sequence[str]) -> str:
    """Whole blocks that one side has and the other lacks, in words; else empty."""
    held = Counter(_block(key) for key in model.state_dict())
    depth = 1 + max((block for block in held if block is not None), default=-1)
    lacking = Counter(map(_block, missing))
    lost = sorted(block for block, count in lacking.items() if block is not None and count == held[block])
    more = {block for block in map(_block, unknown) if block is not None and block >= depth}
    if more:
        return f"the configuration has {depth} blocks, the weights have {max(more) + 1}"
    if not lost:
        return ""
    if lost == list(range(depth - len(lost), depth)):
        return f"the configuration has {depth} blocks, the weights have {depth - len(lost)}"
    return f"block {', '.join(map(str, lost))} is not in the files: fetch them again"


def _hint(missing: Sequence[str], mismatched: Collection[Any]) -> str:
    if len(missing) == 1 and missing[0].startswith(("lm_head.", "embed_out.")):
        return "if the head is the embedding, its config.json must say tie_word_embeddings: true"
    if mismatched and not missing:
        return "config.json is another model's, or was edited"
    return "the files are not whole, or config.json is another model's: fetch them again"


def _left_out(unknown: Iterable[str], model: Any) -> dict[str, str]:
    """The names that a text model does without, each with what it is."""
    config = model.config.get_text_config(decoder=True)
    depth = getattr(config, "num_hidden_layers", 0)
    further = range(depth, depth + (getattr(config, "num_nextn_predict_layers", None) or 0))
    found = {}
    for key in unknown:
        what = next((what for what, pattern in LEFT_OUT.items() if pattern.search(key)), "")
        if _block(key) in further:
            what = "heads that predict further tokens"
        if what:
            found[key] = what
    return found


def _block(key: str) -> int | None:
    found = _BLOCK.search(key)
    return int(found[1]) if found else None


def counted(keys: Sequence[str], what: str) -> str:
    """``9 tensors are missing: a, b, c, ...``; empty without keys."""
    if not keys:
        return ""
    names = ", ".join(keys[:SHOWN]) + (", ..." if len(keys) > SHOWN else "")
    return f"{len(keys)} tensor{'s are' if len(keys) > 1 else ' is'} {what}: {names}"


def _shape(sizes: Iterable[int]) -> str:
    return " × ".join(map(str, sizes)) or "a number"
