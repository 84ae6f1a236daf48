"""Chats through a whole run, through imported traces, and through the command line."""

from __future__ import annotations

import json
import re
from html import escape
from pathlib import Path
from typing import Any

import pytest
import templates
from console import Steerkit
from steerkit_plugins.pocket.prompts import problems
from templates import tokenizer_with

from steerkit import load_recipe
from steerkit.annotate.run_texts import run_texts
from steerkit.data.chat_format import ChatFormat
from steerkit.data.chats import messages_of, to_json
from steerkit.data.generated import Generation
from steerkit.data.importing import read_spans, read_traces
from steerkit.data.tokens import decode, encode_trace, plain_trace
from steerkit.data.trace import Prompt, Trace, read_rows, write_rows
from steerkit.errors import InputError, SteerkitError
from steerkit.run import SteeringTrainer
from steerkit.steps.scores import Scores, accuracies

SYSTEM = {"role": "system", "content": "Think <b>first</b> & answer."}
GREETING = [{"role": "user", "content": "Are you there?"}, {"role": "assistant", "content": "Yes."}]
BEGIN = {"role": "assistant", "content": "First Sunday"}
COUNTS = {"extract": 40, "choose": 2, "test": 4}
SMALL = (
    "max_new_tokens=120 per_device_batch_size=32 resamples=200 threads=1 strengths=[30] "
    "experiments=[baselines,projection,texts] baselines.steerers=[gaussian-noise] baselines.labels=[] perplexity=true "
    "scored=everything"
)


def pocket_chats() -> list[dict[str, Any]]:
    """Pocket's problems as chats of four forms in turn."""
    rows = []
    for row in (row | {"split": split} for split, n in COUNTS.items() for row in problems(n, 0, split)):
        asked = {"role": "user", "content": row["prompt"]}
        forms = ([SYSTEM, asked], [asked], [SYSTEM, *GREETING, asked], [SYSTEM, asked, BEGIN])
        rows.append({**row, "prompt": forms[len(rows) % 4]})
    return rows


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def small_run(steerkit: Steerkit) -> Any:
    counts = [f"prompts.{split}={n}" for split, n in COUNTS.items()]
    source = "prompts.source={name: dataset, path: parquet, data_files: p.parquet, id: id, answer: answer}"
    words = ["recipe", "run", "backtracking", "--out", "run"]
    for setting in (source, *counts, *SMALL.split()):
        words += ["--set", setting]
    return steerkit(*words)


def trainer_of(path: Path, **counts: int) -> SteeringTrainer:
    """One whose prompts are those of a jsonl file, with a run folder beside it."""
    source = json.dumps({"name": "jsonl", "path": str(path)})
    settings = [f"prompts.source={source}", f"output_dir={path.parent / 'trained'}"]
    settings += [f"prompts.{split}={n}" for split, n in counts.items()]
    return SteeringTrainer.from_recipe(load_recipe("backtracking", settings))


def made(trainer: SteeringTrainer, title: str, *needs: Any) -> Any:
    """The artifact of one of a trainer's steps."""
    step = trainer.steps[title]
    return step.make(trainer.context.of(step, title), *needs)


