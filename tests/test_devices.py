"""Where models run: found as accelerate finds it, named in words, float64 sums where there is float64."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from console import Steerkit
from tiny import random_items, tiny
from torch.utils._python_dispatch import TorchDispatchMode

from steerkit.checks.averages import WINDOW, Around
from steerkit.errors import SteerkitError
from steerkit.extraction.extract import extract
from steerkit.models import devices
from steerkit.models.language_model import LanguageModel
from steerkit.models.loading import load_model
from steerkit.models.setup import in_words
from steerkit.recipe.load import load_arguments, load_recipe

ASK = """
import json, torch
from steerkit.models.devices import found_device
device = str(found_device())
from accelerate import PartialState
untouched = not PartialState._shared_state and not torch.distributed.is_initialized()
{after}
print(json.dumps([device, untouched, str(PartialState().device)]))
"""


def asked(after: str = "", **env: str) -> list[Any]:
    done = subprocess.run(
        [sys.executable, "-c", ASK.format(after=after)], capture_output=True, text=True, env={**os.environ, **env}
    )
    assert done.returncode == 0, done.stderr
    found: list[Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.parametrize("env", [{}, {"ACCELERATE_USE_CPU": "true"}])
def test_the_device_is_accelerates_and_no_state_is_made(env: dict[str, str]) -> None:
    device, untouched, theirs = asked(**env)
    assert untouched and device.partition(":")[0] == theirs.partition(":")[0]
    if env:
        assert device == "cpu"


def test_under_torchrun_no_process_group_is_joined() -> None:
    launched = {
        "RANK": "1",
        "WORLD_SIZE": "2",
        "LOCAL_RANK": "1",
        "LOCAL_WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": "1",
    }
    drop = "import os; [os.environ.pop(key) for key in ('RANK', 'WORLD_SIZE', 'LOCAL_RANK')]"
    assert asked(drop, **launched)[1]  # asking does not wait for rank 0, which isn't there


def test_what_a_script_under_accelerate_has_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    from accelerate import PartialState

    monkeypatch.setattr(PartialState, "_shared_state", {"device": torch.device("meta"), "backend": None})
    assert devices.found_device() == torch.device("meta")


@pytest.mark.skipif(torch.accelerator.is_available(), reason="there is an accelerator here")
@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("cuda", r"device: cuda: torch .* finds no accelerator on this machine; leave `device` out, or use cpu"),
        ("mps", "device: mps: torch .* finds no accelerator on this machine"),
        ("xpu:3", "device: xpu:3: torch .* finds no accelerator on this machine"),
        ("quantum", "device: 'quantum' is no device that torch knows"),
    ],
)
def test_devices_that_are_not_there(name: str, said: str) -> None:
    with pytest.raises(SteerkitError, match=said):
        load_model("pocket:base", device=name)


def test_a_device_or_a_map() -> None:
    with pytest.raises(SteerkitError, match="device: cpu and device_map: auto: give one of them"):
        load_model("pocket:base", device="cpu", device_map="auto")
    args = load_arguments("backtracking")
    with pytest.raises(SteerkitError, match="give device or device_map, not both"):
        load_recipe("backtracking", ["device=cpu", "device_map=auto"])
    with pytest.raises(SteerkitError, match="device"):
        load_recipe("backtracking", ["device=GPU 1"])
    assert args.device == "auto" and load_recipe("backtracking", ["device=cuda:1"]).device == "cuda:1"


def test_the_command_line(steerkit: Steerkit, tmp_path: Path) -> None:
    done = steerkit("check", "pocket:base", "--device", "cpu", "--layers", "0", "--prompts", 2)
    assert done.returncode == 0 and "on cpu" in done.stdout
    done = steerkit("check", "pocket:base", "--device", "quantum")
    assert done.returncode == 2 and "no device that torch knows" in done.stderr and "Traceback" not in done.stderr
    assert in_words(load_model("pocket:base", device="cpu").setup) == "cpu, float32, sdpa attention"


class Refuses(TorchDispatchMode):
    """A device without float64, played by `meta`."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        for value in found if isinstance(found, tuple) else (found,):
            if isinstance(value, torch.Tensor) and value.device.type == "meta" and value.dtype == torch.float64:
                raise TypeError(
                    "Cannot convert a META Tensor to float64 dtype as the framework doesn't support float64"
                )
        return found


def test_whether_a_device_has_float64() -> None:
    devices.has_float64.cache_clear()
    with Refuses():
        assert not devices.has_float64("meta")
    devices.has_float64.cache_clear()
    assert devices.has_float64("meta") and devices.has_float64("cpu") and devices.has_float64("cuda")
    devices.has_float64.cache_clear()


class Elsewhere(torch.Tensor):
    """A tensor that says it is on one of Intel's GPUs, and has no float64 there; `.cpu()` brings it back."""

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        if name == "__get__" and getattr(func, "__self__", None) is torch.Tensor.device:
            return torch.device("xpu")
        if name == "cpu":
            return args[0].as_subclass(torch.Tensor)
        kwargs = {key: value for key, value in (kwargs or {}).items() if key != "device"}
        found = super().__torch_function__(func, types, args, kwargs)
        if isinstance(found, Elsewhere) and found.as_subclass(torch.Tensor).dtype == torch.float64:
            raise TypeError("float64 is not supported on this device")
        return found


def test_extraction_sums_on_the_cpu_where_there_is_no_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    lm = tiny("llama")
    with pytest.raises(TypeError, match="float64"):
        torch.zeros(2).as_subclass(Elsewhere).double()
    monkeypatch.setattr(devices, "has_float64", lambda kind: kind != "xpu")
    expected = extract(lm, random_items(), Around(), needs={"means", "squares"}).at(WINDOW)
    reads: list[str] = []

    def move(module: Any, args: Any, output: torch.Tensor) -> torch.Tensor:
        reads.append("moved")
        return output.as_subclass(Elsewhere)

    def back(module: Any, args: Any, kwargs: Any) -> Any:
        hidden = args[0] if args else kwargs["hidden_states"]
        return (hidden.as_subclass(torch.Tensor), *args[1:]), kwargs

    moved = LanguageModel("moved", lm.model, lm.tokenizer)
    handles = [block.register_forward_hook(move) for block in lm.blocks]
    handles += [block.register_forward_pre_hook(back, with_kwargs=True) for block in lm.blocks]
    try:
        found = extract(moved, random_items(), Around(), needs={"means", "squares"}).at(WINDOW)
    finally:
        for handle in handles:
            handle.remove()
    assert reads
    assert torch.equal(found.sums, expected.sums)
    assert found.squares is not None and torch.equal(found.squares, expected.squares)
