"""Every reader of strangers' files, fuzzed for a moment; `python tests/trials/fuzz.py` goes on for longer."""

from __future__ import annotations

import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

pytest.importorskip("hypothesis", reason="needs hypothesis (pip install 'steerkit-hf[dev]')")
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

sys.path.append(str(Path(__file__).parent / "trials"))
from mutations import headed, mutated, replaced
from targets import TARGETS, attempt

SHORT = settings(
    max_examples=30, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
)
PARSED = [name for name, target in TARGETS.items() if target.suffix in (".yaml", ".jsonl", ".json")]


def check(name: str, data: bytes) -> None:
    with TemporaryDirectory() as folder:
        wrong = attempt(TARGETS[name], data, Path(folder))
    assert not wrong, f"{name} of {data[:2000]!r}: {wrong}"


@pytest.mark.parametrize("name", TARGETS)
def test_the_corpus_is_read(name: str) -> None:
    for data in TARGETS[name].corpus():
        check(name, data)


@pytest.mark.parametrize("name", TARGETS)
@SHORT
@given(st.data())
def test_bytes_changed(name: str, data: st.DataObject) -> None:
    check(name, data.draw(mutated(TARGETS[name].corpus())))


@pytest.mark.parametrize("name", PARSED)
@SHORT
@given(st.data())
def test_values_changed(name: str, data: st.DataObject) -> None:
    check(name, data.draw(replaced(TARGETS[name].corpus(), TARGETS[name].suffix)))


@pytest.mark.parametrize("name", ["vector", "statistics"])
@SHORT
@given(st.data())
def test_headers_changed(name: str, data: st.DataObject) -> None:
    check(name, data.draw(headed(TARGETS[name].corpus())))


@pytest.mark.parametrize("name", TARGETS)
@SHORT
@given(st.binary(max_size=200))
def test_any_bytes(name: str, data: bytes) -> None:
    check(name, data)
