"""A stranger's step and experiment in a local file: run, resumed, planned, made again when edited, refused in words."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pocket import SIZES

from steerkit import load_recipe, registry
from steerkit.callbacks import SteeringCallback
from steerkit.context import Run
from steerkit.errors import InputError, SteerkitError
from steerkit.planning.plan import plan_text
from steerkit.run import SteeringTrainer

MINE = '''
import steerkit as sk
from steerkit.settings import Chatting, Steering
from steerkit.steps import compose


class LengthsConfig(sk.Config):
    longest: int = 1000
    """Characters above which a trace counts as this long."""


@sk.register("steps", "lengths")
class Lengths(sk.Step):
    """How long each trace is, in characters of its reasoning; in pieces of ten traces."""

    Config = LengthsConfig
    uses = (Chatting,)

    def needs(self, run):
        return ("traces",)

    def pieces(self, run, traces):
        texts = [trace.text.partition(run.use(Chatting).think_end)[0] for trace in traces]
        return [texts[i : i + 10] for i in range(0, len(texts), 10)]

    def work(self, models, piece):
        return [len(text) for text in piece]

    def join(self, run, results, traces):
        return [min(n, self.config.longest) for each in results for n in each]


class TwiceConfig(sk.Config):
    times: float = 2.0
    """How much stronger the second condition is."""


@sk.register("experiments", "twice")
class Twice(sk.Experiment):
    """Does twice the strength do more?"""

    Config = TwiceConfig
    uses = (Steering,)

    def needs(self, run):
        return ("lengths", "vectors")

    def conditions(self, run, lengths, vectors):
        vector, once = run.vector("base"), run.use(Steering).nonzero[0]
        strengths = (once, once * self.config.times)
        return [run.unsteered("reasoning"), *(run.steered("reasoning", vector, s) for s in strengths)]

    def pairs(self, run, conditions):
        plain, once, twice = conditions
        return [sk.Pair(ours=twice, other=once), sk.Pair(ours=once, other=plain)]

    def findings(self, run, results, lengths, vectors):
        plain, once, twice = results.conditions
        named = {"nothing": plain, "once": once, "twice": twice}
        claim = compose.compared(results, twice, once, "Twice the strength does more")
        mean = sum(lengths) / len(lengths)
        return sk.Findings(
            title="Twice",
            question=self.__doc__,
            finding=f"Traces have {mean:.1f} characters.",
            claims=(claim,),
            figures=(compose.bars(results, "twice", named, title="Twice", caption="Mean of the texts."),),
            tables=(compose.table(results, {"strength": lambda c: f"{c.labels.get('strength', 0):g}"}),),
            data={"lengths.csv": [{"trace": n, "characters": x} for n, x in enumerate(lengths)]},
            value={"mean": mean},
        )
'''
RECIPE = """extends: backtracking
name: mine
plugins: [./mine.py]
experiments: [twice]
lengths: {longest: 900}
twice:
  times: 1.5
"""
SETTINGS = (*SIZES, "prompts.extract=24", "prompts.test=3", "max_new_tokens=60", "strengths=[30]")


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A current folder with the plugin and a recipe; local plugins of one test are not there in the next."""
    monkeypatch.setattr(registry, "_local", {})
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(MINE)
    (tmp_path / "mine.yaml").write_text(RECIPE)
    yield tmp_path


class Seen(SteeringCallback):
    """Steps that were done, and pieces; stops behind a step's first piece."""

    def __init__(self, stop: str = "") -> None:
        self.done: list[str] = []
        self.skipped: list[str] = []
        self.pieces: list[str] = []
        self.stop = stop

    def on_batch_end(self, run: Run, step: str, done: int, total: int) -> None:
        self.pieces.append(step)
        if step == self.stop:
            raise KeyboardInterrupt

    def on_step_end(self, run: Run, step: str, skipped: bool) -> None:
        (self.skipped if skipped else self.done).append(step)


