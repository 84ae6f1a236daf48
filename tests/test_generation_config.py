"""Sampling as a model's maker says, and the tokens that end a text: from the file to a run's texts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from console import Steerkit
from tiny import EOS, build
from transformers import GenerationConfig

from steerkit import registry
from steerkit.artifacts import Condition
from steerkit.callbacks import SteeringCallback
from steerkit.context import Run
from steerkit.errors import InputError, SteerkitError
from steerkit.findings import Findings
from steerkit.generation.generation_config import sampling_of
from steerkit.generation.sampling import Sampling
from steerkit.generation.stream import GenerationRow, end_ids, generate
from steerkit.models.language_model import LanguageModel
from steerkit.models.loading import load_generation_config, load_model
from steerkit.parts import Experiment
from steerkit.recipe.load import load_recipe
from steerkit.report.facts import made_with
from steerkit.report.run import Run as ReportRun
from steerkit.run import SteeringTrainer
from steerkit.settings import SteeringArguments
from steerkit.steps.texts import decoding

WORDS = ["w1 w2 the sum", "w3 w4 is w5 wait", "hmm w6 but w7", "w8 w9 w10", "w11 the w12", "w13 is w14 ."]


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ({"do_sample": True, "temperature": 0.6, "top_p": 0.95}, {"temperature": 0.6, "top_p": 0.95}),  # R1, Qwen3
        ({"do_sample": True, "temperature": 0.7, "top_k": 20, "top_p": 0.8, "repetition_penalty": 1.0}, None),
        ({"do_sample": True}, {"temperature": 1}),  # gpt-oss; transformers would take its own top_k of 50
        ({"do_sample": True, "top_k": 64, "top_p": 0.95}, {"temperature": 1, "top_k": 64, "top_p": 0.95}),  # Gemma 3
        ({"do_sample": True, "temperature": 1.5, "min_p": 0.1, "top_k": 0}, {"temperature": 1.5, "min_p": 0.1}),
        ({"do_sample": True, "temperature": 1.0, "top_k": -1, "top_p": 1.0}, {"temperature": 1, "top_p": 1}),
        ({"temperature": 0.6, "top_p": 0.9}, {"temperature": 0.6, "top_p": 0.9}),
        ({"do_sample": False}, {"temperature": 0}),
        ({"do_sample": False, "temperature": 0.6, "top_p": 0.9}, {"temperature": 0}),
    ],
)
@pytest.mark.filterwarnings("ignore")  # transformers' own, of settings that greedy decoding doesn't use
def test_what_a_generation_config_says(said: dict[str, Any], expected: dict[str, Any] | None) -> None:
    known = {k: v for k, v in said.items() if k in ("temperature", "top_k", "top_p")}
    assert sampling_of(GenerationConfig(**said, max_length=99, bos_token_id=3), "m") == Sampling(**(expected or known))


@pytest.mark.parametrize("config", [None, GenerationConfig(eos_token_id=[1, 2], max_length=300)])
def test_one_that_says_nothing_of_sampling_is_an_error(config: Any) -> None:
    with pytest.raises(SteerkitError, match="m has no sampling settings of its own"):
        sampling_of(config, "m")


def test_settings_that_are_not_applied_are_refused_by_name() -> None:
    config = GenerationConfig(
        do_sample=True,
        temperature=0.7,
        top_p=0.8,
        repetition_penalty=1.05,
        presence_penalty=1.5,
        suppress_tokens=[5, 6],
        bad_words_ids=[[7]],
        no_repeat_ngram_size=0,
        frequency_penalty=0.0,
        num_beams=1,
    )
    with pytest.raises(SteerkitError) as caught:
        sampling_of(config, "m")
    assert str(caught.value) == (
        "m: its generation_config also sets repetition_penalty 1.05, presence_penalty 1.5, bad_words_ids [[7]], "
        "suppress_tokens [5, 6], which steerkit does not apply; to sample without that, give temperature: 0.7, "
        "top_p: 0.8 yourself, in place of the model's own settings"
    )


@pytest.mark.filterwarnings("ignore")
def test_impossible_values_are_named() -> None:
    config = GenerationConfig()
    config.temperature, config.top_p = -1.0, 7.0
    with pytest.raises(InputError, match="m: sampling settings of its generation_config: 2 problems\n  temperature: "):
        sampling_of(config, "m")


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model on disk as Llama 3's instruct models are: two end tokens, only one of them the tokenizer's."""
    lm, folder = build("llama"), tmp_path_factory.mktemp("models") / "instruct"
    lm.model.generation_config = GenerationConfig(
        do_sample=True,
        temperature=1.3,
        top_k=40,
        top_p=0.95,
        eos_token_id=[EOS, lm.tokenizer.convert_tokens_to_ids("w7")],
    )
    lm.model.save_pretrained(folder)
    lm.tokenizer.save_pretrained(folder)
    for file in ("tokenizer.json", "tokenizer_config.json"):
        text = (folder / file).read_text(encoding="utf-8").replace('"w7"', '"<|eot_id|>"')
        (folder / file).write_text(text, encoding="utf-8")
    return folder


