"""Moving a latent of a sparse autoencoder: the same as moving all scalars at once by what its decoder says."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from steerkit_plugins.rank1_lora.sae.batch_topk import Weights
from steerkit_plugins.rank1_lora.sae.options import SAEOptions
from steerkit_plugins.rank1_lora.sae.trained import TrainedSAE
from steerkit_plugins.rank1_lora.sae_latent import SaeLatent
from steerkit_plugins.rank1_lora.unit_conditions import MovedConfig, adding_to, placed_latent
from tiny_lora import with_lora

from steerkit import registry
from steerkit.artifacts import PluginSpec, VectorKey
from steerkit.data.site import Site
from steerkit.errors import SteerkitError
from steerkit.identity import spec_identity
from steerkit.interventions.steering import Edit, Steering
from steerkit.models.language_model import LanguageModel
from steerkit.models.lora_units import lora_groups
from steerkit.models.units import units_in, write_norms
from steerkit.steps.generations import norm_of

IDS = torch.tensor([[5, 9, 12, 33, 7, 21], [8, 9, 10, 11, 12, 13], [5, 9, 12, 33, 7, 21]])
NORM = 0.5
LATENT = 7


def sae_of(lm: LanguageModel, path: Path, scale: str, *, drop: tuple[int, ...] = ()) -> TrainedSAE:
    """An SAE with random weights over a model's scalars; a latent moves all of them but those to be dropped."""
    groups, drawn = lora_groups(lm), np.random.default_rng(0)
    units = units_in(groups)
    options = SAEOptions(variant="standard" if scale == "contribution" else "author", expansion=2)
    decoder = drawn.standard_normal((2 * len(units), len(units)))
    decoder[:, list(drop)] = 0
    tensors = {
        "encoder": torch.from_numpy(decoder.T.copy()).float(),
        "encoder_bias": torch.zeros(2 * len(units)),
        "decoder": torch.from_numpy(decoder).float(),
        "decoder_bias": torch.zeros(len(units)),
    }
    spread = drawn.uniform(0.5, 2.0, len(units))
    made = TrainedSAE(
        options=options,
        units=tuple(unit.name for unit in units),
        norms=write_norms(groups).numpy(),
        shift=np.zeros(len(units)),
        spread=spread,
        weights=Weights(**tensors),
        threshold=0.0,
    )
    made.save(path)
    return made


@pytest.fixture(scope="module", params=[("llama", "raw"), ("gemma2", "contribution")], ids=["llama", "gemma2"])
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A model, its adapter's folder, an SAE of its scalars with its file."""
    architecture, scale = request.param
    folder = tmp_path_factory.mktemp(architecture)
    lm = with_lora(architecture, folder)
    return lm, folder, sae_of(lm, folder / "sae.safetensors", scale), folder / "sae.safetensors"


def latent(folder: Path, sae: Path, **options: Any) -> SaeLatent:
    spec = PluginSpec(name="sae-latent", adapter=str(folder), sae=str(sae), **{"latent": LATENT, **options})
    built: SaeLatent = registry.build("steerers", spec)
    return built


def edits(steerer: SaeLatent, norm: float, tokens: Any = "all") -> tuple[Edit, ...]:
    return tuple(Edit(steerer, site, norm, tokens=tokens) for site in steerer.sites(9))


def logits(lm: LanguageModel, rows: Any, ids: torch.Tensor = IDS) -> torch.Tensor:
    with torch.no_grad(), Steering(lm, rows):
        found: torch.Tensor = lm.model(input_ids=ids).logits
    return found


@pytest.mark.parametrize("sign", [1, -1])
def test_it_is_all_scalars_moved_at_once(made: Any, sign: int) -> None:
    lm, folder, sae, path = made
    groups = lora_groups(lm)
    row = sae.decoder_row(LATENT)
    whole = np.sqrt(((row * write_norms(groups).numpy()) ** 2).sum())  # |Δs_u| γ‖B_u‖, one unit a site
    found = logits(lm, edits(latent(folder, path, sign=sign), NORM))
    with ExitStack() as stack:
        for place, group in enumerate(groups):
            by = sign * NORM * row[place] / whole
            stack.callback(group.edit(lambda s, by=by: s + by).remove)
        expected = logits(lm, [None] * 3)
    assert (expected - logits(lm, [None] * 3)).abs().max() > 1e-3
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))