def go(*more: str, update: bool = False, stop: str = "") -> Seen:
    seen = Seen(stop)
    recipe = load_recipe("mine.yaml", [*SETTINGS, *more])
    SteeringTrainer.from_recipe(recipe, callbacks=[seen], update=update).run()
    return seen


def edit(old: str, new: str) -> None:
    text = Path("mine.py").read_text()
    assert text.count(old) == 1
    Path("mine.py").write_text(text.replace(old, new))


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def found(name: str = "twice") -> dict[str, Any]:
    read: dict[str, Any] = json.loads(Path(f"runs/mine/findings/{name}.json").read_text())["findings"]
    return read


def test_a_local_step_and_experiment(here: Path) -> None:
    """Run, resumed at a piece, done twice without work, and made again where one is edited."""
    with pytest.raises(KeyboardInterrupt):
        go(stop="lengths")
    first = go()
    assert first.pieces.count("lengths") == 2  # of three
    assert "traces" in first.skipped and "lengths" in first.done
    folder = here / "runs/mine"
    traces = [json.loads(line)["text"] for line in (folder / "traces.jsonl").read_text().splitlines()]
    lengths = [min(len(text.partition("</think>")[0]), 900) for text in traces]
    assert json.loads((folder / "steps/lengths.json").read_text()) == lengths
    assert [int(row["characters"]) for row in rows(folder / "lengths.csv")] == lengths
    assert found()["value"] == {"mean": sum(lengths) / len(lengths)}
    table = rows(folder / "results.csv")
    assert {row["experiment"] for row in table} == {"twice"}
    assert {(row["model"], row["vector"], row["strength"]) for row in table} == {
        ("reasoning", "", "0"),
        ("reasoning", "base", "30"),
        ("reasoning", "base", "45"),
    }
    assert {(row["strength"], row["vs_strength"]) for row in rows(folder / "comparisons.csv")} == {
        ("45", "30"),
        ("30", "0"),
    }
    assert (folder / "figures/twice.png").stat().st_size > 1000
    assert "Does twice the strength do more?" in (folder / "report.html").read_text()
    again = go()
    assert not again.done and len(again.skipped) == len(first.done) + len(first.skipped)

    texts = (folder / "generations/test.jsonl").stat().st_mtime_ns
    edit("min(n, self.config.longest)", "min(n // 2, self.config.longest)")
    with pytest.raises(
        SteerkitError, match=r"mine\.py \(step lengths\) changed since step lengths was done here; mine\.py \(exp"
    ):
        go()
    edited = go(update=True)
    assert "lengths" in edited.done and "findings.twice" in edited.done
    assert {"prompts", "traces", "spans", "vectors", "generations.test", "scores.test"} <= {*edited.skipped}
    assert found()["value"]["mean"] == pytest.approx(sum(n // 2 for n in map(len_of, traces)) / len(traces))
    assert (folder / "generations/test.jsonl").stat().st_mtime_ns == texts

    changed = go("twice.times=2.5", update=True)
    assert "lengths" in changed.skipped and "generations.test" in changed.done
    assert {row["strength"] for row in rows(folder / "results.csv")} == {"0", "30", "75"}


def len_of(text: str) -> int:
    return len(text.partition("</think>")[0])


def test_it_is_planned() -> None:
    plan = plan_text(load_recipe("mine.yaml", SETTINGS))
    (line,) = (line for line in plan.splitlines() if line.startswith("twice"))
    assert line.split() == ["twice", "test", "3", "9"]


# --- errors: in words, with their place -----------------------------------------------------------------------------

OTHER = """

@sk.register("steps", "other")
class Other(sk.Step):
    def needs(self, run):
        return ("{needs}",)

    def make(self, run, *needs):
        return 1
"""
ASKING = """

@sk.register("experiments", "asking")
class Asking(sk.Experiment):
    def needs(self, run):
        return ("{needs}",)

    def findings(self, run, results, *needs):
        return sk.Findings(title="")
"""


def test_a_plan_makes_no_artifacts() -> None:
    edit("        vector, once =", "        lengths[0]\n        vector, once =")
    with pytest.raises(SteerkitError, match=r"experiment twice: conditions\(\) failed in a plan .*: a step's is None"):
        plan_text(load_recipe("mine.yaml", SETTINGS))


def refused(*settings: str, code: str = "", recipe: str = "") -> str:
    """What is said of a recipe before anything runs."""
    Path("mine.py").write_text(MINE + code)
    Path("mine.yaml").write_text(recipe or RECIPE)
    with pytest.raises(SteerkitError) as caught:
        load_recipe("mine.yaml", settings)
    return str(caught.value)


def test_needs_that_do_not_exist() -> None:
    said = refused(
        code=OTHER.format(needs="lenghts") + ASKING.format(needs="other"), recipe=RECIPE.replace("[twice]", "[asking]")
    )
    assert "other needs 'lenghts': no step or experiment is called 'lenghts'; did you mean 'lengths'?" in said
    assert "mine.yaml:4:" in said
    said = refused("experiments=[twise]")
    assert "--set experiments=[twise]: no experiment is called 'twise'; did you mean 'twice'?" in said
    said = refused("experiments=[twice, twice]")
    assert "--set experiments=[twice, twice]: 'twice' stands twice; leave one out" in said


def test_needs_in_a_circle() -> None:
    recipe = RECIPE.replace("[twice]", "[asking]")
    said = refused(
        code=OTHER.format(needs="another")
        + OTHER.replace("other", "another").replace("Other", "Another").format(needs="other")
        + ASKING.format(needs="other"),
        recipe=recipe,
    )
    assert "steps need each other: " in said and "other needs another needs other" in said
    assert "mine.yaml:4:" in said
    said = refused(
        code=ASKING.format(needs="back")
        + ASKING.replace("asking", "back").replace("Asking", "Back").format(needs="asking"),
        recipe=recipe,
    )
    assert "experiments need each other: asking needs back needs asking" in said and "mine.yaml:4:" in said


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("times: 1.5", "times: often", "mine.yaml:7:3: 'twice.times' must be a number, not \"often\""),
        ("times: 1.5", "tines: 1", "mine.yaml:7:3: unknown key 'twice.tines'; did you mean 'times'?"),
        ("longest: 900", "longest: 1.5", "mine.yaml:5:11: 'lengths.longest' must be a whole number, not 1.5"),
        ("lengths:", "lenghts:", "mine.yaml:5:1: unknown key 'lenghts'; did you mean 'lengths'?"),
        ("name: mine", "name: mine\nstrenths: [3]", "mine.yaml:3:1: unknown key 'strenths'; did you mean 'strengths'?"),
        ("{longest: 900}", "900", "mine.yaml:5:1: 'lengths'"),
    ],
)
def test_wrong_options_and_unknown_keys(old: str, new: str, said: str) -> None:
    assert RECIPE.count(old) == 1
    assert said in refused(recipe=RECIPE.replace(old, new))


