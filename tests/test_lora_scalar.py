"""Steering one scalar of a saved LoRA: against plain hooks, and against the scalar itself moved in the forward."""

from __future__ import annotations

import json
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from steerkit_plugins.steerers.lora_scalar import LoraScalar
from steerkit_plugins.steerers.saved_lora import SavedLora
from tiny import build
from tiny_lora import with_lora

from steerkit import registry
from steerkit.artifacts import PluginSpec
from steerkit.data.site import Site
from steerkit.errors import InputError, SteerkitError
from steerkit.identity import spec_identity
from steerkit.interventions.steering import Edit, Steering
from steerkit.models.language_model import LanguageModel
from steerkit.models.lora_units import lora_groups
from steerkit.models.sites import resolve
from steerkit.models.units import units_in

IDS = torch.tensor([[5, 9, 12, 33, 7, 21], [8, 9, 10, 11, 12, 13], [5, 9, 12, 33, 7, 21], [3, 4, 5, 6, 7, 8]])
PARTS = {
    "llama": ("q", "v", "o", "gate", "up", "down"),
    "qwen2": ("k", "gate", "down"),
    "gemma2": ("o", "gate", "up"),
    "gpt2": ("o", "up", "down"),
    "gpt_neox": ("o", "up", "down"),
}
NORM = 3.0


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Architecture → its model with an adapter, and the adapter's folder; made once."""
    made: dict[str, tuple[LanguageModel, Path]] = {}

    def of(architecture: str) -> tuple[LanguageModel, Path]:
        if architecture not in made:
            folder = tmp_path_factory.mktemp(architecture)
            made[architecture] = with_lora(architecture, folder), folder
        return made[architecture]

    return of


def scalar(folder: Path, unit: str, **options: Any) -> LoraScalar:
    made: LoraScalar = registry.build(
        "steerers", PluginSpec(name="lora-scalar", adapter=str(folder), unit=unit, **options)
    )
    return made


def logits(lm: LanguageModel, edits: Any, ids: torch.Tensor = IDS, **more: Any) -> torch.Tensor:
    with torch.no_grad(), Steering(lm, edits, **more):
        found: torch.Tensor = lm.model(input_ids=ids).logits
    return found


def outputs(lm: LanguageModel, site: Site, edits: Any, **more: Any) -> torch.Tensor:
    """[B, T, D] of a site after the steering, seen by a plain hook on its module."""
    seen: list[torch.Tensor] = []
    place = resolve(lm, site)
    with torch.no_grad(), Steering(lm, edits, **more):
        handle = place.module.register_forward_hook(lambda module, args, output: seen.append(output.clone()))
        lm.model(input_ids=IDS)
        handle.remove()
    return place.read(seen[0], len(IDS))


def written(folder: Path, lm: LanguageModel, unit: str) -> torch.Tensor:
    """B of a unit, straight from the file by the module's full name."""
    (group,) = [group for group in lora_groups(lm) if group.units[0].name == unit]
    (name,) = [name for name, module in lm.model.named_modules() if module is group.module]
    return load_file(folder / "adapter_model.safetensors")[f"{name}.lora_B.weight"][:, 0]


@pytest.mark.parametrize("architecture", PARTS)
def test_the_projection_puts_out_the_norm_along_b_at_the_steered_tokens(saved: Any, architecture: str) -> None:
    lm, folder = saved(architecture)
    for part in PARTS[architecture]:
        unit = f"1.{part}"
        up, down = scalar(folder, unit), scalar(folder, unit, sign=-1)
        (site,) = up.sites(lm.depth)
        assert site == Site(1, part, "out")
        rows = [Edit(up, site, NORM), None, Edit(down, site, 2 * NORM, tokens="prompt"), Edit(up, site, 1.0)]
        plain = outputs(lm, site, [None] * 4)
        change = outputs(lm, site, rows, prompt_lengths=[2, 2, 2, 2]) - plain
        b = written(folder, lm, unit)
        expected = torch.tensor([NORM, 0.0, -2 * NORM, 1.0])[:, None, None] * (b / b.norm()).expand(4, 6, -1)
        expected[2, 2:] = 0
        torch.testing.assert_close(change, expected, rtol=1e-5, atol=1e-5)
        assert torch.equal(change[1], torch.zeros_like(change[1]))


