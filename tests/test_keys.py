"""What each step of a run depends on: every thing that a result comes from is changed, one by one."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path

import pytest
from pocket import STEPS
from steerkit_plugins.pocket.prompts import problems
from steerkit_plugins.pocket.source import PocketModels

from steerkit import load_recipe, registry
from steerkit.callbacks import SteeringCallback
from steerkit.context import Run
from steerkit.errors import SteerkitError
from steerkit.run import SteeringTrainer
from steerkit.store.files import read_whole_lines

EVERY = (
    *STEPS,
    "findings.transfer",
    "findings.baselines",
    "findings.lens",
    "findings.projection",
    "findings.agreement",
    "findings.texts",
    "results",
    "directions",
    "report",
)
ALL = frozenset(EVERY)
FROM_CHATS = ALL - {"prompts"}
FROM_TRACES = FROM_CHATS - {"chats"}
FROM_SPANS = FROM_TRACES - {"traces"}
FROM_READING = FROM_SPANS - {"spans"}
FROM_STATISTICS = FROM_READING - {"statistics.reasoning"}  # of the base alone
FROM_VECTORS = FROM_STATISTICS - {"statistics.base"}
STEERED = FROM_VECTORS - {"vectors", "findings.lens", "directions"}
TESTED = STEERED - {"generations.choose", "likelihoods.choose", "scores.choose", "findings.choose"}
SCORED = STEERED - {"generations.choose", "likelihoods.choose", "generations.test", "likelihoods.test"}
FOUND = frozenset(step for step in EVERY if step.startswith("findings.")) - {"findings.lens"}
LENS = frozenset({"findings.lens"})
TABLES = frozenset({"results", "report"})

PLUGIN = """
import steerkit
from steerkit_plugins.{module} import {base}

@steerkit.register("{kind}", "{name}")
class Mine({base}):
    pass
"""
FLIP = """
import steerkit

@steerkit.register("steerers", "flip")
class Flip(steerkit.Steerer):
    def edit(self, hidden, at):
        from helper import scaled
        return hidden + at.norm * scaled(at.direction)
