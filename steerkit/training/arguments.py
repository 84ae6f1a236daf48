"""transformers' TrainingArguments: which of them are the user's, and whether their values can be meant."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import fields
from enum import EnumType
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args, get_type_hints

from steerkit.errors import InputError, Problem, SteerkitError, nearest

if TYPE_CHECKING:
    import torch
    from transformers import TrainingArguments

DEFAULTS: dict[str, Any] = {
    "optim": "adamw_torch",
    "logging_steps": 1,
    "save_strategy": "steps",
    "save_steps": 0.1,
    "save_total_limit": 2,
    "ddp_find_unused_parameters": False,
}
"""Where they differ from transformers': the optimizer that every machine has, each step in the log, ten checkpoints
over the training of which the last two are kept, and no search for parameters that an objective leaves unused."""

_EVALUATION = "held-out rows are given as held_out, and measured before and after"
_PUSHING = "push what `Trained.save` writes"
_EXACT = "a training that goes on from a checkpoint would end in other weights"
_SHARDED = "weights in shards are not supported; torchrun with a whole model in each process is"
OWNED = {
    "output_dir": "it is the argument folder",
    "seed": "it is the argument seed",
    "data_seed": "the order of the rows follows the argument seed",
    "report_to": "the log is in what `train` returns",
    "disable_tqdm": "`train` takes a progress function",
    "remove_unused_columns": "steerkit makes the batches",
    "label_names": "steerkit makes the batches",
    "use_cache": "training reads whole texts",
    "average_tokens_across_devices": "learned tokens are counted over all processes",
    "logging_nan_inf_filter": "a loss that is not finite ends the training",
    "resume_from_checkpoint": "the last whole checkpoint in folder is gone on from",
    "label_smoothing_factor": "the loss is the objective's",
    "neftune_noise_alpha": "noise on embeddings is an intervention; give it as an edit",
    "use_liger_kernel": "it replaces the logits that objectives read",
    "torch_compile": "hooks of interventions would not run in compiled code",
    **dict.fromkeys(("do_train", "do_eval", "do_predict", "eval_on_start"), _EVALUATION),
    **dict.fromkeys(("eval_strategy", "eval_steps", "eval_delay", "per_device_eval_batch_size"), _EVALUATION),
    **dict.fromkeys(("load_best_model_at_end", "metric_for_best_model", "greater_is_better"), _EVALUATION),
    **dict.fromkeys(("push_to_hub", "hub_token", "hub_model_id", "hub_strategy", "hub_private_repo"), _PUSHING),
    **dict.fromkeys(("save_only_model", "ignore_data_skip", "auto_find_batch_size"), _EXACT),
    **dict.fromkeys(("restore_callback_states_from_checkpoint", "enable_jit_checkpoint"), _EXACT),
    **dict.fromkeys(("fsdp", "fsdp_config", "deepspeed", "parallelism_config"), _SHARDED),
}
"""Arguments that steerkit sets or does without → why."""

HOW = frozenset(
    {
        "save_strategy",
        "save_steps",
        "save_total_limit",
        "logging_strategy",
        "logging_steps",
        "logging_first_step",
        "dataloader_num_workers",
        "dataloader_pin_memory",
        "dataloader_persistent_workers",
        "dataloader_prefetch_factor",
        "log_level",
        "skip_memory_metrics",
        "use_cpu",
        "ddp_find_unused_parameters",
    }
)
"""Arguments that leave the weights alone: a checkpoint is gone on from when they differ."""

_LEAST = {
    "per_device_train_batch_size": 1,
    "gradient_accumulation_steps": 1,
    "learning_rate": 0,
    "weight_decay": 0,
    "max_grad_norm": 0,
    "num_train_epochs": 1e-6,
    "save_total_limit": 1,
}


def check_arguments(given: Mapping[str, Any]) -> None:
    """Raises: InputError with every name that is unknown or steerkit's own, and every value that can't be meant."""
    problems = list(_problems(given))
    if problems:
        raise InputError("training arguments", problems)


def _problems(given: Mapping[str, Any]) -> Iterator[Problem]:
    from pydantic import TypeAdapter, ValidationError
    from transformers import TrainingArguments

    known = [field.name for field in fields(TrainingArguments) if field.init]
    kinds = get_type_hints(TrainingArguments)
    for name, value in given.items():
        if name in OWNED:
            yield Problem(name, f"is not for you to set: {OWNED[name]}")
        elif name not in known:
            yield Problem(name, "transformers has no such training argument", nearest(name, known))
        else:
            try:
                TypeAdapter(kinds[name]).validate_python(value, strict=True)
            except ValidationError as error:
                yield Problem(name, f"{value!r} can't be meant: {error.errors()[0]['msg']}")
                continue
            if isinstance(value, str) and (choices := _choices(kinds[name])) and value not in choices:
                yield Problem(name, f"{value!r} can't be meant", nearest(value, choices))
            elif isinstance(value, float) and not math.isfinite(value):
                yield Problem(name, f"is {value}, no finite number")
            elif name == "max_steps" and value < 1 and value != -1:
                yield Problem(name, f"is {value}; give at least 1, or leave it out, so that num_train_epochs counts")
            elif name in _LEAST and value is not None and value < _LEAST[name]:
                yield Problem(name, f"is {value}, and must be at least {_LEAST[name]:g}")


def _choices(kind: Any) -> list[str]:
    """The values of an argument that has a list of them."""
    return [str(own.value) for each in get_args(kind) if isinstance(each, EnumType) for own in each]  # type: ignore[var-annotated]


def make_arguments(given: Mapping[str, Any], folder: Path, seed: int, device: torch.device) -> TrainingArguments:
    """The user's arguments with ours.

    Args:
        device: where the model is; a training stays on the CPU with it, also where there is a GPU.

    Raises:
        InputError: transformers doesn't take them together.
        SteerkitError: the model is on another device than this process's.
    """
    from transformers import TrainingArguments

    own: dict[str, Any] = {
        "output_dir": str(folder),
        "seed": seed,
        "data_seed": seed,
        "report_to": "none",
        "disable_tqdm": True,
        "remove_unused_columns": False,
        "logging_nan_inf_filter": False,
        "average_tokens_across_devices": True,
        "save_total_limit": None,  # steerkit deletes old checkpoints itself, once the new one is whole
    }
    values: dict[str, Any] = {**DEFAULTS, "use_cpu": device.type == "cpu", **given}
    try:
        with warnings.catch_warnings():  # its name in all releases that are allowed
            warnings.filterwarnings("ignore", "`gradient_checkpointing", FutureWarning)
            made = TrainingArguments(**{**values, **own})
    except Exception as error:  # ValueError, TypeError, NotImplementedError, ImportError: whatever it finds
        raise refused(error, given) from error
    made._setup_devices  # noqa: B018  (finds the devices, whose number the next line sets)
    made._n_gpu = min(made.n_gpu, 1)  # more would be DataParallel, whose copies of a model have no hooks
    if made.device.type != device.type or device.index not in (None, made.device.index):
        raise SteerkitError(f"the model is on {device}, and this process trains on {made.device}; load it there")
    return made


def refused(error: Exception, given: Mapping[str, Any]) -> InputError:
    """What transformers finds wrong, with the argument that it speaks of."""
    text = str(error)
    name = next((name for name, value in given.items() if name in text or str(value) in text), "together")
    return InputError("training arguments", [Problem(name, text)])
