"""Models by name: ids held against the writer's, differences named, maps of ids accepted and used."""

from __future__ import annotations

import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from adapter_zoo import WORKING, save_adapter, save_base
from tiny import VOCABULARY, build, tiny, word_tokenizer
from transformers import AutoModelForCausalLM, LlamaConfig

from steerkit import load_arguments, registry
from steerkit.data.trace import Span, Trace
from steerkit.errors import InputError, SteerkitError
from steerkit.models.language_model import LanguageModel
from steerkit.models.model_spec import Loading, ModelSpec
from steerkit.models.models import Models, load_models
from steerkit.run import SteeringTrainer

THINK = ("<think>", "</think>")
FIRST = VOCABULARY + 1


@pytest.fixture(scope="module")
def base() -> LanguageModel:
    return tiny("llama")


@pytest.fixture(scope="module")
def thinker() -> LanguageModel:
    """Two special tokens more than the base's tokenizer knows."""
    return LanguageModel("thinker", build("llama", 1).model, word_tokenizer(THINK))


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Two models of one vocabulary, an adapter on the first, and a model with two tokens more, in folders."""
    folder = tmp_path_factory.mktemp("models")
    found = {"a": save_base(folder / "a")}
    for name, words in (("b", ()), ("c", THINK)):
        build("llama", 1).model.save_pretrained(folder / name)
        word_tokenizer(words).save_pretrained(folder / name)
        found[name] = str(folder / name)
    return {**found, "adapter": save_adapter(folder / "adapter")}


def pair(base: Any, reasoning: Any, id_map: dict[int, int] | None = None) -> Models:
    given = (base, {"reasoning": id_map}) if id_map is not None else base
    return load_models({"base": given, "reasoning": reasoning}, writer="reasoning")


# --- ids -------------------------------------------------------------------------------------------------------------


def test_differing_ids_are_refused_and_the_first_named(base, thinker) -> None:
    with pytest.raises(SteerkitError) as caught:
        pair(base, thinker)
    text = str(caught.value)
    assert "the tokenizers of reasoning and base disagree on 2 ids that are not in id_map; the first:" in text
    assert f"id {FIRST}: '<think>' in thinker, None in llama" in text
    assert "under `models.base.id_map.reasoning`" in text


def test_only_the_first_five_of_many_are_shown(base) -> None:
    many = LanguageModel("many", build("llama", 1).model, word_tokenizer(tuple(f"x{i}" for i in range(9))))
    with pytest.raises(SteerkitError, match="disagree on 9 ids") as caught:
        pair(base, many)
    assert str(caught.value).count("  id ") == 5


def test_id_map_is_accepted_and_used(base, thinker) -> None:
    with pytest.raises(SteerkitError, match="disagree on 1 ids"):
        pair(base, thinker, {FIRST: 6})
    models = pair(base, thinker, {FIRST: 6, FIRST + 1: 7})
    ids = [2, FIRST, 9, FIRST + 1]
    assert models.ids_for("base", ids) == [2, 6, 9, 7]
    assert models.ids_for("reasoning", ids) == ids
    assert ids == [2, FIRST, 9, FIRST + 1]
    assert (models["base"], models["reasoning"]) == (base, thinker)
    assert models.tokenizer is thinker.tokenizer


def test_items_are_as_a_model_reads_them(base, thinker) -> None:
    models = pair(base, thinker, {FIRST: 6, FIRST + 1: 7})
    trace = Trace(id="t", prompt_id="t", prompt="", text="xy", prompt_ids=(2, FIRST), ids=(9, FIRST + 1), starts=(0, 1))
    spans = [Span(trace_id=name, label="x", judge="j", start=0, end=1, first=2, last=2) for name in ("t", "other")]
    for name, ids in (("base", [2, 6, 9, 7]), ("reasoning", [2, FIRST, 9, FIRST + 1])):
        (item,) = models.items(name, [trace], spans)
        assert (item.trace, list(item.spans), list(item.ids)) == (trace, spans[:1], ids)


def test_ids_that_are_mapped_to_themselves_are_not_changed(base, thinker) -> None:
    models = Models({"base": (base, {"reasoning": {2: 2, FIRST: 6}}), "reasoning": thinker}, "reasoning")
    assert models.mapped("base") == {FIRST: 6}
    assert models.mapped("reasoning") == {}


def test_an_id_map_to_an_id_that_the_model_lacks(base, thinker) -> None:
    said = rf"models.base.id_map.reasoning: {FIRST + 1} is mapped to 900, but llama has no such id"
    with pytest.raises(SteerkitError, match=said):
        pair(base, thinker, {FIRST: 6, FIRST + 1: 900})


def test_three_models_have_maps_of_their_own(base, thinker) -> None:
    other = LanguageModel("other", build("llama", 2).model, base.tokenizer)
    given = {"base": (base, {"reasoning": {FIRST: 6, FIRST + 1: 7}}), "reasoning": thinker}
    with pytest.raises(SteerkitError, match="the tokenizers of reasoning and other disagree on 2 ids"):
        load_models({**given, "other": other}, writer="reasoning")
    models = load_models({**given, "other": (other, {"reasoning": {FIRST: 8, FIRST + 1: 9}})}, writer="reasoning")
    assert [models.ids_for(name, [FIRST]) for name in models] == [[6], [FIRST], [8]]


def test_keys_of_a_map_may_be_texts() -> None:
    """As JSON has them."""
    spec = ModelSpec.model_validate({"weights": "x", "id_map": {"reasoning": {"4": 251}}})
    assert spec.id_map == {"reasoning": {4: 251}}
    assert ModelSpec.model_validate_json(spec.model_dump_json()) == spec


# --- names -----------------------------------------------------------------------------------------------------------


def test_names_that_are_no_models(base, thinker) -> None:
    with pytest.raises(SteerkitError, match="a run needs a model: `models: "):
        Models({})
    with pytest.raises(SteerkitError, match="say which of the models writes the traces: `writer:` one of base, other"):
        Models({"base": base, "other": base})
    with pytest.raises(SteerkitError, match="models: none is called 'reasonin'; did you mean 'reasoning'"):
        Models({"base": base, "reasoning": base}, "reasonin")
    with pytest.raises(SteerkitError, match="models: none is called 'reasoner'"):
        Models({"base": (base, {"reasoner": {4: 5}}), "reasoning": thinker}, "reasoning")
    with pytest.raises(SteerkitError, match="models: none is called 'x'"):
        Models({"base": base})["x"]


def test_one_model_writes_for_itself(base) -> None:
    models = Models({"only": base})
    assert (models.writer, list(models), len(models)) == ("only", ["only"], 1)


def test_one_model_may_have_two_names(base, folders) -> None:
    assert pair(base, base).same("base", "reasoning")
    assert pair(base, LanguageModel("copy", build("llama").model, base.tokenizer)).same("base", "reasoning")
    other = LanguageModel("other", build("llama", 1).model, base.tokenizer)
    assert not pair(base, other).same("base", "reasoning")
    twice = load_models({"x": folders["a"], "y": folders["a"]}, writer="x")
    assert twice["x"] is twice["y"]


def test_alike_needs_no_weights(base, folders) -> None:
    a, b = folders["a"], folders["b"]
    models = Models({"x": a, "y": a, "z": b, "mapped": {"weights": a, "id_map": {"x": {5: 6}}}}, "x")
    assert [models.alike("x", name) for name in models] == [True, True, False, False]
    there = Models({"x": base, "y": base, "z": build("llama")}, "x")
    assert [there.alike("x", name) for name in there] == [True, True, False]


def test_a_vector_of_another_width_is_refused_before_a_run(base) -> None:
    config = LlamaConfig(**{**base.model.config.to_dict(), "num_hidden_layers": 5, "hidden_size": 24})
    wide = LanguageModel("wide", AutoModelForCausalLM.from_config(config), base.tokenizer)
    arguments = load_arguments("backtracking", experiments=["transfer"], layer=1)
    with pytest.raises(InputError) as caught:
        SteeringTrainer({"base": base, "reasoning": wide}, args=arguments)
    (problem,) = {problem.message: problem for problem in caught.value.problems}.values()
    assert problem.where == "models.reasoning"
    assert problem.message == "is 5 blocks × 24, and would be steered with a vector of base, which is 4 × 16"
    deep = LanguageModel("deep", build("qwen2").model, base.tokenizer)  # as wide, and of another depth
    SteeringTrainer({"base": base, "reasoning": deep}, args=arguments)


# --- loading ---------------------------------------------------------------------------------------------------------


def test_models_are_loaded_from_folders(base, folders) -> None:
    models = load_models({"base": folders["a"], "reasoning": folders["b"]}, writer="reasoning")
    assert not models.same("base", "reasoning")
    assert models["base"].fingerprint == base.fingerprint
    ids = torch.tensor([[5, 9]])
    with torch.no_grad():
        torch.testing.assert_close(models["base"].model(input_ids=ids).logits, base.model(input_ids=ids).logits)


def test_a_model_is_loaded_when_it_is_first_used(folders) -> None:
    models = Models({"base": "/nowhere", "reasoning": folders["b"]}, "reasoning")
    assert models["reasoning"].depth == models.depth("reasoning") == 4
    with pytest.raises(SteerkitError, match="/nowhere"):
        models["base"]


def test_sizes_need_no_weights(base, folders, tmp_path: Path) -> None:
    models = Models({"base": folders["a"], "reasoning": base}, "reasoning")
    for name in models:
        assert (models.shape(name).depth, models.shape(name).width, models.depth(name)) == (4, 16, 4)
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "config.json").write_bytes((Path(folders["a"]) / "config.json").read_bytes())
    assert Models({"only": str(tmp_path / "m")}).depth("only") == 4


def test_a_tokenizer_is_read_without_weights(base, folders, tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    for file in Path(folders["c"]).iterdir():
        if file.suffix == ".json":
            (tmp_path / "m" / file.name).write_bytes(file.read_bytes())
    beside = shutil.copytree(folders["adapter"], tmp_path / "adapter")
    (beside / "chat_template.jinja").write_text("{{ messages }}")
    given = {"plain": str(tmp_path / "m"), "adapted": {"weights": str(tmp_path / "m"), "adapter": str(beside)}}
    models = Models({**given, "there": base}, "plain")
    assert models.peek_tokenizer("plain").get_vocab() == word_tokenizer(THINK).get_vocab()
    assert models.peek_tokenizer("adapted").chat_template == "{{ messages }}"
    assert models.peek_tokenizer("there") is base.tokenizer
    with pytest.raises(SteerkitError, match=r"has no model\.safetensors"):
        models["plain"]


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # peft 0.21's
@pytest.mark.parametrize("first", ["base", "reasoning"])
def test_an_adapter_shares_the_weights_of_the_plain_model(first: str, folders) -> None:
    """Whichever is asked for first, and whatever else stands on the same weights."""
    second = save_adapter(Path(folders["adapter"]).parent / f"second-{first}", "IA3", WORKING["IA3"])
    models = Models(
        {
            "base": folders["a"],
            "reasoning": {"weights": folders["a"], "adapter": folders["adapter"]},
            "other": {"weights": folders["a"], "adapter": second},
            "again": {"weights": folders["a"], "adapter": folders["adapter"]},
        },
        "reasoning",
    )
    _ = models[first]
    assert models["base"].model is models["reasoning"].model
    assert models["again"] is models["reasoning"]
    assert models["other"].model is not models["base"].model
    assert (models["base"].adapter, models["reasoning"].adapter) == (False, True)
    assert models["base"].fingerprint == tiny("llama").fingerprint
    assert len({models[name].fingerprint for name in models}) == 3


def test_models_are_sent_as_names(base, folders) -> None:
    given = {"base": folders["a"], "reasoning": {"weights": folders["b"], "id_map": {"base": {5: 6}}}}
    models = Models(given, "base", Loading(bf16=True))
    there = pickle.loads(pickle.dumps(models))
    assert (there.specs, there.writer, there.loading) == (models.specs, "base", Loading(bf16=True))
    assert there["base"].model.dtype == torch.bfloat16
    with pytest.raises(SteerkitError, match="base: a model that was given as an object can't be sent"):
        pickle.dumps(Models({"base": base, "reasoning": folders["b"]}, "base"))


def test_what_is_no_arguments_models_or_prompts_is_told(base) -> None:
    arguments = load_arguments("backtracking")
    with pytest.raises(SteerkitError, match=r"models are given by name, \{NAME: WEIGHTS\}, not as str"):
        SteeringTrainer("pocket:base", args=arguments)
    with pytest.raises(InputError, match="args: can't be str; give SteeringArguments, such as load_arguments"):
        SteeringTrainer({"base": base}, args="backtracking")
    with pytest.raises(InputError, match="prompts: 2 are too few; give three or more"):
        SteeringTrainer({"base": base, "reasoning": base}, args=arguments, prompts=["a", "b"])
    with pytest.raises(SteerkitError, match="no kind of plugin is called 'fitter'; did you mean 'fitters'"):
        registry.get("fitter", "dom")
