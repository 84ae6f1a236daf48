"""Every reader that takes a stranger's file, with small files that it accepts: what fuzzing starts from.

A reader may raise SteerkitError and nothing else; it may take `SECONDS` and `MEBIBYTES`, and may run no code.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

SECONDS = 10
MEBIBYTES = 1024
TEXT = "It is 4. Wait, is that 4? It is 4."
CHAT = {"prompt": [{"role": "system", "content": "Add."}, {"role": "user", "content": [{"type": "text", "text": "2"}]}]}


@dataclass(frozen=True)
class Target:
    """A reader of files.

    Attributes:
        suffix: of the file.
        read: what may only raise SteerkitError.
        corpus: makes files that are right, or nearly.
    """

    suffix: str
    read: Callable[[Path], Any]
    corpus: Callable[[], list[bytes]]


def recipe(path: Path) -> None:
    from steerkit.recipe.load import load_recipe
    from steerkit.recipe.show import resolved_yaml

    resolved_yaml(load_recipe(str(path)), documented=True)


def override(path: Path) -> None:
    from steerkit.recipe.load import load_recipe

    load_recipe("backtracking", [path.read_bytes().decode("utf-8", "surrogateescape")])


def preset(path: Path) -> None:
    from steerkit.recipe.load import load_recipe

    load_recipe("backtracking", presets=[str(path)])


def taxonomy(path: Path) -> None:
    from steerkit.judging.taxonomy import load_taxonomy

    load_taxonomy(str(path))


def prompts(path: Path) -> None:
    from steerkit_plugins.prompts.jsonl import JsonlPrompts

    JsonlPrompts(path=str(path)).read({"extract": 1, "choose": 1, "test": 1}, 0)


def csv_table(path: Path) -> None:
    from steerkit_plugins.prompts.written import csv_rows

    _prompts_of(lambda problems: csv_rows(path, "mine", ",", problems))


def json_table(path: Path) -> None:
    from steerkit_plugins.prompts.written import json_rows

    _prompts_of(lambda problems: json_rows(path, "mine", problems))


def _prompts_of(read: Callable[[Any], Any]) -> None:
    from steerkit.data.rows import prompts_of
    from steerkit.errors import InputError, Problem

    problems: list[Problem] = []
    prompts_of(read(problems), problems)
    if problems:
        raise InputError("mine", problems)


def traces(path: Path) -> None:
    from steerkit.data.importing import read_traces
    from steerkit.data.trace import Prompt, Trace, write_rows

    def encode(prompt: Prompt, text: str) -> Trace:
        return Trace(id=prompt.id, prompt_id=prompt.id, prompt=prompt.prompt, text=text)

    found = read_traces(path, encode)
    for trace in found:
        trace.token_span(0, len(trace.text))
    write_rows(path.with_suffix(".copy"), found)


def spans(path: Path) -> None:
    from steerkit.data.importing import read_spans
    from steerkit.data.trace import write_rows

    found = read_spans(path, [_trace()], ["backtracking", "deduction"])
    write_rows(path.with_suffix(".copy"), found.spans)


def annotation_log(path: Path) -> None:
    from steerkit.annotate.exchange import as_jsonl
    from steerkit.annotate.store import read_log

    as_jsonl(read_log(path)).encode()


def human(path: Path) -> None:
    from steerkit_plugins.judges.human import HumanJudge

    HumanJudge(labels=[str(path)]).annotate([TEXT])


def answer(path: Path) -> None:
    from steerkit_plugins.judges.llm.prompt import Structured, Tagged
    from steerkit_plugins.llm.completion import read_answer
    from steerkit_plugins.prompts.llm import prompts_of

    from steerkit.data.annotation import align, parse_tagged
    from steerkit.data.drafts import after_draft

    text = path.read_bytes().decode("utf-8", "replace")
    prompts_of(after_draft(text) or "")
    for read in (read_answer, lambda t: Structured().sections(TEXT, t), lambda t: Tagged().sections(TEXT, t)):
        try:
            read(text)
        except ValueError as error:  # what these promise, and their caller counts
            if isinstance(error, UnicodeError):
                raise
    align(TEXT, parse_tagged(text, TEXT), ["backtracking"])


def answers(path: Path) -> None:
    from steerkit_plugins.llm.answers import FILE, Answers

    (path.parent / FILE).write_bytes(path.read_bytes())
    Answers(path.parent).read()


def state(path: Path) -> None:
    from steerkit.store.files import write_sealed
    from steerkit.store.folder import STATE, RunFolder

    file = path.parent / STATE
    file.write_bytes(path.read_bytes())
    with suppress(ValueError, TypeError, RecursionError):  # whoever writes a state to harm can seal it too
        write_sealed(file, json.loads(file.read_bytes()))
    with RunFolder(path.parent) as folder:
        folder.is_done("traces", "abc")
        folder.seconds()


def run_recipe(path: Path) -> None:
    from steerkit.store.folder import read_recipe

    read_recipe(path.rename(path.with_name("recipe.yaml")).parent)


def vector(path: Path) -> None:
    from steerkit.vectors.card import card_of
    from steerkit.vectors.steering_vector import SteeringVector

    card_of(SteeringVector.load(path))


def statistics(path: Path) -> None:
    from steerkit.data.statistics import ActivationStatistics

    found = ActivationStatistics.load(path)
    for window in found.windows.values():
        window.mean("all")
        if window.raw:
            window.raw.read(0)


def gguf(path: Path) -> None:
    from steerkit.vectors.formats.gguf import import_gguf

    import_gguf(path)


def _trace() -> Any:
    from steerkit.data.trace import Trace

    return Trace(id="t0", prompt_id="t0", prompt="2 + 2?", text=TEXT)


def _lines(*rows: Any) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


SPAN = {"trace_id": "t0", "label": "backtracking", "judge": "human:ada", "start": 9, "end": 25, "first": -1, "last": -1}
OWN = {
    "id": "t0",
    "prompt_id": "t0",
    "prompt": "2 + 2?",
    "text": TEXT,
    "answer_text": "4",
    "prompt_ids": [1, 2],
    "ids": [3, 4],
    "starts": [0, 5],
    "finished": True,
}
KEPT = {
    "content": "yes",
    "refusal": "",
    "finish": "stop",
    "model": "m",
    "system_fingerprint": "",
    "input_tokens": 1,
    "output_tokens": None,
}
TAGGED = '["deduction"] It is 4. ["end-section"] ["backtracking"] Wait, is that 4? ["end-section"]'


def _recipes() -> list[bytes]:
    from steerkit.recipe.find import shipped

    own = b"extends: backtracking\nname: mine\nstrengths: [1, 2]\nfitter: {name: dom, window: [-13, -8]}\n"
    more = (
        b"plugins: [./x.py]\n",
        b"output_dir: ../x\n",
        b"about: &a [*a]\n",
        b"about: !!python/name:os.system\n",
        b"score_judge: {name: llm, base_url: 'http://x.example/v1'}\n",
        b"offsets: {starts: [0], width: 3}\n",
        b"id_map: {1: 2}\n",
        b"baselines: [{name: overall-mean}]\n",
        b"trust_remote_code: true\n",
    )
    return [own, *(own + line for line in more), *(path.read_bytes() for path in shipped()[:4])]


@cache
def _binary() -> dict[str, bytes]:
    """Bytes of a vector, a GGUF control vector and statistics with raw windows, as steerkit writes them."""
    import torch

    from steerkit.data.statistics import ActivationStatistics
    from steerkit.data.windows import WindowStatistics, groups_of
    from steerkit.vectors.formats.gguf import export_gguf
    from steerkit.vectors.info import VectorInfo
    from steerkit.vectors.steering_vector import SteeringVector

    info = VectorInfo(method="dom", label="backtracking", window=(-2, -1), depth=4, provenance={"seed": 0})
    made = SteeringVector({1: torch.ones(4), 2: torch.ones(4)}, info, means={1: torch.ones(4)}, norms={1: (1.0, 2.0)})
    sums = torch.ones(2, len(groups_of(["a"])), 2, 2, 4, dtype=torch.float64)
    window = WindowStatistics(
        range=(-2, -1),
        window=(-2, -1),
        layers=(0, 1),
        labels=("a",),
        sums=sums,
        counts=sums[:, :, 0, 0, 0],
        dropped={"a": 0},
        tokens=sums[0, 0, :, 0],
        norms=sums[0, 0, :, 0, 0],
        traces=1,
    )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        made.save(folder / "v")
        export_gguf(made, folder / "g", layers=[1, 2])
        ActivationStatistics({(-2, -1): window}, {"seed": 0}).save(folder / "s")
        return {path.name: path.read_bytes() for path in folder.iterdir()}


def _state() -> bytes:
    record = {"key": "abc", "files": {"traces.jsonl": None, "spans.jsonl": "f00d"}, "seconds": 1.5, "at": "now"}
    return json.dumps({"recipe": {"name": "x"}, "steps": {"traces": record}}).encode()


def _chat(**message: Any) -> bytes:
    choice = {"message": {"content": TAGGED, "refusal": None, **message}, "finish_reason": "stop"}
    return json.dumps({"model": "m", "choices": [choice], "usage": {"prompt_tokens": 3}}).encode()


def _answers() -> list[bytes]:
    sections = '{"sections": [{"label": "a", "text": "b"}]}'
    parts = [{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}, {"type": "text", "text": TAGGED}]
    calls = [{"function": {"name": "label", "arguments": "{}"}}]
    texts = [TAGGED, sections, f"<think>\nhm </think> Here:\n```json\n{sections}\n```"]
    return [_chat(), _chat(content=parts), _chat(content=None, tool_calls=calls), *(text.encode() for text in texts)]


def _logged() -> bytes:
    return _lines({**SPAN, "digest": "f00d", "action": "label"}, {**SPAN, "digest": "f00d", "action": "undo"})


TARGETS: dict[str, Target] = {
    "recipe": Target(".yaml", recipe, _recipes),
    "override": Target(".txt", override, lambda: [b"fitter.scale=raw", b"strengths.0=[1, {a: b}]", b"plugins=[x.py]"]),
    "preset": Target(".yaml", preset, _recipes),
    "run-recipe": Target(".yaml", run_recipe, _recipes),
    "taxonomy": Target(".yaml", taxonomy, lambda: [b"- a: what a is\n- b: what b is\n", b"- &a {a: b}\n- *a\n"]),
    "prompts": Target(
        ".jsonl", prompts, lambda: [_lines(*({"prompt": f"q{i}", "id": i} for i in range(4))), _lines(CHAT)]
    ),
    "csv": Target(".csv", csv_table, lambda: [b'id,prompt\n007,"2 + 2, or\n3?"\n8,NA\n']),
    "json": Target(".json", json_table, lambda: [_lines(CHAT), b'[{"prompt": "x", "id": 2.50}, {"prompt": "y"}]']),
    "traces": Target(
        ".jsonl", traces, lambda: [_lines(OWN), _lines({"prompt": "2 + 2?", "trace": TEXT}), _lines({**OWN, **CHAT})]
    ),
    "spans": Target(".jsonl", spans, lambda: [_lines(SPAN), _lines({"id": "t0", "annotated": TAGGED})]),
    "annotations": Target(".jsonl", annotation_log, lambda: [_logged()]),
    "human": Target(".jsonl", human, lambda: [_logged(), _lines(SPAN)]),
    "answer": Target(".json", answer, _answers),
    "answers": Target(
        ".jsonl", answers, lambda: [_lines({"key": "f00d", "model": "m", "request": {}, "answer": KEPT})]
    ),
    "state": Target(".json", state, lambda: [_state()]),
    "vector": Target(".safetensors", vector, lambda: [_binary()["v"]]),
    "statistics": Target(".safetensors", statistics, lambda: [_binary()["s"]]),
    "gguf": Target(".gguf", gguf, lambda: [_binary()["g"]]),
}


# --- what a reader may not do --------------------------------------------------------------------------------------

FORBIDDEN = frozenset(
    {
        "os.system",
        "os.exec",
        "os.posix_spawn",
        "os.fork",
        "subprocess.Popen",
        "socket.connect",
        "socket.getaddrinfo",
        "pickle.find_class",
        "webbrowser.open",
    }
)
_watched: list[tuple[str, list[str]]] = []  # the folder that may be written to, and what was done elsewhere


def _watch(event: str, args: tuple[Any, ...]) -> None:
    if not _watched:
        return
    folder, seen = _watched[-1]
    if event in FORBIDDEN:
        seen.append(f"{event} {str(args)[:200]}")
    elif event == "open" and isinstance(args[0], str | bytes) and isinstance(args[2], int):
        path = os.path.realpath(os.fsdecode(args[0]))
        if args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT) and not path.startswith((folder, "/dev/null")):
            seen.append(f"open {path} for writing")


@cache
def _begin(target: Target) -> None:
    """Read a good file first: imports start processes and open files of their own."""
    from steerkit.errors import SteerkitError

    for data in target.corpus()[:3]:
        with tempfile.TemporaryDirectory() as name, suppress(SteerkitError):
            path = Path(name) / f"mine{target.suffix}"
            path.write_bytes(data)
            target.read(path)
    _begin_to_watch()


@cache
def _begin_to_watch() -> None:
    sys.addaudithook(_watch)  # there is no way to take it off again


def attempt(target: Target, data: bytes, folder: Path) -> str:
    """Have a reader read these bytes in an empty folder; what went wrong, or an empty string."""
    from steerkit.bench.peak import CLEAR, begin_peak, peak
    from steerkit.errors import SteerkitError

    _begin(target)
    path = folder / f"mine{target.suffix}"
    path.write_bytes(data)
    seen: list[str] = []
    before, began = begin_peak() if CLEAR.exists() else 0, time.process_time()
    _watched.append((os.path.realpath(folder), seen))
    try:
        target.read(path)
    except SteerkitError as error:
        if not str(error).isprintable() and not all(c.isprintable() or c in "\n\t" for c in str(error)):
            seen.append(f"says {str(error)!r}")
    except Exception as error:
        at = traceback.extract_tb(error.__traceback__)[-1]
        seen.append(f"{type(error).__name__}: {str(error)[:200]} ({Path(at.filename).name}:{at.lineno})")
    finally:
        _watched.pop()
    if (seconds := time.process_time() - began) > SECONDS:
        seen.append(f"took {seconds:.0f} s")
    if before and (grown := (peak() - before) / 2**20) > MEBIBYTES:
        seen.append(f"took {grown:.0f} MiB")
    return "; ".join(seen)