def test_a_run_on_chats(steerkit: Steerkit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    rows = pocket_chats()
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    columns = [{"messages": row["prompt"], "id": row["id"], "answer": row["answer"]} for row in rows]
    datasets.Dataset.from_list(columns).to_parquet(tmp_path / "p.parquet")
    done = small_run(steerkit)
    assert done.returncode == 0, done.stderr
    for said in ("System texts put before the first user", "role: 34.", "it is the trace (`traces.given`): 11."):
        assert said in " ".join(done.stderr.split())
    there = {p.id: p for p in read_rows(tmp_path / "run" / "prompts.jsonl", Prompt)}
    assert {name: to_json(p.prompt) for name, p in there.items()} == {row["id"]: row["prompt"] for row in rows}
    traces = read_rows(tmp_path / "run" / "traces.jsonl", Trace)
    assert all(t.prompt == there[t.id].prompt for t in traces)
    assert all(not t.text.startswith("First Sunday") for t in traces)  # what it goes on from is the prompt's

    html = (tmp_path / "run" / "report.html").read_text()
    assert "Think &lt;b&gt;first&lt;/b&gt; &amp; answer." in html
    for chat in (messages_of(p.prompt) for p in there.values() if p.split == "test"):
        line = "<br>".join(f'<b class="role">{m.role}</b> {escape(m.content)}' for m in chat)
        assert re.search(rf"<summary>{re.escape(line)}\s+<span>", html)
    assert "<li>System texts put before the first user message" in html
    asked = run_texts(tmp_path / "run")[next(t.id for t in traces if len(t.prompt) == 4)].prompt
    assert asked.startswith("[system]\nThink <b>first</b> & answer.\n\n[user]\nAre you there?\n\n[assistant]\nYes.\n\n")

    again = small_run(steerkit)
    assert again.returncode == 0 and "done before" in again.stderr and " s\n" not in again.stderr


def test_chats_of_a_jsonl_file_reach_the_model(tmp_path: Path) -> None:
    rows = pocket_chats()
    trainer = trainer_of(write(tmp_path / "p.jsonl", rows), **COUNTS)
    with trainer.folder:
        prompts = made(trainer, "prompts")
        made(trainer, "chats", prompts)
    assert {p.id: (to_json(p.prompt), p.split) for p in prompts} == {r["id"]: (r["prompt"], r["split"]) for r in rows}
    log = [json.loads(line) for line in (tmp_path / "trained" / "log.jsonl").read_text().splitlines()]
    assert [row["chats"] for row in log if "chats" in row] == [{"system_in_user_turn": 34, "continued": 11}]
    tokenizer = trainer.context.models.tokenizer
    asked = {p.id: messages_of(p.prompt)[-1].content for p in prompts}
    texts = {p.id: decode(tokenizer, trainer.context.chats.ids(p.prompt)) for p in prompts}
    first = [f"<s>Question: {SYSTEM['content']}\n\n", "<s>Question: "]
    assert texts[rows[0]["id"]] == f"{first[0]}{asked[rows[0]['id']]}\n<think>"
    assert texts[rows[1]["id"]] == f"{first[1]}{asked[rows[1]['id']]}\n<think>"
    assert texts[rows[2]["id"]] == f"{first[0]}Are you there?\nYes.</s>{first[1]}{asked[rows[2]['id']]}\n<think>"
    assert texts[rows[3]["id"]].endswith("\n<think>First Sunday")


def test_a_wrong_template_argument_ends_a_run_before_it_begins(steerkit: Steerkit, tmp_path: Path) -> None:
    for key, value, said in (
        (
            "chat_template_kwargs.enable_thinking",
            "false",
            "chat_template_kwargs.enable_thinking: the chat template never",
        ),
        ("chat_date", "2024-02-30", "--set chat_date=2024-02-30: chat_date: must be a day, YYYY-MM-DD"),
    ):
        done = steerkit("recipe", "run", "backtracking", "--out", "run", "--set", f"{key}={value}")
        assert (done.returncode, said in done.stderr) == (2, True), done.stderr
        assert not (tmp_path / "run" / "prompts.jsonl").exists()


def test_prompts_are_made_again_when_their_file_has_changed(tmp_path: Path) -> None:
    """Nothing can be fitted to these: the run ends after its traces."""
    path = write(tmp_path / "p.jsonl", [{"prompt": f"question {i}"} for i in range(4)])

    def texts(update: bool = False) -> list[str]:
        trainer = trainer_of(path, extract=1, choose=1, test=1)
        trainer.update = update
        with pytest.raises(SteerkitError, match=r"D₊ is empty|no span of group"):
            trainer.run()
        return sorted(str(p.prompt) for p in read_rows(tmp_path / "trained" / "prompts.jsonl", Prompt))

    before = texts()
    assert texts() == before
    write(path, [{"prompt": f"other question {i}"} for i in range(4)])
    assert all(text.startswith("other") for text in texts(update=True))


TEXT = "<think>\nFirst I look. Wait, that is wrong.</think>So it is 4."
ROW = {
    "id": 7,
    "messages": [SYSTEM, {"role": "user", "content": "How many?"}, {"role": "assistant", "content": TEXT}],
    "annotated": '["initializing"] <think> First I look. ["end-section"] ["backtracking"] Wait, that is wrong.',
}


def test_spans_of_a_trace_that_begins_as_its_prompt_ends(tmp_path: Path) -> None:
    """Places are those of the text as it was given, with a tokenizer at once or later; the tag is read once."""
    path = write(tmp_path / "published.jsonl", [ROW])
    tokenizer = tokenizer_with(templates.R1)

    def encode(prompt: Prompt, text: str) -> Trace:
        return encode_trace(tokenizer, prompt, text, "</think>")

    (trace,) = read_traces(path, encode)
    assert (trace.id, trace.text + trace.answer_text, to_json(trace.prompt)) == ("7", TEXT, ROW["messages"][:2])
    assert decode(tokenizer, trace.tokens).count("<think>") == 1
    assert decode(tokenizer, trace.tokens) == decode(tokenizer, ChatFormat(tokenizer).ids(trace.prompt)) + TEXT[8:]
    spans = read_spans(path, [trace], ["initializing", "backtracking"]).spans
    assert [TEXT[s.start : s.end] for s in spans] == ["<think>\nFirst I look.", "Wait, that is wrong."]
    assert [decode(tokenizer, trace.tokens[s.first : s.last + 1]).strip() for s in spans] == [
        "<think>\nFirst I look.",
        "Wait, that is wrong.",
    ]
    plain = read_traces(path, lambda prompt, text: plain_trace(prompt, text, "</think>"))
    write_rows(tmp_path / "traces.jsonl", plain)
    write_rows(tmp_path / "spans.jsonl", read_spans(path, plain, ["initializing", "backtracking"]).spans)
    (later,) = read_traces(tmp_path / "traces.jsonl", encode)
    assert later == trace
    assert read_spans(tmp_path / "spans.jsonl", [later], []).spans == spans


def test_published_rows_are_refused_by_line(tmp_path: Path) -> None:
    asked = {"role": "user", "content": "x"}
    rows = [ROW, {"prompt": [asked, asked], "trace": "y"}, {"prompt": [asked], "trace": "<s>y"}, {"prompt": "x"}]
    rows += [{"prompt": [{"role": "tool", "content": "x"}], "trace": "y"}, {"messages": [asked]}]
    rows += [{"prompt": " ", "trace": "y"}, {"prompt": "x", "trace": "y", "id": [1]}, {"prompt": "x", "trace": 4}]
    path = write(tmp_path / "published.jsonl", rows)
    tokenizer = tokenizer_with(templates.STRICT)
    with pytest.raises(InputError) as caught:
        read_traces(path, lambda prompt, text: encode_trace(tokenizer, prompt, text, "</think>"))
    said = {p.where.rsplit(":", 1)[1]: p.message for p in reversed(caught.value.problems)}
    assert said == {
        "2": "the chat template refuses it: Conversation roles must alternate user/assistant",
        "3": "the trace begins with its own prompt ('<s>y'); leave the prompt out of it",
        "4": "has no text under 'trace'",
        "5": "'prompt': message 1 is a tool's turn (role 'tool'); prompts hold system, user and assistant texts alone",
        "6": "has no text under 'trace'",
        "7": "'prompt' is empty",
        "8": "'id' must be a text, not a list",
        "9": "has no text under 'trace'",
    }


def test_an_import_counts_what_opens_twice(steerkit: Steerkit, tmp_path: Path) -> None:
    tokenizer_with(templates.R1).save_pretrained(tmp_path / "model")
    (tmp_path / "model" / "config.json").write_text('{"model_type": "llama"}')
    write(tmp_path / "published.jsonl", [ROW, {**ROW, "id": 8, "messages": [*ROW["messages"][:2]], "trace": "Wait."}])
    done = steerkit("judge", "import", "published.jsonl", "--to", "in", "--tokenizer", "model")
    assert done.returncode == 0, done.stderr
    assert "Traces that begin with '<think>\\n', which their prompt ends with and which is read once: 1." in done.stdout
    assert json.loads((tmp_path / "in" / "spans.notes.json").read_text())["opened_twice"] == {"<think>\n": 1}


def test_all_that_is_written_is_the_answer_where_the_prompt_ends_the_reasoning() -> None:
    trainer = SteeringTrainer.from_recipe(load_recipe("backtracking"))
    run = trainer.context.of(Scores(), "scores.test")
    (prompt,) = (Prompt(split="test", **row) for row in problems(1, 0, "test"))
    right = f" Ann has {prompt.answer} apples."
    rows = [
        Generation(
            split="test",
            condition="c",
            labels={},
            added_norm=0.0,
            prompt_id=prompt.id,
            sample=0,
            finished=True,
            text=text,
            ids=(),
            starts=(),
        )
        for text in (right, f" I think.</think>{right}", " I think.")
    ]
    run.__dict__["chats"] = ChatFormat(tokenizer_with(templates.QWEN))
    assert accuracies(run, rows, [prompt]) == [{"accuracy": 0.0}, {"accuracy": 1.0}, {"accuracy": 0.0}]
    run.__dict__["chats"] = ChatFormat(tokenizer_with(templates.QWEN), arguments={"enable_thinking": False})
    assert accuracies(run, rows, [prompt]) == [{"accuracy": 1.0}, {"accuracy": 1.0}, {"accuracy": 0.0}]


def test_generate_takes_a_chat(steerkit: Steerkit, tmp_path: Path) -> None:
    import torch

    from steerkit.vectors.info import VectorInfo
    from steerkit.vectors.steering_vector import SteeringVector

    info = VectorInfo(method="dom", label="x", window=(-1, 0), source="base", depth=4)
    SteeringVector({1: torch.ones(128)}, info).save(tmp_path / "v.safetensors")
    words = ("generate", "pocket:reasoning", "v.safetensors", "Max has 3 cups.", "--max-new-tokens", 3)
    for more, said in (
        (("--system", " "), "the prompt: message 1 is empty"),
        (("--template-arg", "enable_thinking"), "--template-arg enable_thinking: an override is written"),
        (("--template-arg", "effort=low"), "chat_template_kwargs.effort: the chat template never reads it"),
    ):
        done = steerkit(*words, *more)
        assert (done.returncode, said in done.stderr) == (2, True), done.stderr
    done = steerkit(*words, "--system", "Be brief.", "--begin", "First Sunday")
    assert done.returncode == 0, done.stderr
    assert "the chat template has no system role: 1." in done.stdout
    assert (
        "Chats that end in an assistant message: the model continues it, or it is the trace (`traces.given`): 1."
        in done.stdout
    )
