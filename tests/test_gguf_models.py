"""Models in GGUF files: whole, or refused; what transformers drops without a word is found, or put back."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

pytest.importorskip("gguf", reason="GGUF files need: pip install gguf")

from gguf_model import LLAMA31, save_gguf

from steerkit.errors import SteerkitError
from steerkit.models.loading import load_model


def test_gguf_models(tmp_path: Path) -> None:
    model = save_gguf(tmp_path / "whole.gguf")
    loaded = load_model(str(tmp_path / "whole.gguf")).model
    ids = torch.tensor([[5, 9, 12, 33, 7]])
    with torch.no_grad():
        torch.testing.assert_close(loaded(ids).logits, model(ids).logits)
    save_gguf(tmp_path / "cut.gguf", drop="blk.1.ffn_up.weight")
    with pytest.raises(
        SteerkitError, match=r"1 tensor is missing, and would be random: model\.layers\.1\.mlp\.up_proj"
    ):
        load_model(str(tmp_path / "cut.gguf"))
    save_gguf(tmp_path / "more.gguf", blocks=1)
    with pytest.raises(SteerkitError, match=r"left out 9,280 numbers of the file .*: blk\.1\.attn_q\.weight, blk\.1"):
        load_model(str(tmp_path / "more.gguf"))
    save_gguf(tmp_path / "bias.gguf", extra={"blk.0.attn_q.bias": torch.ones(32)})
    with pytest.raises(SteerkitError, match=r"left out 32 numbers of the file .*: blk\.0\.attn_q\.bias"):
        load_model(str(tmp_path / "bias.gguf"))


def test_rotary_factors_of_a_gguf_model_are_applied(tmp_path: Path) -> None:
    model = save_gguf(tmp_path / "m.gguf", rope=LLAMA31)
    lm = load_model(str(tmp_path / "m.gguf"))
    ids = torch.arange(3, 51)[None]
    with torch.no_grad():
        found, expected = lm.model(ids).logits, model(ids).logits
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    save_gguf(tmp_path / "plain.gguf")
    plain = load_model(str(tmp_path / "plain.gguf"))
    assert plain.fingerprint != lm.fingerprint
    with torch.no_grad():
        assert (plain.model(ids).logits - expected).abs().max() > 1e-2