def test_all_end_tokens_of_a_model_on_disk_end_a_text(saved: Path) -> None:
    lm = load_model(str(saved))
    turn = lm.tokenizer.convert_tokens_to_ids("<|eot_id|>")
    assert lm.tokenizer.eos_token_id == EOS and end_ids(lm) == sorted([EOS, turn])
    rows = [GenerationRow([2, 5, 9], i) for i in range(60)]
    free = LanguageModel(lm.name, build("llama").model, lm.tokenizer)
    ended = generate(lm, rows, max_new_tokens=60, temperature=2.0)
    for text, longer in zip(ended, generate(free, rows, max_new_tokens=60, temperature=2.0), strict=True):
        assert turn not in text.ids
        assert text.ids == longer.ids[: longer.ids.index(turn) if turn in longer.ids else None]
        assert text.finished == (longer.finished or turn in longer.ids)
    assert any(text.finished for text in ended)


def test_a_plan_reads_it_without_the_weights(saved: Path, tmp_path: Path, steerkit: Steerkit) -> None:
    models = f"models={{base: {saved}, reasoning: {saved}}}"
    given = ("--set", models, "--set", "layer=1", "--set", "sampling=model")
    done = steerkit("recipe", "run", "backtracking", "--dry-run", "--gpu", "h100", *given)
    assert done.returncode == 0, done.stderr
    assert f"sampling    temperature 1.3, top_k 40, top_p 0.95, as the generation_config of {saved} says" in done.stdout
    done = steerkit("recipe", "run", "backtracking", "--dry-run", "--gpu", "h100", "--set", "sampling=model")
    assert done.returncode == 2 and "pocket:reasoning has no sampling settings of its own" in done.stderr
    done = steerkit("recipe", "run", "backtracking", "--dry-run", "--gpu", "h100", "--set", "top_p=0.9")
    assert "sampling    temperature 1, top_p 0.9\n" in done.stdout
    assert load_generation_config("pocket:base") is None or not load_generation_config("pocket:base").do_sample


