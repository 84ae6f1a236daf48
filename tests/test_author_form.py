"""Checkpoints in the authors' form: in and out unchanged, one file or shards, and what is wrong with others."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from steerkit_plugins.transcoder.author_form import export_checkpoint, import_checkpoint
from tiny import CONFIGS, build, word_tokenizer
from tiny_transcoder import adapter, logits, shaken
from torch import Tensor
from transformers import AutoModelForCausalLM

from steerkit.errors import SteerkitError
from steerkit.models.language_model import LanguageModel
from steerkit.models.loading import load_model


def hybrid(folder: Path) -> LanguageModel:
    lm = build("qwen2")
    lm.model.save_pretrained(folder)
    word_tokenizer().save_pretrained(folder)
    return load_model(str(folder), device="cpu")


def theirs(folder: Path, lm: LanguageModel, *, bias: bool, dtype: torch.dtype) -> dict[str, Tensor]:
    """A checkpoint as their code writes it: transformers' names, two linear layers more in every MLP."""
    generator = torch.Generator().manual_seed(0)
    state = {name: tensor.to(dtype) for name, tensor in lm.model.state_dict().items()}
    for layer in range(lm.depth):
        at = f"model.layers.{layer}.mlp"
        shapes = {"transcoder_enc.weight": (6, 16), "transcoder_enc.bias": (6,), "transcoder_dec.weight": (16, 6)}
        shapes |= {"transcoder_dec.bias": (16,)} if bias else {}
        for name, shape in shapes.items():
            state[f"{at}.{name}"] = (0.3 * torch.randn(shape, generator=generator)).to(dtype)
    folder.mkdir()
    save_file(state, folder / "model.safetensors", {"format": "pt"})
    config = CONFIGS["qwen2"]().to_dict() | {"transcoder_n_features": 6, "transcoder_dec_bias": bias}
    config["architectures"] = ["Qwen2ForCausalLMWithTranscoder"]
    (folder / "config.json").write_text(json.dumps(config))
    return state


def all_tensors(folder: Path) -> dict[str, Tensor]:
    return {name: t for path in sorted(folder.glob("*.safetensors")) for name, t in load_file(path).items()}


@pytest.mark.parametrize(("bias", "dtype"), [(True, torch.float32), (False, torch.bfloat16)])
@pytest.mark.parametrize("shards", ["5GB", "4KB"])
def test_in_and_out_unchanged(bias: bool, dtype: torch.dtype, shards: str, tmp_path: Path) -> None:
    lm = hybrid(tmp_path / "hybrid")
    if dtype == torch.bfloat16:
        lm.model.to(dtype)
    given = theirs(tmp_path / "given", lm, bias=bias, dtype=dtype)
    found = import_checkpoint(tmp_path / "given", tmp_path / "adapter", hybrid=lm)
    assert (found.blocks, found.features, found.decoder_bias, found.differing) == (3, 6, bias, ())
    export_checkpoint(tmp_path / "adapter", lm, tmp_path / "back", max_shard_size=shards)
    assert (len(list((tmp_path / "back").glob("*.safetensors"))) > 1) == (shards == "4KB")
    back = all_tensors(tmp_path / "back")
    assert back.keys() == given.keys()
    assert all(torch.equal(back[name], tensor) and back[name].dtype == dtype for name, tensor in given.items())
    import_checkpoint(tmp_path / "back", tmp_path / "again")
    once, twice = (load_file(tmp_path / name / "adapter_model.safetensors") for name in ("adapter", "again"))
    assert once.keys() == twice.keys() and all(torch.equal(once[name], twice[name]) for name in once)
    told = json.loads((tmp_path / "back/config.json").read_text())
    assert told["architectures"] == ["Qwen2ForCausalLMWithTranscoder"] and told["model_type"] == "qwen2"
    assert (told["transcoder_n_features"], told["transcoder_dec_bias"]) == (6, bias)