@pytest.mark.parametrize("architecture", PARTS)
def test_it_is_the_scalar_that_is_moved(saved: Any, architecture: str) -> None:
    lm, folder = saved(architecture)
    for group in lora_groups(lm):
        (unit,) = group.units
        if unit.part not in PARTS[architecture]:
            continue
        found = logits(lm, Edit(scalar(folder, unit.name), unit.site, NORM))
        by = NORM / group.writes[0].norm()
        handle = group.edit(lambda s, by=by: s + by)
        expected = logits(lm, [None] * 4)
        handle.remove()
        assert (expected - logits(lm, [None] * 4)).abs().max() > 1e-3
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))


@pytest.mark.parametrize("scaling", [{"use_rslora": True}, {"use_rslora": False}])
def test_a_second_rank_is_a_unit_of_its_own(tmp_path: Path, scaling: dict[str, bool]) -> None:
    lm = with_lora("llama", tmp_path, r=3, **scaling)
    adapter = SavedLora(str(tmp_path))
    assert adapter.units == units_in(lora_groups(lm))
    for group in lora_groups(lm):
        mine = adapter.writes(group.units)
        torch.testing.assert_close(torch.stack([mine[unit] for unit in group.units]), group.writes)
    group = next(group for group in lora_groups(lm) if group.units[0].name == "2.up")
    found = logits(lm, Edit(scalar(tmp_path, "2.up.2"), Site(2, "up"), NORM))
    by = torch.tensor([0.0, 0.0, float(NORM / group.writes[2].norm())])
    handle = group.edit(lambda s: s + by)
    expected = logits(lm, [None] * 4)
    handle.remove()
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_units_of_the_file_are_those_of_the_model(saved: Any) -> None:
    for architecture in PARTS:
        lm, folder = saved(architecture)
        assert SavedLora(str(folder)).units == units_in(lora_groups(lm))


