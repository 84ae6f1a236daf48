"""Fixtures: tiny random models (see `tiny`), read-only and shared; labelled traces; no network."""

from __future__ import annotations

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_OFFLINE", "1")

import gc
import signal

import pytest
import torch
from console import steerkit as steerkit
from pocket import run as run
from tiny import ARCHITECTURES, random_items, tiny, wrap_with_lora

from steerkit.data.trace import Item
from steerkit.models.language_model import LanguageModel

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # Started in a shell's background, tests would hand this on to the processes that they interrupt.
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_finish() -> None:
    """Keep what is loaded by now (torch, transformers, the tests) out of every garbage collection.

    Steps of a run and trainings end with a full one, and walking through all libraries takes up to a second each time.
    """
    gc.freeze()


FIRST = (
    "test_executors",
    "test_preventative",
    "test_families",
    "test_readme",
    "test_scripts",
    "test_paper",
    "test_generation_stream",
    "test_cli",
    "test_contract",
    "test_keys",
    "test_hesitation_run",
    "test_transcoder_run",
    "test_features_run",
    "test_validation",
    "test_metrics",
    "test_supply",
    "test_rank1",
)
"""Files that take long, for workers to begin with: one that comes last leaves the others idle."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    places = {name: number for number, name in enumerate(FIRST)}
    items.sort(key=lambda item: places.get(item.path.stem, len(FIRST)))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """One more than there are cores: tests that wait for other processes leave theirs idle."""
    return (os.cpu_count() or 1) + 1


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish() -> None:
    """Plugins that are imported at the end look through the collector's objects."""
    gc.unfreeze()


@pytest.fixture(params=ARCHITECTURES)
def lm(request: pytest.FixtureRequest) -> LanguageModel:
    """A model of each architecture in turn."""
    return tiny(request.param)


@pytest.fixture
def llama() -> LanguageModel:
    return tiny("llama")


@pytest.fixture(scope="session")
def lora() -> LanguageModel:
    """A PEFT-wrapped Llama, adapter on."""
    return wrap_with_lora()


@pytest.fixture(scope="session")
def items() -> list[Item]:
    return random_items()


@pytest.fixture
def direction() -> torch.Tensor:
    """[16] a unit vector."""
    value = torch.randn(16, generator=torch.Generator().manual_seed(7))
    return value / value.norm()