def test_a_missing_option_has_its_own_help() -> None:
    code = ASKING.replace("    def needs", "    Config = Needed\n\n    def needs").format(needs="traces")
    needed = 'class Needed(sk.Config):\n    who: str\n    """Who is asked."""\n'
    recipe = RECIPE.replace("[twice]", "[asking]")
    said = refused(code=f"\n\n{needed}{code}", recipe=recipe)
    assert "'asking.who' is missing; Who is asked" in said
    said = refused(code=f"\n\n{needed}{code}", recipe=recipe + "asking: {}\n")
    assert "mine.yaml:8:1: 'asking.who' is missing; Who is asked" in said


def test_what_is_no_group_of_settings() -> None:
    """`steerkit.Steering` steers; the group of that name is in `steerkit.settings`."""
    Path("mine.py").write_text(MINE.replace("uses = (Steering,)", "uses = (sk.Steering,)"))
    with pytest.raises(SteerkitError) as caught:
        load_recipe("mine.yaml")
    said = "Twice: `uses` names <class 'steerkit.interventions.steering.Steering'>, which is no group of settings"
    assert f"mine.yaml:3:11: {said}" in str(caught.value)


def stops(old: str, new: str, *more: str) -> str:
    """What is said of an edited plugin when it is run."""
    edit(old, new)
    with pytest.raises(SteerkitError) as caught:
        go(*more)
    return str(caught.value)