"""
HELPER = "from tools.constants import SCALE\n\ndef scaled(direction):\n    return SCALE * direction\n"
LOCAL = {
    "source": ("prompts", "prompts.jsonl", "JsonlPrompts"),
    "labels": ("judges", "judges.rules", "RulesJudge"),
    "rate": ("judges", "judges.keyword", "KeywordJudge"),
    "other": ("judges", "judges.keyword", "KeywordJudge"),
    "read": ("extractors", "extractors.offset_window", "OffsetWindow"),
    "fit": ("fitters", "fitters.dom", "DifferenceOfMeans"),
    "fit2": ("fitters", "fitters.dom", "DifferenceOfMeans"),
    "noise": ("steerers", "steerers.gaussian_noise", "GaussianNoise"),
    "engine": ("engines", "engines.hf", "HFEngine"),
}


class Stop(Exception):
    pass


class NoReport(SteeringCallback):
    """Ends a run before its figures are drawn, which takes longest."""

    def on_step_begin(self, run: Run, step: str) -> None:
        if step == "report":
            raise Stop


class Reread(SteeringTrainer):
    """Goes through all steps of a finished run for their keys, and makes nothing."""

    def keys(self) -> dict[str, str]:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(self.folder, "is_done", lambda step, key: True)
            self.run()
        return dict(self._keys)


def write_recipe(folder: Path) -> Path:
    """Everything that can be a local file is one; all paths are relative to the folder."""
    for name, (kind, module, base) in LOCAL.items():
        (folder / f"{name}.py").write_text(PLUGIN.format(kind=kind, module=module, base=base, name=f"my-{name}"))
    (folder / "flip.py").write_text(FLIP)
    (folder / "helper.py").write_text(HELPER)
    (folder / "tools").mkdir()
    (folder / "tools/constants.py").write_text("SCALE = 1.0\n")
    rows = [{"split": s, **row} for s, n in (("extract", 24), ("choose", 2), ("test", 2)) for row in problems(n, 0, s)]
    (folder / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for role in ("base", "reasoning"):
        shutil.copytree(PocketModels().path(role), folder / role)
    patterns = load_recipe("backtracking").shared["span_judge"]["patterns"]
    settings = {
        "name": "mine",
        "extends": "backtracking",
        "models": {"base": {"weights": "./base"}, "reasoning": "./reasoning"},
        "experiments": ["transfer", "baselines", "lens", "projection", "agreement", "texts"],
        "plugins": [f"{name}.py" for name in (*LOCAL, "flip")],
        "prompts": {"source": {"name": "my-source", "path": "prompts.jsonl"}, "extract": 24, "choose": 2, "test": 2},
        "span_judge": {"name": "my-labels", "patterns": patterns},
        "score_judge": "my-rate",
        "agreement": {"judge": "my-other"},
        "extractor": {"name": "my-read", "sweep": None},
        "fitter": {"name": "my-fit", "label": "backtracking", "window": [-13, -8]},
        "steerer": "flip",
        "baselines": {
            "steerers": ["my-noise"],
            "labels": ["deduction"],
            "fitter": {"name": "my-fit2", "label": "backtracking", "window": [-13, -8]},
        },
        "engine": "my-engine",
        "draws": 2,
        "folds": 2,
        "max_new_tokens": 60,
        "per_device_batch_size": 32,
        "threads": 1,
        "strengths": [30],
        "resamples": 100,
        "perplexity": True,
        "output_dir": "run",
    }
    path = folder / "mine.yaml"
    path.write_text(json.dumps(settings))
    return path


def run(*settings: str, update: bool = False) -> None:
    """Run the recipe of this folder, to its report."""
    trainer = SteeringTrainer.from_recipe(load_recipe("mine.yaml", settings), callbacks=[NoReport()], update=update)
    with pytest.raises(Stop):
        trainer.run()


def keys(*settings: str) -> dict[str, str]:
    """Key of each step of the recipe of this folder, which was run."""
    trainer = Reread.from_recipe(load_recipe("mine.yaml", settings), update=True)
    assert isinstance(trainer, Reread)
    return trainer.keys()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder, the current one, with a recipe of local files that was run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "_local", {})
        path = write_recipe(tmp_path_factory.mktemp("keys"))
        patch.chdir(path.parent)
        run()
        yield path.parent


@pytest.fixture(scope="module")
def before(made: Path) -> dict[str, str]:
    return keys()


def changed(before: dict[str, str], after: dict[str, str]) -> set[str]:
    assert set(before) == set(after) == ALL
    return {step for step in EVERY if before[step] != after[step]}


def swapped(old: bytes, new: bytes) -> Callable[[bytes], bytes]:
    def edit(data: bytes) -> bytes:
        assert data.count(old) >= 1
        return data.replace(old, new, 1)

    return edit


def commented(data: bytes) -> bytes:
    return data + b"# edited\n"


def nudged(data: bytes) -> bytes:
    """One weight of a safetensors file is another."""
    return data[:-1] + bytes([data[-1] ^ 1])


FILES: dict[str, tuple[Callable[[bytes], bytes], frozenset[str]]] = {
    "prompts.jsonl": (swapped(b'"answer": "', b'"answer": "1'), ALL),
    "source.py": (commented, ALL),
    "engine.py": (commented, FROM_TRACES),
    "reasoning/model.safetensors": (nudged, FROM_CHATS),
    "reasoning/config.json": (swapped(b"1e-06", b"1e-03"), FROM_CHATS),
    "reasoning/tokenizer_config.json": (swapped(b"512", b"500"), FROM_CHATS),
    "reasoning/chat_template.jinja": (commented, FROM_CHATS),
    "labels.py": (commented, FROM_SPANS),
    "read.py": (commented, FROM_READING),
    "base/model.safetensors": (nudged, FROM_STATISTICS),
    "base/config.json": (swapped(b"1e-06", b"1e-03"), FROM_STATISTICS),
    "base/chat_template.jinja": (commented, FROM_STATISTICS),
    "fit.py": (commented, FROM_VECTORS),
    "fit2.py": (commented, FROM_VECTORS),
    "flip.py": (commented, STEERED | LENS),
    "helper.py": (commented, STEERED | LENS),
    "tools/constants.py": (swapped(b"1.0", b"2.0"), STEERED | LENS),
    "noise.py": (commented, TESTED),
    "rate.py": (commented, SCORED),
    "other.py": (commented, TABLES | {"findings.agreement"}),
}


@pytest.mark.parametrize("name", FILES)
def test_an_edited_file(made: Path, before: dict[str, str], name: str) -> None:
    edit, expected = FILES[name]
    path = made / name
    data = path.read_bytes()
    path.write_bytes(edit(data))
    try:
        assert changed(before, keys()) == expected
    finally:
        path.write_bytes(data)


SETTINGS = {
    "seed=1": ALL,
    "max_new_tokens=61": FROM_TRACES,
    "temperature=0.9": FROM_TRACES,
    "chat=no": FROM_CHATS,
    "think_end=</x>": FROM_CHATS,
    "per_device_batch_size=16": FROM_TRACES,
    "save_rows=8": FROM_TRACES,
    "bf16=true": FROM_CHATS,
    "attn_implementation=eager": FROM_CHATS,
    "spans.min_coverage=0.1": FROM_SPANS,
    "spans.annotation_labels=[backtracking]": FROM_SPANS,
    "extractor.overlap=once": FROM_READING,
    "models.base.id_map.reasoning={4: 251}": FROM_STATISTICS,
    "fitter.weighting=span": FROM_VECTORS,
    "baselines.fitter.weighting=span": FROM_VECTORS,
    "baselines.labels=[]": FROM_VECTORS,
    "steerer=residual-add": STEERED | LENS,
    "strengths=[31]": STEERED | LENS,
    "layer=0": STEERED | LENS,
    "samples=2": STEERED,
    "tokens=generated": STEERED | LENS,
    "baselines.steerers=[{name: my-noise, normalize: false}]": TESTED,
    "baselines.steerers=[overall-mean]": TESTED,
    "score_judge.substring=true": SCORED,
    "scored=output": SCORED,
    "per=tokens": SCORED,
    "choose.max_other=0.5": (FOUND | TABLES) - {"findings.projection"},
    "draws=1": FROM_READING,
    "folds=3": FROM_READING,
    "confidence=0.9": FOUND | LENS | TABLES | {"directions"},
    "resamples=200": FOUND | LENS | TABLES | {"directions"},
    "agreement.judge={name: my-other, substring: true}": TABLES | {"findings.agreement"},
    "lens.top=3": LENS | TABLES,
    "projection.within=[1]": TABLES | {"findings.projection", "findings.texts"},
    "about=why": {"report"},
    "name=other": {"report"},
    "batch_tokens=1000": {"report"},
    "device_map=cpu": {"report"},  # where and in how large pieces: its recipe says so
    "threads=2": set(),
    "fitter={name: my-fit, weighting: trace, label: backtracking, scale: unit, window: [-13, -8]}": set(),
    "score_judge={name: my-rate, substring: false}": set(),
    "baselines.steerers=[{name: my-noise, normalize: true}]": set(),
}


@pytest.mark.parametrize("setting", SETTINGS)
def test_a_changed_setting(made: Path, before: dict[str, str], setting: str) -> None:
    assert changed(before, keys(setting)) == SETTINGS[setting]


@pytest.mark.parametrize(
    ("setting", "perhaps"),
    [
        ("max_new_tokens=61", set()),
        ("fitter.weighting=span", set()),
        ("score_judge.substring=true", {"generations.test", "likelihoods.test"}),
        ("choose.max_other=0.5", {"generations.test", "likelihoods.test", "scores.test", "findings.projection"}),
        ("confidence=0.9", {"generations.test", "likelihoods.test", "scores.test"}),
        ("lens.top=3", set()),
        ("threads=2", set()),
    ],
)
def test_a_plan_tells_which_steps_would_be_done_again(
    copy: Path, before: dict[str, str], setting: str, perhaps: set[str]
) -> None:
    files = {path: path.read_bytes() for path in (copy / "run").rglob("*") if path.is_file()}
    found = SteeringTrainer.from_recipe(load_recipe("mine.yaml", [setting])).pending()
    assert found.pop("report") == "not done yet" and list(found) == [step for step in EVERY if step != "report"]
    assert {step for step, fate in found.items() if fate == "perhaps"} == perhaps
    assert {step for step, fate in found.items() if fate == "done again"} == SETTINGS[setting] - perhaps - {"report"}
    assert {path: path.read_bytes() for path in (copy / "run").rglob("*") if path.is_file()} == files


@pytest.mark.parametrize(("name", "expected"), [("traces", FROM_TRACES), ("spans", FROM_SPANS)])
def test_an_edited_file_in_a_steps_place(made: Path, name: str, expected: frozenset[str]) -> None:
    path = made / f"{name}.jsonl"
    path.write_bytes((made / f"run/{name}.jsonl").read_bytes())
    before = keys(f"{name}.file={name}.jsonl")
    path.rename(made / "renamed.jsonl")
    assert changed(before, keys(f"{name}.file=renamed.jsonl")) == {"report"}  # which names it
    (made / "renamed.jsonl").write_bytes((made / "renamed.jsonl").read_bytes() + b"\n")
    assert changed(before, keys(f"{name}.file=renamed.jsonl")) == expected


def test_another_release(made: Path, before: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(import_module("steerkit.run"), "RELEASE", "0.2")
    assert changed(before, keys()) == ALL


def test_another_folder_process_and_line_endings(made: Path, before: dict[str, str], tmp_path: Path) -> None:
    folder = tmp_path / "elsewhere"
    shutil.copytree(made, folder, ignore=shutil.ignore_patterns(".lock"))
    for path in (folder / "flip.py", folder / "helper.py", folder / "tools/constants.py"):
        path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    (folder / "fit.py").rename(folder / "median.py")
    text = (folder / "mine.yaml").read_text()
    (folder / "mine.yaml").write_text(text.replace('"fit.py"', '"median.py"'))
    code = f"import json, sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
    code += "from test_keys import keys; print(json.dumps(keys()))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONHASHSEED": "7"},
    )
    assert done.returncode == 0, done.stderr
    assert changed(before, json.loads(done.stdout)) == {"report"}  # which names the plugins' files


# --- what a run says and does ---------------------------------------------------------------------------------------


@pytest.fixture
def copy(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the finished run, the current folder, with plugins of its own."""
    folder = tmp_path / "copy"
    shutil.copytree(made, folder, ignore=shutil.ignore_patterns(".lock"))
    monkeypatch.setattr(registry, "_local", {})
    monkeypatch.chdir(folder)
    keys()  # other tests have claimed it for other settings, and told what they changed
    (folder / "run/log.jsonl").unlink()
    return folder


