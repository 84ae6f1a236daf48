"""Sharing over real HTTP: a hub on loopback, fresh interpreters that find it by HF_ENDPOINT, the card's own code."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from hub_server import TOKEN, Hub, hub

from steerkit.models.hub import is_hub_id, repo_for
from steerkit.models.loading import load_shape
from steerkit.vectors.card import card_of
from steerkit.vectors.info import VectorInfo
from steerkit.vectors.steering_vector import SteeringVector

INFO = VectorInfo(
    method="dom",
    label="back: tracking",
    window=(-13, -8),
    scale="raw",
    source="base",
    depth=4,
    fingerprint="ab12",
    positives={"traces": 3, "spans": 7},
    data="cd34",
    provenance={"run": "r1", "seed": 0, "versions": {"torch": "2.13"}, "plugins": {"fitters/dom": "steerkit-hf 0.1"}},
)


def example(model: str = "someone/llama") -> SteeringVector:
    directions = {layer: torch.randn(16, generator=torch.Generator().manual_seed(layer)) for layer in range(4)}
    return SteeringVector(directions, replace(INFO, model=model))


@pytest.fixture
def server() -> Iterator[Hub]:
    with hub() as running:
        yield running


def python(
    *words: str, url: str, home: Path, token: str = TOKEN, offline: str = "0"
) -> subprocess.CompletedProcess[str]:
    env = {
        **os.environ,
        "HF_ENDPOINT": url,
        "HF_HUB_OFFLINE": offline,
        "HF_HOME": str(home / "hf"),
        "HF_TOKEN": token,
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "OMP_NUM_THREADS": "1",
    }
    return subprocess.run([sys.executable, *words], capture_output=True, text=True, env=env, cwd=home, check=False)


def front_matter(card: str) -> dict[str, object]:
    return yaml.safe_load(card.split("---\n")[1])


def snippet(card: str) -> str:
    (code,) = re.findall(r"```python\n(.*?)```", card, flags=re.DOTALL)
    return code


def test_pushed_and_loaded_by_the_cards_own_code(server: Hub, tmp_path: Path) -> None:
    shape = load_shape("pocket:base")
    directions = {layer: torch.ones(shape.width) for layer in range(shape.depth)}
    vector = SteeringVector(directions, replace(INFO, model="pocket:base", depth=shape.depth))
    vector.save(tmp_path / "v.safetensors")
    push = ("-m", "steerkit", "vector", "push", "v.safetensors", "doubt", "--private", "--message", "First")
    done = python(*push, url=server.url, home=tmp_path)
    assert done.returncode == 0, done.stderr
    assert f"{server.url}/me/doubt/commit/" in done.stdout
    files = server.repos["me/doubt"]["main"]
    assert set(files) == {"README.md", "config.json", "steering_vector.safetensors"}
    assert (server.private, server.messages) == ({"me/doubt": True}, ["First"])
    assert TOKEN not in done.stdout + done.stderr + str(files)
    card = files["README.md"].decode()
    assert 'from_pretrained("me/doubt")' in card
    ran = python("-c", snippet(card), url=server.url, home=tmp_path)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.strip()
    load = "from steerkit import SteeringVector as V; print(repr(V.from_pretrained('me/doubt', revision='main')))"
    cached = python("-c", load, url="http://127.0.0.1:9", home=tmp_path, offline="1")
    assert cached.stdout.strip() == repr(vector), cached.stderr


@pytest.mark.parametrize(
    ("call", "token", "message"),
    [
        ("V.from_pretrained('me/none')", TOKEN, "me/none: can't be downloaded: 404 .*HF_TOKEN"),
        ("V.from_pretrained('me/none--x')", TOKEN, "me/none--x: can't be downloaded: .*called USER/NAME"),
        ("V.load('v.safetensors').push_to_hub('me/v')", "hf_wrong", "me/v: can't be uploaded: .*Invalid username or"),
        ("V.load('v.safetensors').push_to_hub('me/v..w')", TOKEN, "me/v..w: can't be uploaded: .*called USER/NAME"),
    ],
)
def test_what_the_hub_refuses(server: Hub, tmp_path: Path, call: str, token: str, message: str) -> None:
    example().save(tmp_path / "v.safetensors")
    done = python("-c", said(call), url=server.url, home=tmp_path, token=token)
    assert re.search(message, done.stdout, flags=re.DOTALL), done.stdout + done.stderr
    assert not server.repos and token not in done.stdout


def test_without_a_hub(tmp_path: Path) -> None:
    example().save(tmp_path / "v.safetensors")
    with socket.socket() as taken:  # bound and not listening: connections are refused
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        done = python("-c", said("V.load('v.safetensors').push_to_hub('me/v')"), url=url, home=tmp_path)
    assert re.search("me/v: can't be uploaded: .*check the network", done.stdout, flags=re.DOTALL), done.stderr
    done = python("-c", said("V.from_pretrained('me/none')"), url=url, home=tmp_path, offline="1")
    assert re.search("me/none: can't be downloaded: .*HF_HUB_OFFLINE is set", done.stdout, flags=re.DOTALL), done.stderr


def said(call: str) -> str:
    names = "from steerkit import SteerkitError, SteeringVector as V"
    return f"{names}\ntry: {call}\nexcept SteerkitError as e: print(str(e))"


def test_the_card_has_metadata_provenance_and_limits(tmp_path: Path) -> None:
    card = card_of(example())
    assert front_matter(card) == {
        "library_name": "steerkit",
        "base_model": "someone/llama",
        "tags": ["steering-vector", "activation-steering"],
    }
    for text in (
        "# Steering vector: back: tracking",
        "| weights fingerprint | ab12 |",
        "| positive set | 3 traces, 7 spans |",
        "| seed | 0 |",
        "| plugins | fitters/dom steerkit-hf 0.1 |",
        "## Limits",
        "layer=1)",
        "| 3 |",
    ):
        assert text in card
    assert "base_model" not in front_matter(card_of(example(str(tmp_path))))
    unknown = SteeringVector({1: torch.ones(4)}, VectorInfo(method="m", label="l", window=None))
    assert "| read at | not recorded |" in card_of(unknown)


def test_saving_again_writes_the_new_card(tmp_path: Path) -> None:
    example("a/one").save_pretrained(tmp_path)
    example("a/two").save_pretrained(tmp_path)
    assert front_matter((tmp_path / "README.md").read_text())["base_model"] == "a/two"
    assert SteeringVector.from_pretrained(tmp_path).info.model == "a/two"
    assert SteeringVector.from_pretrained(tmp_path / "steering_vector.safetensors").info.model == "a/two"


def test_names() -> None:
    assert repo_for("me/run", "base.backtracking.-13..-8.safetensors") == "me/run-base-backtracking-minus13-minus8"
    assert repo_for("me/run", "base.backtracking.0..5.sweep.safetensors") == "me/run-base-backtracking-0-5-sweep"
    assert [is_hub_id(n) for n in ("a/b", "pocket:base", "/models/x", "a/b.gguf", "b", "a/b/c", "")] == [True] + [
        False
    ] * 6