def test_the_adapter_computes_what_their_equation_says(tmp_path: Path) -> None:
    lm = hybrid(tmp_path / "hybrid")
    state = theirs(tmp_path / "given", lm, bias=True, dtype=torch.float32)
    import_checkpoint(tmp_path / "given", tmp_path / "adapter")
    both = load_model(str(tmp_path / "hybrid"), adapter=str(tmp_path / "adapter"), device="cpu")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "hybrid").eval()
    for layer, block in enumerate(model.model.layers):
        own = {k.rpartition("mlp.")[2]: v for k, v in state.items() if f"layers.{layer}.mlp.transcoder" in k}

        def add(module: object, args: tuple[Tensor], output: Tensor, own: dict[str, Tensor] = own) -> Tensor:
            f = torch.relu(args[0] @ own["transcoder_enc.weight"].T + own["transcoder_enc.bias"])
            return output + f @ own["transcoder_dec.weight"].T + own["transcoder_dec.bias"]

        block.mlp.register_forward_hook(add)
    alone = LanguageModel("theirs", model, word_tokenizer())
    torch.testing.assert_close(logits(both), logits(alone), rtol=1e-4, atol=1e-4)


def test_a_scale_goes_into_the_decoders(tmp_path: Path) -> None:
    lm = hybrid(tmp_path / "hybrid")
    kept = adapter(scale=0.5)
    attached = shaken(kept.attach(lm, seed=0))
    attached.model.eval()
    wanted = logits(attached)
    kept.save(attached, tmp_path / "adapter")
    kept.detach(attached)
    export_checkpoint(tmp_path / "adapter", lm, tmp_path / "out")
    import_checkpoint(tmp_path / "out", tmp_path / "again")
    again = load_model(str(tmp_path / "hybrid"), adapter=str(tmp_path / "again"), device="cpu")
    torch.testing.assert_close(logits(again), wanted, rtol=1e-5, atol=1e-5)


def test_other_weights_than_the_hybrids_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    lm = hybrid(tmp_path / "hybrid")
    theirs(tmp_path / "given", lm, bias=True, dtype=torch.float32)
    with torch.no_grad():
        lm.model.model.layers[1].mlp.up_proj.weight[0, 0] += 1
    found = import_checkpoint(tmp_path / "given", tmp_path / "adapter", hybrid=lm)
    assert found.differing == ("model.layers.1.mlp.up_proj.weight",)
    assert "1 weights are not those of" in caplog.text


def test_what_is_no_such_checkpoint_is_told(tmp_path: Path) -> None:
    lm = hybrid(tmp_path / "hybrid")
    with pytest.raises(SteerkitError, match="has no transcoder_n_features"):
        import_checkpoint(tmp_path / "hybrid", tmp_path / "adapter")
    state = theirs(tmp_path / "given", lm, bias=True, dtype=torch.float32)
    file = tmp_path / "given/model.safetensors"
    for change, told in (
        (lambda s: s.pop("model.layers.1.mlp.transcoder_enc.bias"), "layers.1.mlp.transcoder_enc.bias is missing"),
        (lambda s: s.update({"model.layers.1.mlp.transcoder_out.weight": torch.zeros(2)}), "is not expected"),
        (lambda s: [s.pop(n) for n in list(s) if "layers.2.mlp.transcoder" in n], "2 of 3 blocks have a transcoder"),
    ):
        changed = dict(state)
        change(changed)  # type: ignore[no-untyped-call]
        save_file(changed, file)
        with pytest.raises(SteerkitError, match=told):
            import_checkpoint(tmp_path / "given", tmp_path / "adapter")
    file.unlink()
    with pytest.raises(SteerkitError, match=r"has no model\.safetensors"):
        import_checkpoint(tmp_path / "given", tmp_path / "adapter")
    (tmp_path / "given/config.json").write_text("{")
    with pytest.raises(SteerkitError, match="is no JSON"):
        import_checkpoint(tmp_path / "given", tmp_path / "adapter")
    with pytest.raises(SteerkitError, match="holds no transcoder adapter"):
        export_checkpoint(tmp_path / "hybrid", lm, tmp_path / "out")