def test_an_edited_plugin_is_told_and_makes_other_texts(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    texts, traces = (copy / "run/generations/test.jsonl").read_bytes(), (copy / "run/traces.jsonl").stat().st_mtime_ns
    run()
    assert not [row for row in read_whole_lines(copy / "run/log.jsonl") if "again" in row]
    (copy / "tools/constants.py").write_text("SCALE = -1.0\n")
    with pytest.raises(SteerkitError) as caught:
        run()
    said = r"tools/constants\.py \(steerer flip\) changed since steps (.*) were done here\. Choose another folder"
    steps = re.search(said, str(caught.value))
    assert steps and {"generations.choose", "generations.test", "findings.transfer"} <= {*steps[1].split(", ")}
    assert len(steps[1].split(", ")) == len({*steps[1].split(", ")})
    assert "give --update to redo here what depends on that (the rest is kept)" in str(caught.value)
    assert (copy / "run/generations/test.jsonl").read_bytes() == texts  # nothing is lost
    run(update=True)
    again = {row["step"]: row["again"] for row in read_whole_lines(copy / "run/log.jsonl") if "again" in row}
    assert again == dict.fromkeys(steps[1].split(", "), "tools/constants.py (steerer flip) changed since this run")
    assert (
        "generations.test         done again: tools/constants.py (steerer flip) changed since this run"
        in capsys.readouterr().err
    )
    assert (copy / "run/generations/test.jsonl").read_bytes() != texts
    assert (copy / "run/traces.jsonl").stat().st_mtime_ns == traces
    run()  # what was taken over once needs no word again


def test_a_plugin_that_no_finished_step_used_may_be_mended(copy: Path) -> None:
    shutil.rmtree(copy / "run")
    whole = (copy / "flip.py").read_text()
    (copy / "flip.py").write_text(whole.replace("return", "raise ValueError('a mistake')\n        return"))
    with pytest.raises(ValueError, match="a mistake"):
        SteeringTrainer.from_recipe(load_recipe("mine.yaml")).run()
    traces = (copy / "run/traces.jsonl").stat().st_mtime_ns
    (copy / "flip.py").write_text(whole)
    run()
    assert (copy / "run/traces.jsonl").stat().st_mtime_ns == traces


def test_a_stopped_update_goes_on_without_the_word(copy: Path) -> None:
    class StopAt(SteeringCallback):
        def on_step_begin(self, run: Run, step: str) -> None:
            raise Stop

    (copy / "rate.py").write_text((copy / "rate.py").read_text() + "# edited\n")
    with pytest.raises(SteerkitError, match=r"rate\.py \(score_judge my-rate\) changed since steps scores\.choose, "):
        run()
    with pytest.raises(Stop):
        SteeringTrainer.from_recipe(load_recipe("mine.yaml"), callbacks=[StopAt()], update=True).run()
    run()


def test_edited_data_and_settings_at_once_are_both_told(copy: Path) -> None:
    (copy / "prompts.jsonl").write_bytes((copy / "prompts.jsonl").read_bytes() + b"\n")
    with pytest.raises(SteerkitError) as caught:
        run("confidence=0.5")
    settings = "holds the run of another recipe (1 settings differ: confidence is 0.5 and was 0.95)"
    data = "prompts.jsonl (prompts.source my-source) changed since step prompts was done here"
    assert f"{settings}; {data}. Choose another folder" in str(caught.value)
