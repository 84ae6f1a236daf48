"""The vLLM engine against transformers, in an environment with vLLM (`make test-vllm` makes one)."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    pytest.importorskip("vllm", reason="vLLM is not installed here; `make test-vllm` installs it apart and runs these")

from steerkit_plugins.engines.vllm import VLLMEngine

from steerkit import registry
from steerkit.errors import SteerkitError
from steerkit.generation.parity import PROMPTS, check_rows, compare, random_direction
from steerkit.generation.sampled_parity import compare_sampled
from steerkit.generation.sampling import GREEDY, Sampling
from steerkit.generation.stream import GenerationRow, generate
from steerkit.interventions.steering import Edit
from steerkit.models.language_model import LanguageModel
from steerkit.models.loading import load_model
from steerkit.models.models import Models
from steerkit.vectors.info import VectorInfo
from steerkit.vectors.steering_vector import SteeringVector

pytestmark = pytest.mark.filterwarnings("ignore")

LOADED = {"bf16": False, "device_map": None, "trust_remote_code": False}
STRENGTHS = [0.0, 0.25, 0.5, 1.0, 2.0]
STEERERS = ("residual-add", "gaussian-noise", "self-amplify")


@pytest.fixture(scope="module")
def pocket() -> LanguageModel:
    return load_model("pocket:reasoning")


@pytest.fixture(scope="module")
def engine(pocket: LanguageModel) -> Iterator[VLLMEngine]:
    found = VLLMEngine(gpu_memory_utilization=0.1)
    found.start(Models({"reasoning": pocket}), LOADED)
    yield found
    found.close()


def steerers(*names: str) -> dict:
    return {name: registry.get("steerers", name)() for name in names}


@pytest.mark.parametrize("layer", [0, 1, 3])
def test_steered_log_probs_tokens_and_counts_are_those_of_transformers(engine, pocket, layer) -> None:
    rows = check_rows(pocket, PROMPTS, STRENGTHS, layer, steerers(*STEERERS))
    for found in compare(pocket, engine, "reasoning", rows, max_new_tokens=24, tolerance=1e-3):
        print(f"block {layer}: {found}")
        assert found.passed and found.rows == 15
        assert found.error < 1e-3 and found.steered == found.expected > 0


@pytest.mark.parametrize(
    "given", [{}, {"top_p": 0.7}, {"top_k": 3}, {"min_p": 0.3}, {"top_k": 20, "top_p": 0.9, "min_p": 0.05}], ids=str
)
def test_sampled_texts_are_paired_with_those_of_transformers(engine, pocket, given) -> None:
    """The same filters, and the same noise by row and step, so the same texts."""
    sampling = Sampling(temperature=1.5, **given)
    rows = check_rows(pocket, PROMPTS, STRENGTHS, 1, steerers("residual-add"))["residual-add, all"]
    seen: list[int] = []
    ours = engine.generate("reasoning", rows, max_new_tokens=40, sampling=sampling, batch_size=4, progress=seen.append)
    theirs = generate(pocket, rows, max_new_tokens=40, **sampling.model_dump())
    assert ours == theirs
    assert seen[-1] == len(rows) and seen == sorted(seen)
    greedy = generate(pocket, rows, max_new_tokens=40, temperature=0)
    assert sum(a != b for a, b in zip(theirs, greedy, strict=True)) > len(rows) // 2
    if given:
        assert theirs != generate(pocket, rows, max_new_tokens=40, temperature=1.5)
    parity = compare_sampled(
        pocket, engine, "reasoning", rows, "", sampling=sampling, max_new_tokens=24, tolerance=1e-3
    )
    assert parity.passed and not parity.ties


def test_conditions_do_not_meet_in_the_prefix_cache(engine, pocket, monkeypatch) -> None:
    rows = check_rows(pocket, PROMPTS[2:], [3.0, 0.0, 1.5, 3.0], 1, steerers("residual-add"))["residual-add, all"]
    assert len(rows[0].prompt_ids) > 128
    engine.greedy("reasoning", rows, max_new_tokens=4)
    outputs, _ = engine._run("reasoning", rows, 8, GREEDY, lambda done: None)
    assert all(output.num_cached_tokens >= 128 for output in outputs)  # each found its own
    (whole,) = compare(pocket, engine, "reasoning", {"": rows}, max_new_tokens=8, tolerance=1e-3)
    assert whole.passed
    monkeypatch.setattr(engine, "_salt", lambda edit: "unsteered")
    (mixed,) = compare(pocket, engine, "reasoning", {"": rows}, max_new_tokens=8, tolerance=1e-3)
    assert mixed.error > 0.1  # so the test above can fail


def test_a_steerer_of_a_local_file_steers_in_the_workers(engine, pocket, tmp_path) -> None:
    path = tmp_path / "halve.py"
    path.write_text(
        "import steerkit\n"
        "from steerkit.interfaces import Steerer\n"
        "SHARE = 0.5\n"
        "@steerkit.register('steerers', 'halve')\n"
        "class Halve(Steerer):\n"
        "    direction = 'none'\n"
        "    def edit(self, hidden, at):\n"
        "        return hidden * SHARE\n"
    )
    registry.load_file(path)
    rows = check_rows(pocket, PROMPTS[:2], [0.0, 1.0], 2, steerers("halve"))
    for found in compare(pocket, engine, "reasoning", rows, max_new_tokens=12, tolerance=1e-3):
        assert found.passed and found.steered > 0


def test_a_run_that_steers_nothing_is_an_error(engine, pocket) -> None:
    """One new token: nothing generated is ever fed back, so `tokens: generated` has nothing to steer."""
    add = registry.get("steerers", "residual-add")()
    edit = Edit(add, 1, 1.0, random_direction(pocket.width), "generated")
    row = GenerationRow([1, 20, 30], 0, (edit,))
    with pytest.raises(SteerkitError, match="steering changed no position of 1 rows in vLLM"):
        engine.generate("reasoning", [row], max_new_tokens=1, sampling=GREEDY, batch_size=1, progress=lambda done: None)


def test_a_prompt_that_is_too_long_is_refused_in_words(engine) -> None:
    row = GenerationRow([1] * 500, 0)
    with pytest.raises(SteerkitError, match="a prompt of 500 tokens and 20 new ones are more than the 512"):
        engine.generate(
            "reasoning", [row], max_new_tokens=20, sampling=GREEDY, batch_size=1, progress=lambda done: None
        )


def test_an_adapter_in_memory_is_written_out_and_models_take_turns(pocket, tmp_path) -> None:
    from peft import LoraConfig, get_peft_model

    own = load_model("pocket:reasoning")
    config = LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "down_proj"], task_type="CAUSAL_LM")
    both = get_peft_model(own.model, config).eval()
    torch.manual_seed(1)
    with torch.no_grad():
        for key, weight in both.named_parameters():
            if "lora_B" in key:
                weight.normal_(std=0.2)
    models = Models(
        {
            "base": LanguageModel("base", both, own.tokenizer, adapter=False),
            "reasoning": LanguageModel("adapted", both, own.tokenizer, adapter=True),
        },
        "reasoning",
    )
    other = VLLMEngine(gpu_memory_utilization=0.1, prefix_caching=False)
    other.start(models, LOADED)
    try:
        texts = {}
        for name in ("reasoning", "base"):
            rows = check_rows(models[name], PROMPTS[:2], [0.0, 1.0], 1, steerers("residual-add"))
            (found, *_) = compare(models[name], other, name, rows, max_new_tokens=12, tolerance=1e-3)
            assert found.passed and other._folder is not None
            folder = Path(other._folder.name)
            texts[name] = generate(models[name], rows["residual-add, all"], max_new_tokens=12, temperature=0)
    finally:
        other.close()
    assert not folder.exists()
    assert texts["base"] != texts["reasoning"]
    assert texts["base"] == generate(pocket, rows["residual-add, all"], max_new_tokens=12, temperature=0)


def test_the_class_for_ray_data_in_the_docs(pocket, tmp_path) -> None:
    """What a Ray actor would do with a batch, without Ray."""
    text = (Path(__file__).parent.parent / "docs/engines.md").read_text(encoding="utf-8")
    code = text.split("```python\n")[1].split("```")[0]
    names: dict = {}
    exec(code, names)
    info = VectorInfo(method="random", label="none", window=None)
    SteeringVector({1: random_direction(pocket.width)}, info).save(tmp_path / "v.safetensors")
    options = {"max_new_tokens": 12, "gpu_memory_utilization": 0.1}
    actor = names["Steered"]("pocket:reasoning", str(tmp_path / "v.safetensors"), **options)
    try:
        batch = {"prompt": np.array([PROMPTS[0]] * 2), "strength": np.array([0.0, 30.0])}
        found = actor(batch)
    finally:
        actor.engine.close()
    assert list(found) == ["prompt", "strength", "text"]
    assert all(found["text"]) and found["text"][0] != found["text"][1]
