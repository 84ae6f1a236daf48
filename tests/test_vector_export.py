"""Vectors for llama.cpp, repeng and lm-evaluation-harness, and back: what is added is the same there and here."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from console import Steerkit
from tiny import tiny

from steerkit.errors import InputError, SteerkitError
from steerkit.models.language_model import LanguageModel
from steerkit.vectors.formats.gguf import export_gguf, import_gguf
from steerkit.vectors.formats.lm_eval import export_lm_eval
from steerkit.vectors.info import VectorInfo
from steerkit.vectors.steer import steer
from steerkit.vectors.steering_vector import SteeringVector

gguf = pytest.importorskip("gguf", reason="GGUF files need: pip install gguf")

INFO = VectorInfo(method="dom", label="backtracking", window=(-13, -8), model="someone/llama", depth=4)


def example(scale: str = "residual-norm", width: int = 16) -> SteeringVector:
    draw = torch.Generator().manual_seed(0)
    directions = {layer: torch.randn(width, generator=draw) for layer in range(4)}
    norms = {layer: (1.5, 2.5 + layer) for layer in directions}
    return SteeringVector(directions, replace(INFO, scale=scale), norms=norms)


def write(path: Path, tensors: dict[str, np.ndarray], *, architecture: str = "controlvector") -> Path:
    """A file as repeng writes it: its keys and no others."""
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_string("controlvector.model_hint", "llama")
    writer.add_uint32("controlvector.layer_count", len(tensors))
    for name, value in tensors.items():
        writer.add_tensor(name, value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_a_gguf_file_holds_what_llama_cpp_reads(tmp_path: Path) -> None:
    vector = example()
    export_gguf(vector, tmp_path / "v.gguf", layers=[1, 3], strength=2.0, model_hint="llama")
    reader = gguf.GGUFReader(tmp_path / "v.gguf")
    fields = {key: reader.get_field(key).contents() for key in reader.fields if not key.startswith("GGUF.")}
    assert fields["general.architecture"] == "controlvector"
    assert fields["controlvector.model_hint"] == "llama"
    assert fields["controlvector.layer_count"] == 2
    assert [t.name for t in reader.tensors] == ["direction.1", "direction.3"]
    for tensor in reader.tensors:
        layer = int(tensor.name.rsplit(".", 1)[1])
        assert (tensor.tensor_type.name, list(tensor.shape)) == ("F32", [16])
        expected = vector.directions[layer] / vector.directions[layer].norm() * (2.5 + layer) * 2.0
        np.testing.assert_allclose(tensor.data, expected.numpy(), rtol=1e-6)


def test_there_and_back_steers_the_same(tmp_path: Path, llama: LanguageModel) -> None:
    vector = example()
    export_gguf(vector, tmp_path / "v.gguf", layers=[2], strength=3.0)
    back = import_gguf(tmp_path / "v.gguf")
    assert (back.layers, back.info.scale) == ((2,), "raw")
    assert (back.info.label, back.info.window, back.info.model) == ("backtracking", (-13, -8), "someone/llama")
    assert back.info.provenance == {"imported": "v.gguf", "scale": "residual-norm", "strength": 3.0}
    ids = torch.tensor([[5, 9, 14, 20]])
    with torch.no_grad():
        with steer(llama, vector, 3.0, layer=2):
            there = llama.model(ids).logits
        with steer(llama, back, 1.0):
            here = llama.model(ids).logits
        plain = llama.model(ids).logits
    torch.testing.assert_close(here, there)
    assert not torch.allclose(here, plain)


def test_repengs_file_is_read(tmp_path: Path) -> None:
    rows = {f"direction.{layer}": np.full(8, layer, dtype=np.float32) for layer in (3, 1, 2)}
    vector = import_gguf(write(tmp_path / "honesty.gguf", rows))
    assert (vector.layers, vector.width) == ((1, 2, 3), 8)
    assert torch.equal(vector.direction(2), torch.full((8,), 2.0))
    assert (vector.info.label, vector.info.window, vector.info.scale) == ("honesty", None, "raw")
    assert vector.info.provenance == {"imported": "honesty.gguf", "model_hint": "llama"}
    vector.save(tmp_path / "v.safetensors")
    assert SteeringVector.load(tmp_path / "v.safetensors").info == vector.info
    assert "window ?" in repr(vector)


def test_layers_are_named(tmp_path: Path) -> None:
    vector, path = example(), tmp_path / "v.gguf"
    for layers, message in (
        (None, r"name the layers \(one of 0, 1, 2, 3, or several\): all that are in the file are added at once"),
        ([1, 7], "the vector has no layer 7; it has 0, 1, 2, 3"),
        ([], "the vector has no layer of those; it has"),
        ([0, 1], "layer 0 can't be in a GGUF control vector: llama.cpp steers blocks from 1 on"),
    ):
        with pytest.raises(SteerkitError, match=message):
            export_gguf(vector, path, layers=layers)
    assert not list(tmp_path.iterdir())
    export_gguf(SteeringVector({1: vector.direction(1)}, INFO), path)  # the only layer needs no name
    assert import_gguf(path).layers == (1,)


def test_files_that_are_no_control_vectors(tmp_path: Path) -> None:
    good = write(tmp_path / "good.gguf", {"direction.1": np.ones(64, dtype=np.float32)})
    data = good.read_bytes()
    huge = data[:8] + struct.pack("<QQ", 2**62, 2**62) + data[24:]
    long_string = data[:24] + struct.pack("<Q", 2**63) + data[32:]
    for name, content, message in (
        ("empty", b"", r"not a whole GGUF file \(it ends too early\)"),
        ("text", b"hello, world" * 9, r"not a whole GGUF file \(no GGUF magic\)"),
        ("short", data[:10], "not a whole GGUF file"),
        ("head", data[:60], "not a whole GGUF file"),
        ("tail", data[:-100], "not a whole GGUF file .*was it cut off"),
        ("huge", huge, "not a whole GGUF file"),
        ("long", long_string, "not a whole GGUF file"),
    ):
        path = tmp_path / f"{name}.gguf"
        path.write_bytes(content)
        with pytest.raises(SteerkitError, match=message):
            import_gguf(path)
    with pytest.raises(SteerkitError, match=r"gone\.gguf: no such GGUF file"):
        import_gguf(tmp_path / "gone.gguf")
    model = write(tmp_path / "m.gguf", {"blk.0": np.ones(4, dtype=np.float32)}, architecture="llama")
    with pytest.raises(SteerkitError, match="a GGUF file of architecture 'llama', not a control vector"):
        import_gguf(model)
    with pytest.raises(SteerkitError, match=r"a control vector without any direction.N tensor"):
        import_gguf(write(tmp_path / "none.gguf", {"other.1": np.ones(4, dtype=np.float32)}))


def test_every_wrong_tensor_is_named(tmp_path: Path) -> None:
    rows = {
        "direction.1": np.ones(8, dtype=np.float32),
        "direction.2": np.ones(4, dtype=np.float32),
        "direction.x": np.ones(8, dtype=np.float32),
        "direction.4": np.ones((2, 4), dtype=np.float32),
        "direction.5": np.ones(8, dtype=np.int32),
    }
    with pytest.raises(InputError) as caught:
        import_gguf(write(tmp_path / "v.gguf", rows))
    assert [str(p).partition("v.gguf: ")[2] for p in caught.value.problems] == [
        "direction.2: has width 4; the tensors before it have 8",
        "direction.x: does not end in a layer's number",
        "direction.4: has 2 dimensions; a direction has one",
        "direction.5: holds I32, not F32",
    ]


def test_numbers_that_are_not_finite(tmp_path: Path) -> None:
    with pytest.raises(SteerkitError, match="the direction is not finite at layer 1"):
        import_gguf(write(tmp_path / "v.gguf", {"direction.1": np.array([1, np.inf], dtype=np.float32)}))


def test_the_model_is_checked_without_its_weights(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    tiny("llama").model.config.save_pretrained(folder)  # no weights beside it
    fits = write(tmp_path / "fits.gguf", {"direction.3": np.ones(16, dtype=np.float32)})
    vector = import_gguf(fits, model=str(folder))
    assert (vector.info.model, vector.info.depth) == (str(folder), 4)
    for name, value, message in (
        ("direction.1", np.ones(8, dtype=np.float32), "the vector has width 8, .* has 16: made for another model"),
        ("direction.4", np.ones(16, dtype=np.float32), "made on a model of 5 blocks, .* has 4: made for another model"),
    ):
        with pytest.raises(SteerkitError, match=message):
            import_gguf(write(tmp_path / "v.gguf", {name: value}), model=str(folder))


def test_without_the_package_the_command_is_named(tmp_path: Path) -> None:
    example().save(tmp_path / "v.safetensors")
    words = ["vector", "export", str(tmp_path / "v.safetensors"), "--to", "gguf", "--layers", "1", "-o", "v.gguf"]
    code = f"import sys\nsys.modules['gguf'] = None\nsys.argv = ['steerkit', *{words!r}]\n"
    code += "from steerkit.cli import main\nmain()\n"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert (done.returncode, done.stderr) == (2, "error: writing GGUF needs a package: pip install 'gguf>=0.17'\n")


@pytest.mark.parametrize(("architecture", "hookpoint"), [("llama", "layers.{layer}"), ("gpt2", "h.{layer}")])
def test_the_harness_steers_as_steerkit_does(tmp_path: Path, architecture: str, hookpoint: str) -> None:
    """Read with weights_only, hooked by module name below base_model: what lm-evaluation-harness does with a file."""
    lm, vector = tiny(architecture), replace_depth(example(), architecture)
    export_lm_eval(vector, tmp_path / "v.pt", layers=[0, 2], strength=1.5, hookpoint=hookpoint)
    config = torch.load(tmp_path / "v.pt", weights_only=True)
    modules = dict(lm.model.base_model.named_modules())
    assert {type(v) for entry in config.values() for v in entry.values()} == {str, torch.Tensor, float, type(None)}
    handles = []
    for name, entry in config.items():
        assert (entry["action"], entry["bias"], entry["head_index"]) == ("add", None, None)
        change = entry["steering_vector"] * entry["steering_coefficient"]
        handles.append(modules[name].register_forward_hook(adding(change)))
    ids = torch.tensor([[5, 9, 14, 20]])
    with torch.no_grad():
        there = lm.model(ids).logits
        for handle in handles:
            handle.remove()
        with steer(lm, vector, 1.5, layer=0), steer(lm, vector, 1.5, layer=2):
            here = lm.model(ids).logits
        plain = lm.model(ids).logits
    torch.testing.assert_close(there, here)
    assert not torch.allclose(there, plain)


def replace_depth(vector: SteeringVector, architecture: str) -> SteeringVector:
    depth = tiny(architecture).depth
    kept = {layer: vector.directions[layer] for layer in range(depth)}
    return SteeringVector(kept, replace(vector.info, depth=depth), norms=vector.norms)


def adding(change: torch.Tensor) -> object:
    def hook(module: object, given: object, output: torch.Tensor | tuple[torch.Tensor, ...]) -> object:
        return (output[0] + change, *output[1:]) if isinstance(output, tuple) else output + change

    return hook


def test_what_the_harness_would_not_read(tmp_path: Path) -> None:
    with pytest.raises(SteerkitError, match=r"v.bin: lm-evaluation-harness reads files that end in .pt or .pth"):
        export_lm_eval(example(), tmp_path / "v.bin", layers=[1])
    with pytest.raises(SteerkitError, match=r"hookpoint 'layers': has no \{layer\} in it"):
        export_lm_eval(example(), tmp_path / "v.pt", layers=[1], hookpoint="layers")


def test_commands(steerkit: Steerkit, tmp_path: Path) -> None:
    example().save(tmp_path / "v.safetensors")
    export = ("vector", "export", "v.safetensors", "--to")
    done = steerkit(*export, "gguf", "--out", "v.gguf", "--layers", "1-2,3", "--strength", 2)
    assert "llama-cli -m MODEL.gguf --control-vector-scaled v.gguf:1" in done.stdout, done.stderr
    done = steerkit("vector", "import", "v.gguf", "--out", "back.safetensors", "--label", "doubt")
    assert "SteeringVector('doubt' by dom, window -13..-8, layers 1..3" in done.stdout, done.stderr
    back = SteeringVector.load(tmp_path / "back.safetensors")
    torch.testing.assert_close(back.direction(2), 2 * 4.5 * example().unit(2))
    done = steerkit(*export, "lm-eval", "--out", "v.pt", "--layers", "all")
    assert "pretrained=someone/llama,steer_path=v.pt" in done.stdout, done.stderr
    assert len(torch.load(tmp_path / "v.pt", weights_only=True)) == 4
    assert json.loads(gguf.GGUFReader(tmp_path / "v.gguf").get_field("steerkit.info").contents())["strength"] == 2
    for words, message in (
        ((*export, "gguf", "--out", "w.gguf"), "name the layers (one of 0, 1, 2, 3, or several)"),
        ((*export, "gguf", "--out", "w.gguf", "--layers", "x"), "--layers x: 'x' is no layer; write 10, 8-12, 8,10"),
        ((*export, "lm_eval", "--out", "w.pt", "--layers", "1"), "--to lm_eval: did you mean 'lm-eval'?"),
        (("vector", "import", "v.safetensors", "-o", "w"), "v.safetensors: not a whole GGUF file"),
    ):
        done = steerkit(*words)
        assert (done.returncode, message in done.stderr) == (2, True), done.stderr


def test_show_tells_what_an_imported_vector_lacks(steerkit: Steerkit, tmp_path: Path) -> None:
    write(tmp_path / "v.gguf", {"direction.1": np.ones(16, dtype=np.float32)})
    assert steerkit("vector", "import", "v.gguf", "-o", "v.safetensors").returncode == 0
    shown = steerkit("vector", "show", "v.safetensors").stdout
    assert "window: null" in shown
    assert shown.splitlines()[-1].split() == ["1", "4", "4", "not", "saved"]