def test_a_group_that_is_not_in_uses() -> None:
    said = stops("    uses = (Chatting,)\n", "")
    assert "lengths: asks for the settings Chatting without naming the group; add it to `uses`" in said


def test_chats_whose_settings_are_not_in_uses() -> None:
    edit("run.use(Chatting).think_end", "run.chats.settings()[0]")
    said = stops("    uses = (Chatting,)\n", "")
    assert "lengths: asks for the settings Chatting without naming the group; add it to `uses`" in said


@pytest.mark.parametrize(
    ("old", "new", "who"),
    [
        ("        return [len(text) for", '        models["base"]\n        return [len(text) for', "lengths"),
        ("        texts = [trace", '        run.models["base"]\n        texts = [trace', "lengths"),
        ("        return [min(n", '        run.models["base"]\n        return [min(n', "lengths"),
        ("        mean = sum", '        run.models["base"]\n        mean = sum', "experiment twice"),
    ],
)
def test_a_model_that_is_not_named(old: str, new: str, who: str) -> None:
    """Its weights would not be in the key, and the result would stay when they change."""
    said = stops(old, new)
    assert f"{who}: asks for the model 'base' without naming it; return it from `models`" in said


def test_a_model_that_is_named() -> None:
    edit(
        "    def work(self, models", '    def models(self, run):\n        return ("base",)\n\n    def work(self, models'
    )
    edit("        return [len(text) for", '        models["base"]\n        return [len(text) for')
    assert "lengths" in go().done


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (
            "    def join(self, run, results, traces):",
            "    def joint(self, run, results, traces):",
            "findings.twice failed",
        ),
        (
            "    def work(self, models, piece):",
            "    def works(self, models, piece):",
            r"step 'lengths' has pieces\(\) and no work\(\)",
        ),
        (
            '        return [run.unsteered("reasoning"), *',
            '        return [run.unsteered("resoning"), *',
            "models: none is called 'resoning'; did you mean 'reasoning'?",
        ),
        (
            "strengths = (once, once * self.config.times)",
            "strengths = (once, once)",
            r"experiment twice: asks for one condition twice, as model reasoning, vector base, .*; leave one out",
        ),
        (
            'run.unsteered("reasoning"), *',
            'run.unsteered("reasoning", {"text": "x"}), *',
            "experiment twice: a condition's label is called 'text', as a column of the tables or a field",
        ),
        (
            "sk.Pair(ours=once, other=plain)",
            'sk.Pair(ours=once, other=run.unsteered("base"))',
            "experiment twice: compares a condition that is not among its own: model base, strength 0",
        ),
        (
            '"lengths.csv"',
            '"../lengths.csv"',
            r"the data file '../lengths.csv' must be a file's name",
        ),
        ('"lengths.csv"', '"results.csv"', r"its file 'results.csv' is that of step"),
        ("    def findings(self,", "    def finding(self,", r"experiment 'twice' defines no findings\(\)"),
        (
            "    def pieces(self,",
            "    def piece(self,",
            r"step 'lengths' defines neither make\(\) nor pieces\(\), work",
        ),
        ("vector, s)", 'vector, s, tokens="generatd")', "tokens: there is no 'generatd'; did you mean 'generated'?"),
        (
            "vector, s)",
            'vector, s, labels={"method": "mine"})',
            r"experiment twice: two conditions have the same labels \(method mine\)",
        ),
        ("vector, s)", "vector, s, layer=77)", "experiment twice: layer: 77 is not a block of reasoning: it has"),
        (
            "        return [sk.Pair(",
            "        [sk.Pair(",
            r"experiment twice: pairs\(\) gave None; return a list of Pair",
        ),
        (
            "        return [run.unsteered",
            "        [run.unsteered",
            r"experiment twice: conditions\(\) gave None; return a list of conditions",
        ),
        ("        return sk.Findings(", "        sk.Findings(", r"experiment twice: findings\(\) gave None"),
        ("claims=(claim,)", 'cautions="Few."', r"Findings.cautions: a list of str is wanted, not 'Few.'"),
        ("claims=(claim,)", "claims=claim", r"Findings.claims: a list of Claim is wanted, not Claim"),
        (
            'return ("traces",)',
            'return "traces"',
            r"lengths: needs 'traces', a text; give names in a list: \['traces'\]",
        ),
        (
            'def needs(self, run):\n        return ("traces",)',
            'needs = ("traces",)',
            r"Lengths: needs must be a method: def needs\(self, run\): return",
        ),
        (
            "return [len(text) for",
            "import numpy\n        return [numpy.float32(len(text)) for",
            "lengths: what it gave is not JSON",
        ),
        ('value={"mean": mean}', 'value={"mean": object()}', "findings.twice: what it gave is not JSON"),
        ('"Twice the strength does more")', '"", metric="wrods")', "there is no metric 'wrods'; "),
    ],
)
def test_what_a_plugin_does_wrong_is_said_when_it_is_met(old: str, new: str, said: str) -> None:
    assert re.search(said, stops(old, new))