def test_a_recipe_names_what_is_wrong_with_its_sampling(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("extends: backtracking\nname: mine\ntop_k: 0\ntop_p: 1.2\nmin_p: hot\nsampling: modl\n")
    with pytest.raises(InputError) as caught:
        load_recipe(str(path))
    lines = str(caught.value).splitlines()
    assert [line.split(": ", 1)[1] for line in lines[1:]] == [
        "'top_k': input should be greater than or equal to 1, not 0; Sample from this many of the likeliest tokens; "
        "from all when left out",
        "'top_p': input should be less than or equal to 1, not 1.2; Sample from the likeliest tokens, as few as have "
        "this probability together (R1's makers: 0.95)",
        "'min_p' must be a number, not \"hot\"; Sample from tokens at least this many times as likely as the "
        "likeliest. Order: top_k, top_p, min_p",
        "'sampling' is 'modl', but must be 'recipe' or 'model'",
    ]
    assert [line.split(":")[1] for line in lines[1:]] == ["3", "4", "5", "6"]
    with pytest.raises(InputError, match="sampling: model takes the model's own top_p, min_p; leave the recipe's out"):
        load_recipe("backtracking", ["sampling=model", "top_p=0.9", "min_p=0.1"])


class Plain(Experiment):
    """Texts of the model as it is."""

    def conditions(self, run: Run, *needs: Any, **_: Any) -> Sequence[Condition]:
        return [run.unsteered("llama")]

    def findings(self, run: Run, results: Any, *needs: Any, **_: Any) -> Findings:
        return Findings(title="Plain")


@pytest.fixture
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_local", {})
    registry.register("experiments", "plain")(Plain)


def tiny_run(folder: Path, lm: LanguageModel, heard: SteeringCallback | None = None, **more: Any) -> SteeringTrainer:
    args = SteeringArguments(
        output_dir=str(folder),
        max_new_tokens=6,
        per_device_batch_size=8,
        threads=1,
        span_judge="keyword",
        score_judge="keyword",
        extractor={"name": "offset-window", "windows": [[-2, -1]]},
        fitter={"name": "dom", "label": "backtracking", "window": [-2, -1]},
        steerer="residual-add",
        layer=1,
        strengths=[2.0],
        experiments=["plain"],
        resamples=100,
        **more,
    )
    counts = {"extract": 4, "choose": 1, "test": 1}
    callbacks = [heard] if heard else []
    return SteeringTrainer({"llama": lm}, args=args, prompts=WORDS, counts=counts, callbacks=callbacks)


def test_a_run_takes_the_models_own_and_says_so(tmp_path: Path, plain: None) -> None:
    heard: list[Any] = []

    class Listen(SteeringCallback):
        def on_log(self, run: Run, values: Any) -> None:
            heard.extend([values] if "sampling" in values else [])

    lm = build("llama")
    given = {"temperature": 1.4, "top_k": 30, "top_p": 0.9}
    lm.model.generation_config.update(do_sample=True, **given)
    texts = {}
    for name, more in (("model", {"sampling": "model"}), ("recipe", given), ("plain", {"temperature": 1.4})):
        trainer = tiny_run(tmp_path / name, lm, Listen(), **more)
        trainer.run()
        texts[name] = (tmp_path / name / "generations/test.jsonl").read_bytes()
    assert texts["model"] == texts["recipe"] != texts["plain"]
    assert heard == [{"sampling": given, "sampling_of": "llama"}] * 2  # traces, and texts on the test prompts
    recipe = yaml.safe_load((tmp_path / "model/recipe.yaml").read_text())
    assert (recipe["sampling"], recipe["made_with"]["sampling"]) == ("model", given)
    shown = dict(made_with(ReportRun.read(tmp_path / "model")))
    assert (shown["sampling"], shown["sampling of"]) == ("temperature 1.4, top_k 30, top_p 0.9", "llama")


def test_a_changed_generation_config_is_another_step(tmp_path: Path, plain: None) -> None:
    """Texts depend on it: on the end tokens always, on its sampling when that is asked for."""
    lm = build("llama")
    lm.model.generation_config.update(do_sample=True, temperature=0.9)
    keys = []
    for change in ({}, {"temperature": 0.8}, {"temperature": 0.9, "eos_token_id": [EOS, 5]}):
        lm.model.generation_config.update(**change)
        keys.append(json.dumps(decoding(tiny_run(tmp_path / "run", lm, sampling="model").context, ["llama"])))
    assert len(set(keys)) == 3


def test_the_command_that_tries_a_vector(saved: Path, tmp_path: Path, steerkit: Steerkit) -> None:
    import torch

    from steerkit.vectors.info import VectorInfo
    from steerkit.vectors.steering_vector import SteeringVector

    SteeringVector({1: torch.ones(16)}, VectorInfo(method="x", label="y", window=None)).save(tmp_path / "v.safetensors")
    words = ("generate", str(saved), str(tmp_path / "v.safetensors"), "the sum", "--max-new-tokens", "8")
    own = steerkit(*words, "--model-sampling")
    assert own.returncode == 0, own.stderr
    said = f"sampled with temperature 1.3, top_k 40, top_p 0.95, as the generation_config of {saved} says"
    assert said.replace(" ", "") in own.stdout.replace("\n", "").replace(" ", "")
    same = steerkit(*words, "--temperature", "1.3", "--top-k", "40", "--top-p", "0.95")
    assert own.stdout.endswith(same.stdout) and same.stdout != steerkit(*words, "--temperature", "3").stdout
    done = steerkit(*words, "--model-sampling", "--min-p", "0.1")
    assert "error: --model-sampling takes the model's own settings; leave --min-p out" in done.stderr
    done = steerkit(*words, "--top-p", "0", "--temperature", "-1")
    assert done.returncode == 2 and "sampling: 2 problems\n  temperature: input should be greater" in done.stderr