def test_squares_of_the_shares_sum_to_one_and_small_ones_can_be_left_out(made: Any) -> None:
    lm, folder, _, path = made
    every = latent(folder, path).shares
    assert list(every) == sorted(every) and len(every) == 7 * lm.depth
    assert sum(share**2 for share in every.values()) == pytest.approx(1)
    middle = sorted(every.values())[len(every) // 2 :][:2]
    least = sum(middle) / 2  # between two shares
    few = latent(folder, path, least=least).shares
    assert set(few) == {site for site, share in every.items() if share >= least} and len(few) < len(every)
    assert sum(share**2 for share in few.values()) == pytest.approx(1)
    ratios = {few[site] / every[site] for site in few}
    assert max(ratios) == pytest.approx(min(ratios))
    (largest,) = latent(folder, path, least=0.999).shares
    assert every[largest] == max(every.values())


def test_rows_do_not_touch_each_other(made: Any) -> None:
    lm, folder, _, path = made
    up, down = latent(folder, path, least=0.1), latent(folder, path, latent=3, sign=-1)
    rows = [edits(up, NORM), (), edits(down, 2 * NORM)]
    together = logits(lm, rows)
    for number, row in enumerate(rows):
        alone = logits(lm, [row], IDS[number : number + 1])
        torch.testing.assert_close(together[number : number + 1], alone, rtol=1e-4, atol=1e-4)


def test_a_condition_adds_one_norm_over_all_its_sites(made: Any) -> None:
    lm, folder, _, path = made
    key, norms = VectorKey(source="base", label="x", window=(0, 1)), {layer: 1.0 + layer for layer in range(9)}
    vectors: Any = {key: SimpleNamespace(norm=lambda layer: norms[layer])}
    models = SimpleNamespace(trained={"adapter.0": SimpleNamespace(folder=folder)}, depth=lambda name: lm.depth)
    run: Any = SimpleNamespace(
        planned=False,
        models=models,
        folder=folder,
        peek=lambda group: SimpleNamespace(layer=1, tokens="all"),
        vector=lambda source: key,
    )
    placed = placed_latent(adding_to(run, MovedConfig(), 0, vectors), path.name, LATENT, 3.0)
    assert [each.site for each in placed] == latent(folder, path).sites(lm.depth)
    assert all(norm_of(each, vectors) == pytest.approx(3.0 * norms[1]) for each in placed)
    assert str(folder) not in str([each.to_json() for each in placed])
    expected = logits(lm, edits(latent(folder, path), 6.0))
    steerer = registry.build("steerers", placed[0].steerer)
    found = logits(lm, tuple(Edit(steerer, each.site, norm_of(each, vectors)) for each in placed))
    torch.testing.assert_close(found, expected)


def test_the_key_follows_both_files(made: Any, tmp_path: Path) -> None:
    lm, folder, _, path = made
    other = sae_of(lm, tmp_path / "other.safetensors", "raw", drop=(0,))
    assert other.latents

    def key(sae: Path) -> Any:
        spec = PluginSpec(name="sae-latent", adapter=str(folder), sae=str(sae), latent=LATENT)
        return spec_identity("steerers", spec).settings

    (tmp_path / "same.safetensors").write_bytes(path.read_bytes())
    assert key(tmp_path / "same.safetensors") == key(path) != key(tmp_path / "other.safetensors")


def test_what_is_wrong_is_said_in_words(made: Any, tmp_path: Path) -> None:
    lm, folder, _, path = made
    with pytest.raises(SteerkitError, match=r"latent 9999: the SAE has \d+, numbered from 0"):
        latent(folder, path, latent=9999).sites(4)
    with pytest.raises(SteerkitError, match="not a file of a trained SAE"):
        latent(folder, folder / "adapter_model.safetensors").sites(4)
    with_lora("llama", tmp_path, seed=5)
    with pytest.raises(SteerkitError, match="give the file of an SAE of this adapter"):
        latent(tmp_path, path).sites(4)
    sae_of(lm, tmp_path / "zero.safetensors", "raw", drop=tuple(range(7 * lm.depth)))
    with pytest.raises(SteerkitError, match="latent 7 moves no scalar that adds something"):
        latent(folder, tmp_path / "zero.safetensors").sites(4)
    one = latent(folder, path, least=0.999)
    elsewhere = next(Site(0, part) for part in ("q", "k") if Site(0, part) not in one.sites(4))  # type: ignore[arg-type]
    with pytest.raises(SteerkitError, match=r"latent 7 acts at block .* and was placed at block 0"):
        logits(lm, (Edit(one, elsewhere, 1.0),))


def test_a_fused_projection_is_refused_by_name(tmp_path: Path) -> None:
    lm = with_lora("gpt2", tmp_path)
    sae_of(lm, tmp_path / "sae.safetensors", "raw")
    with pytest.raises(SteerkitError, match=r"0\.c_attn, 1\.c_attn, 2\.c_attn: c_attn makes several parts"):
        latent(tmp_path, tmp_path / "sae.safetensors").sites(3)