def test_two_experiments_want_one_vector_by_different_fitters() -> None:
    code = """

@sk.register("experiments", "asking")
class Asking(sk.Experiment):
    def vectors(self, run):
        return [sk.Fit(key=run.vector("base"), fitter={fitter})]

    def needs(self, run):
        return ("vectors",)

    def findings(self, run, results, vectors):
        return sk.Findings(title="")
"""
    recipe = RECIPE.replace("[twice]", "[twice, asking]")
    other = 'sk.PluginSpec(name="lda", label="backtracking", window=[-13, -8])'
    said = refused(code=code.format(fitter=other), recipe=recipe)
    assert "experiment asking: wants the vector base.backtracking.-13..-8.safetensors by another fitter" in said


def test_windows_and_models_that_a_run_lacks() -> None:
    code = """

@sk.register("experiments", "asking")
class Asking(sk.Experiment):
    def vectors(self, run):
        return [run.vector({wanted})]

    def needs(self, run):
        return ("vectors",)

    def findings(self, run, results, vectors):
        return sk.Findings(title="")
"""
    recipe = RECIPE.replace("[twice]", "[asking]")
    said = refused(code=code.format(wanted='"base", window=(-3, -1)'), recipe=recipe)
    assert "window -3..-1 is not extracted (there is -13..-8, -40..5); add it to extractor.windows" in said
    said = refused(code=code.format(wanted='"bass"'), recipe=recipe)
    assert "models: none is called 'bass'; did you mean 'base'?" in said


def test_a_step_that_follows_what_it_does_not_need() -> None:
    follows = '    def follows(self, run):\n        return ("spans",)\n\n'
    said = stops("    def pieces(self, run, traces):", f"{follows}    def pieces(self, run, traces):")
    assert "step lengths: follows 'spans' without needing it; add it to `needs`" in said


def test_all_problems_are_told_at_once() -> None:
    with pytest.raises(InputError) as caught:
        load_recipe("mine.yaml", ["twice.times=x", "lengths.longest=y", "layer=z", "fitter.name=domm"])
    assert len(caught.value.problems) == 4
