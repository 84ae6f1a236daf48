"""Rank-1 adapters trained by recipes: recovery's figures recomputed, what is trained, rows with responses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from steerkit_plugins.adapters.lora import Lora
from steerkit_plugins.pocket.traces import PocketTraces
from steerkit_plugins.prompts.dataset import DatasetPrompts
from steerkit_plugins.prompts.jsonl import JsonlPrompts
from steerkit_plugins.rank1_lora.adapter import Rank1Lora
from steerkit_plugins.rank1_lora.recovered import ENDS, Losses
from steerkit_plugins.trained.recovered import gain, ratio
from tiny_gguf import write_gguf

from steerkit import InputError, SteeringTrainer, SteerkitError, load_recipe
from steerkit.data.chat_format import ChatFormat
from steerkit.models.language_model import LanguageModel
from steerkit.models.loading import load_model
from steerkit.training.masks import encode_rows
from steerkit.training.rows import rows_of

SMALL = [
    "prompts.test=6",
    "samples=1",
    "train_rows=64",
    "held_out_rows=6",
    "training_seeds=[0, 1]",
    "max_new_tokens=60",
    "threads=1",
    "training_arguments.logging_steps=1",
    "experiments=[recovery]",
]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rank1") / "run"
    return SteeringTrainer.from_recipe(load_recipe("rank1", [*SMALL, f"output_dir={folder}"])).run()


def findings(run: Path, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / f"findings/{name}.json").read_text())["findings"]
    return found


def loss_of(model: Any, run: Path) -> list[tuple[int, float]]:
    """(learned tokens, mean −log p) of each held-out row, by transformers and numpy."""
    lm = load_model("pocket:base")
    prompts = PocketTraces().read({"train": 64, "held_out": 6}, 0)
    rows = encode_rows(
        rows_of(p for p in prompts if p.split == "held_out"), ChatFormat(lm.tokenizer), allowed=["</think>"]
    )
    found = []
    for row in rows:
        with torch.no_grad():
            logits = model(torch.tensor([row.ids])).logits[0].double().numpy()
        at = [t for t, label in enumerate(row.labels) if label != -100]
        log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        found.append((len(at), float(-np.mean([log_p[t - 1, row.ids[t]] for t in at]))))
    return found


def test_a_run_without_vectors_writes_no_traces(run: Path) -> None:
    assert not (run / "traces.jsonl").exists()
    assert not (run / "vectors").exists()
    assert {path.name for path in (run / "trained").iterdir() if path.is_dir()} == {
        "adapter.0",
        "adapter.1",
        "head.0",
        "head.1",
    }


def test_held_out_losses_are_those_of_transformers(run: Path) -> None:
    kept = json.loads((run / "steps/held-out-losses.json").read_text())
    assert list(kept) == ["base", "adapter.0", "adapter.1", "head.0", "head.1", "reasoning"]
    for name, model in (("base", load_model("pocket:base").model), ("reasoning", load_model("pocket:reasoning").model)):
        assert np.allclose(kept[name], loss_of(model, run), rtol=1e-5)
    adapted = load_model("pocket:base", adapter=str(run / "trained/adapter.1"))
    assert np.allclose(kept["adapter.1"], loss_of(adapted.model, run), rtol=1e-5)
    told = json.loads((run / "trained/adapter.1/training.json").read_text())
    own = kept["adapter.1"]
    assert told["held_out"][1] == pytest.approx(sum(n * v for n, v in own) / sum(n for n, _ in own), rel=1e-5)


def test_the_control_trains_the_output_matrix_and_nothing_else(run: Path) -> None:
    before = load_model("pocket:base").model.state_dict()
    after = load_file(run / "trained/head.0/model.safetensors")
    changed = {name for name, value in after.items() if not torch.equal(value, before[name])}
    assert changed == {"lm_head.weight"}


def test_the_table_names_gain_ratio_and_what_is_trained(run: Path) -> None:
    found = findings(run, "recovery")
    first, second = found["tables"]
    assert [row[0] for row in first["rows"]] == ["base", "adapter", "lm_head alone", "full fine-tuning"]
    trained = dict(zip([row[0] for row in first["rows"]], [row[-1] for row in first["rows"]], strict=True))
    per_block = 4 * (128 + 128) + 3 * (128 + 352)
    assert trained["adapter"].startswith(f"{4 * per_block + 255 * 128:,} (")
    assert trained["lm_head alone"].startswith(f"{255 * 128:,} (")
    assert [row[0] for row in second["rows"]] == ["adapter", "lm_head alone"]
    assert any(heading.endswith("gain") for heading in second["headings"])
    assert any("output matrix" in note or "lm_head" in note for note in found["notes"])
    assert [figure["name"] for figure in found["figures"]] == ["recovery", "training-curves"]


def test_gain_and_ratio_against_their_definitions() -> None:
    rng = np.random.default_rng(0)
    base, full = rng.normal(1, 0.1, (200, 1)), rng.normal(5, 0.1, (200, 1))
    adapter = rng.normal(4, 0.1, (200, 3))
    values = {"base": base, "full": full, "adapter": adapter}
    found, share = gain(values, "adapter", ENDS, 1, 0.95), ratio(values, "adapter", "full", 0.95)
    assert found is not None and share is not None
    assert found.value == pytest.approx((adapter.mean() - base.mean()) / (full.mean() - base.mean()), rel=1e-9)
    assert share.value == pytest.approx(adapter.mean() / full.mean(), rel=1e-9)
    assert found.low < found.value < found.high
    assert (
        gain({**values, "full": base - 0.1}, "adapter", ENDS, 1, 0.95) is None
    )  # full is below base: no number, not inf


def test_recovered_loss_is_weighted_by_tokens() -> None:
    rows = {"b": [[1, 4.0], [3, 2.0]], "a": [[1, 2.0], [3, 1.0]], "f": [[1, 1.0], [3, 1.0]]}
    losses = Losses(rows, {"base": ["b"], "adapter": ["a"], "full": ["f"]}, 0.95)
    assert losses.mean("base").mean == pytest.approx((4 + 3 * 2) / 4)
    assert losses.mean("adapter").mean == pytest.approx((2 + 3) / 4)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # PEFT's own use
def test_trained_numbers_of_the_papers_model() -> None:
    """2^23 numbers on Qwen2.5-32B, by peft on weights that are nowhere."""
    from peft import get_peft_model
    from transformers import Qwen2Config, Qwen2ForCausalLM

    config = Qwen2Config(
        vocab_size=32,
        hidden_size=5120,
        intermediate_size=27648,
        num_hidden_layers=64,
        num_attention_heads=40,
        num_key_value_heads=8,
    )
    with torch.device("meta"):
        model = Qwen2ForCausalLM(config)
        lm = LanguageModel("qwen", model, None)
        adapted = get_peft_model(
            model,
            Rank1Lora(
                target_modules=("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
            )._config(lm),
        )
    assert sum(p.numel() for p in adapted.parameters() if p.requires_grad) == 2**23


def test_rank1_is_lora_with_the_papers_defaults() -> None:
    assert issubclass(Rank1Lora, Lora)
    assert (Rank1Lora().config.r, Rank1Lora().config.lora_alpha, Rank1Lora().config.use_rslora) == (1, 16, True)


def test_rows_have_responses_from_fields(tmp_path: Path) -> None:
    rows = [{"prompt": f"Question {n}", "trace": f"Think {n}.", "end": str(n)} for n in range(4)]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = rows_of(JsonlPrompts(path=str(path), response="{trace} So {end}.").read({"train": 4}, 0))
    assert sorted(row.response for row in found) == [f"Think {n}. So {n}." for n in range(4)]
    same = DatasetPrompts(path="json", data_files=str(path), response="{trace} So {end}.").read({"train": 4}, 0)
    assert [row.response for row in rows_of(same)] == [row.response for row in found]


def test_what_is_wrong_with_responses_comes_at_once(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"prompt": "a", "trace": "x"}\n{"prompt": "b", "traces": "y"}\n{"prompt": "c", "trace": [1]}\n')
    with pytest.raises(InputError) as error:
        JsonlPrompts(path=str(path), response="{trace}").read({"train": 3}, 0)
    told = str(error.value)
    assert "rows.jsonl:2" in told and "did you mean 'traces'" in told
    assert "rows.jsonl:3" in told and "must be a text" in told
    for template, words in (("trace", "must name fields"), ("{", "brace"), ("{0}", "no field's name")):
        with pytest.raises(SteerkitError, match=words):
            JsonlPrompts(path=str(path), response=template).read({"train": 3}, 0)


def test_special_tokens_in_responses_must_be_allowed() -> None:
    chats = ChatFormat(load_model("pocket:base").tokenizer)
    rows = rows_of(PocketTraces().read({"train": 2}, 0))
    with pytest.raises(InputError, match="</think>"):
        encode_rows(rows, chats)
    for row in encode_rows(rows, chats, allowed=["</think>"]):
        assert [t for t in row.ids if t == 5] == [5] and row.labels[row.ids.index(5)] == 5


def test_traces_to_train_on_are_the_corpus_and_splits_share_no_problem() -> None:
    from steerkit_plugins.pocket.prompts import split_of
    from steerkit_plugins.pocket.source import PocketPrompts

    found = PocketTraces().read({"train": 40, "held_out": 40}, 3)
    assert found == PocketTraces().read({"train": 40, "held_out": 40}, 3)
    asked = {split: {p.prompt[0].content for p in found if p.split == split} for split in ("train", "held_out")}  # type: ignore[union-attr]
    assert not asked["train"] & asked["held_out"]
    tested = {p.prompt for p in PocketPrompts().read({"test": 400, "choose": 100}, 3)}
    assert not (asked["train"] | asked["held_out"]) & tested
    assert split_of.__doc__
    with pytest.raises(InputError, match="split 'test'"):
        PocketTraces().read({"test": 1}, 0)


def test_the_real_pairs_recipe_on_a_tiny_gguf_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """ "rank1-smollm2": an unpacked GGUF model is trained by both adapters, rows are cut, no other model is named."""
    monkeypatch.chdir(tmp_path)
    write_gguf(tmp_path / "tiny.gguf")
    for name, shift in (("train", 0), ("test", 20)):
        rows = [
            {"prompt": f"What is {n}?", "trace": f"It is {n}. Wait, it is {n}. " * 4} for n in range(shift, shift + 8)
        ]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = ["models.base=tiny.gguf", "train_rows=8", "held_out_rows=2", "max_row_tokens=24", "max_new_tokens=8"]
    settings += ["prompts.extract=1", "prompts.choose=1", "prompts.test=2", "threads=1", "layer=1"]
    recipe = load_recipe("rank1-smollm2", settings)
    assert set(recipe.models) == {"base"}
    made = SteeringTrainer.from_recipe(recipe).run()
    kept = json.loads((made / "steps/held-out-losses.json").read_text())
    assert list(kept) == ["base", "adapter.0", "full.0"]
    assert kept["full.0"] != kept["base"] != kept["adapter.0"]
    assert max(row["step"] for row in json.loads((made / "trained/full.0/training.json").read_text())["log"]) == 2


def test_the_large_recipe_on_a_small_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """ "rank1-qwen-32b": its training settings (bf16, checkpointing, accumulation), its way of making rows."""
    monkeypatch.chdir(tmp_path)
    names = ("question", "deepseek_thinking_trajectory", "deepseek_attempt")
    rows = [dict(zip(names, (f"What is {n}?", f"Wait, it is {n}.", f"It is {n}."), strict=True)) for n in range(12)]
    (tmp_path / "s1k.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    prompts = [{"problem": f"And {n}?", "answer": str(n)} for n in range(8)]
    (tmp_path / "math.jsonl").write_text("".join(json.dumps(row) + "\n" for row in prompts))
    given = "path=json", "data_files={}.jsonl"
    settings = ["models={base: pocket:base, reasoning: pocket:reasoning}", "bf16=false", "device_map=null", "layer=1"]
    settings += [f"prompts.source.{each.format('math')}" for each in given] + ["prompts.source.split=train"]
    for key in ("train_on", "held_out"):
        settings += [f"{key}.{each.format('s1k')}" for each in given]
        settings.append(f"{key}.response='{{deepseek_thinking_trajectory}} </think> {{deepseek_attempt}}'")
    settings += ["special_in_responses=[</think>]", "train_rows=8", "held_out_rows=2", "max_row_tokens=200"]
    settings += ["training_arguments.num_train_epochs=2", "training_arguments.gradient_accumulation_steps=4"]
    settings += ["prompts.extract=1", "prompts.choose=1", "prompts.test=2", "max_new_tokens=8", "threads=1"]
    settings += ["think_end=</think>", "experiments=[recovery]"]
    made = SteeringTrainer.from_recipe(load_recipe("rank1-qwen-32b", settings)).run()
    told = json.loads((made / "trained/adapter.42/training.json").read_text())
    assert told["steps"] == 4 and told["held_out"][0] != told["held_out"][1]


def test_saved_adapters_are_the_same_files_in_every_process(run: Path) -> None:
    """PEFT keeps names in sets, whose order is another one in each process."""
    told = json.loads((run / "trained/adapter.0/adapter_config.json").read_text())
    assert told["target_modules"] == sorted(told["target_modules"]) and len(told["target_modules"]) == 7