@pytest.mark.parametrize("architecture", PARTS)
def test_the_base_is_moved_by_as_much(saved: Any, architecture: str) -> None:
    """With the adapter turned off, and on a model that never had it."""
    lm, folder = saved(architecture)
    off, bare = replace(lm, adapter=False), build(architecture)
    unit = f"1.{PARTS[architecture][-1]}"
    edit = Edit(scalar(folder, unit), Site(1, PARTS[architecture][-1], "out"), NORM)
    change = outputs(off, edit.site, edit) - outputs(off, edit.site, [None] * 4)
    b = written(folder, lm, unit)
    torch.testing.assert_close(change, NORM * (b / b.norm()).expand_as(change), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(logits(off, edit), logits(bare, edit), rtol=1e-5, atol=1e-5)
    assert (logits(off, edit) - logits(lm, edit)).abs().max() > 1e-3


def test_a_row_is_the_same_whatever_stands_beside_it(saved: Any) -> None:
    lm, folder = saved("llama")
    units = (scalar(folder, "2.gate"), scalar(folder, "0.q", sign=-1))
    rows = [
        Edit(units[0], Site(2, "gate"), 2.0),
        (Edit(units[1], Site(0, "q"), 5.0), Edit(units[0], Site(2, "gate"), 1.0)),
        None,
        Edit(units[0], Site(2, "gate"), -4.0),
    ]
    together = logits(lm, rows)
    for number, row in enumerate(rows):
        alone = logits(lm, [row], IDS[number : number + 1])
        torch.testing.assert_close(together[number : number + 1], alone, rtol=1e-5, atol=1e-5)


def test_it_may_be_sent_to_another_process(saved: Any) -> None:
    lm, folder = saved("llama")
    used = Edit(scalar(folder, "2.gate"), Site(2, "gate"), 2.0)
    expected = logits(lm, used)
    assert torch.equal(logits(lm, pickle.loads(pickle.dumps(used))), expected)


def test_the_key_follows_the_adapter_s_content(saved: Any, tmp_path: Path) -> None:
    _, folder = saved("llama")

    def key(at: Path) -> Any:
        return spec_identity("steerers", PluginSpec(name="lora-scalar", adapter=str(at), unit="2.gate")).settings

    copied = tmp_path / "moved"
    copied.mkdir()
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        (copied / name).write_bytes((folder / name).read_bytes())
    assert key(copied) == key(folder)
    tensors = load_file(copied / "adapter_model.safetensors")
    save_file({name: 2 * value for name, value in tensors.items()}, copied / "adapter_model.safetensors")
    assert key(copied) != key(folder)


def test_what_is_wrong_is_said_in_words(saved: Any, tmp_path: Path) -> None:
    lm, folder = saved("llama")
    with pytest.raises(InputError, match=r"unit: Value error, 'gate' names no unit; one is named 3\.down"):
        scalar(folder, "gate")
    with pytest.raises(SteerkitError, match=r"the adapter has no unit '2\.gat'; did you mean '2\.gate'\?"):
        scalar(folder, "2.gat").sites(4)
    with pytest.raises(SteerkitError, match=r"the adapter has no unit '9\.gate'; did you mean '\d\.gate'\?"):
        scalar(folder, "9.gate").sites(4)
    with pytest.raises(SteerkitError, match=r"none: has no adapter_config\.json; give the folder in which PEFT"):
        scalar(tmp_path / "none", "2.gate").sites(4)
    with pytest.raises(
        SteerkitError, match=r"unit 2\.gate acts at block 2 \(gate\.out\) and was placed at block 1 \(gate\.out\)"
    ):
        logits(lm, Edit(scalar(folder, "2.gate"), Site(1, "gate"), 1.0))


def test_an_adapter_of_another_model_is_refused(saved: Any, tmp_path: Path) -> None:
    lm, _ = saved("llama")
    _, other = saved("gpt2")
    with pytest.raises(
        SteerkitError,
        match=r"unit 1\.up adds 64 numbers at block 1 \(up\.out\), which has 24: the adapter is of another",
    ):
        logits(lm, Edit(scalar(other, "1.up"), Site(1, "up"), 1.0))


@pytest.mark.parametrize(("architecture", "part"), [("gpt2", "c_attn"), ("gpt_neox", "query_key_value")])
def test_a_fused_projection_s_unit_is_refused_by_name(saved: Any, architecture: str, part: str) -> None:
    _, folder = saved(architecture)
    with pytest.raises(SteerkitError, match=rf"^1\.{part}: {part} makes several parts \(a fused projection\)"):
        scalar(folder, f"1.{part}").sites(3)


def test_kinds_whose_share_is_no_scalar_s_are_refused(saved: Any, tmp_path: Path) -> None:
    _, folder = saved("llama")
    told = json.loads((folder / "adapter_config.json").read_text())
    (tmp_path / "adapter_model.safetensors").write_bytes((folder / "adapter_model.safetensors").read_bytes())
    for change, words in (
        ({"peft_type": "IA3"}, "is no LoRA"),
        ({"use_dora": True}, "is DoRA"),
        ({"lora_bias": True}, "is a LoRA with biases"),
        ({"alpha_pattern": {"q_proj": 4}}, "scales modules apart"),
    ):
        (tmp_path / "adapter_config.json").write_text(json.dumps(told | change))
        with pytest.raises(SteerkitError, match=words):
            scalar(tmp_path, "2.gate").sites(4)
    (tmp_path / "adapter_config.json").write_text(json.dumps(told))
    tensors = load_file(folder / "adapter_model.safetensors")
    save_file({name: 0 * value for name, value in tensors.items()}, tmp_path / "adapter_model.safetensors")
    with pytest.raises(SteerkitError, match=r"unit 2\.gate adds nothing \(its B is zero\)"):
        logits(saved("llama")[0], Edit(scalar(tmp_path, "2.gate"), Site(2, "gate"), 1.0))
