"""Judges: exact character spans, Eq. 1's b, labels by rules."""

from __future__ import annotations

import random
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
from pydantic import ValidationError
from steerkit_plugins.judges.keyword import KeywordJudge
from steerkit_plugins.judges.keyword_rate import KeywordRate, keyword_rate
from steerkit_plugins.judges.rules import RulesJudge
from steerkit_plugins.judges.sentences import sentences

NASTY = [
    "Wait. That is 3.14, e.g. pi. Hmm... is it? Yes!",
    "Wait.\n\nWait. Wait.\nWait.",
    "  leading space. Trailing space.  \n",
    "One line\nanother line without an end",
    'He said "Wait." Then he left. (Hmm, did he?)',
    "Step 1. Add. 2. Subtract.\n- item one\n- item two\n1) first 2) second",
    "x = [1, 2]*3 + (4). So f(x) = a|b? ... Wait—no.",
    "“Wait…” she said. ‘Hmm’ — é, 日本語。待って。 😀 Done.",
    "a\tb\r\nc. d",
    "<b>Wait.</b> &amp; so on. \\(x^2\\) is $4.00.",
    ". . . ! ?",
    "Mr. Smith Jr. went to Washington D.C. at 5 p.m. Then U.S. troops left.",
    "\u2028line separator. next\u00a0word.\x0bvertical",
]


def check_spans(text: str) -> list[tuple[int, int]]:
    found = sentences(text)
    covered = "".join(text[a:b] for a, b in found)
    assert all(0 <= a < b <= len(text) for a, b in found)
    assert all(b <= c for (_, b), (c, _) in pairwise(found))
    assert all(text[a:b] == text[a:b].strip() for a, b in found)
    assert "".join(covered.split()) == "".join(text.split())  # no character of the text is in no sentence
    return found


@pytest.mark.parametrize("text", NASTY)
def test_sentences_are_exact_and_cover_the_text(text: str) -> None:
    check_spans(text)


def test_sentences_of_random_texts() -> None:
    draw = random.Random(0)
    parts = [
        "Wait.",
        "Wait",
        "hmm",
        "3.14",
        "e.g.",
        "\n",
        " ",
        "?",
        "...",
        '"',
        "(",
        ")",
        "-",
        "1.",
        "the",
        "é",
        "*",
        "…",
    ]
    for _ in range(300):
        check_spans("".join(draw.choice(parts) + draw.choice(["", " "]) for _ in range(draw.randint(1, 14))))


def test_sentences_are_sentences() -> None:
    text = "Let me see: 3.5 is odd. Wait, is it? Hmm, no!"
    assert [text[a:b] for a, b in sentences(text)] == ["Let me see: 3.5 is odd.", "Wait, is it?", "Hmm, no!"]
    assert sentences("") == sentences("  \n ") == []


@pytest.mark.parametrize(
    ("text", "b"),
    [
        ("Wait, hmm. HMM… “wait” (Wait) — no", 5 / 7),
        ("awaiting the waiter", 0.0),
        ("wait", 1.0),
        ("wait-and-see", 0.0),
        ("a b c d", 0.0),
    ],
)
def test_b_of_eq_1(text: str, b: float) -> None:
    assert keyword_rate(text, ("wait", "hmm")) == pytest.approx(b)


def test_b_by_substring_and_with_other_words() -> None:
    assert keyword_rate("awaiting the waiter", ("Wait",), substring=True) == pytest.approx(2 / 3)
    assert keyword_rate("But wait but", ("but",)) == pytest.approx(2 / 3)


def test_a_text_without_words_has_no_b() -> None:
    rate = keyword_rate("", ("wait",))
    assert rate != rate
    assert KeywordJudge().score(["wait no", "", "  \n"]) == [{"keyword": 0.5}, {}, {}]
    assert KeywordJudge().score([]) == []


def test_the_metric_works_offline() -> None:
    """conftest sets HF_HUB_OFFLINE=1."""
    import os

    assert os.environ["HF_HUB_OFFLINE"] == "1"
    found = KeywordRate().compute(predictions=["wait no", "no", ""], keywords=["wait"])
    assert found is not None
    assert found["rates"][:2] == [0.5, 0.0]
    assert found["b"] == 0.25
    added = KeywordRate()
    added.add_batch(predictions=["hmm", "x y"])
    batched = added.compute()
    assert batched is not None
    assert batched["rates"] == [1.0, 0.0]


def test_the_metric_twice_in_one_process() -> None:
    judge = KeywordJudge(keywords=("but",))
    assert judge.score(["but"]) == judge.score(["but"]) == [{"keyword": 1.0}]
    assert judge.score(["wait"] * 1500) == [{"keyword": 0.0}] * 1500


def test_marks_are_the_words_that_count() -> None:
    text = "Wait, wait. A waiter."
    assert KeywordJudge().marks([text, ""]) == [[(0, 5), (6, 11)], []]
    assert KeywordJudge(substring=True).marks([text]) == [[(0, 5), (6, 11), (14, 21)]]
    (share,) = KeywordJudge(substring=True).score([text])
    assert share["keyword"] == 3 / len(text.split())


def test_keyword_sentences() -> None:
    text = "So it is 4. Wait, no. The waiter left. Hmm!"
    found = KeywordJudge().annotate([text, ""])
    assert [(text[a:b], label) for a, b, label in found[0]] == [
        ("So it is 4.", "other"),
        ("Wait, no.", "backtracking"),
        ("The waiter left.", "other"),
        ("Hmm!", "backtracking"),
    ]
    assert found[1] == []
    assert [label for *_, label in KeywordJudge(substring=True, label="kw").annotate([text])[0]][2] == "kw"
    with pytest.raises(ValidationError, match="at least 1 item"):
        KeywordJudge(keywords=())


RULES = RulesJudge(
    patterns={"backtracking": (r"^Wait\b", r"\bactually\b"), "deduction": (r"\bso\b", r"^So\b"), "x": ()}
)


def test_rules_take_the_first_label_that_fits() -> None:
    text = "So wait. Wait, so it is. It is actually so. Nothing here."
    labels = [(text[a:b], label) for a, b, label in RULES.annotate([text])[0]]
    assert labels == [
        ("So wait.", "deduction"),
        ("Wait, so it is.", "backtracking"),
        ("It is actually so.", "backtracking"),
        ("Nothing here.", "other"),
    ]
    assert RULES.labels() == ("backtracking", "deduction", "x")


def test_shares_of_labels() -> None:
    found = RULES.score(["Wait. So. Nothing. Nothing more.", ""])
    assert found == [{"backtracking": 0.25, "deduction": 0.25, "x": 0.0, "other": 0.5}, {}]


def test_each_pattern_stands_alone() -> None:
    """Flags, group names and back-references of one pattern don't reach another."""
    judge = RulesJudge(
        patterns={"a": (r"(?P<w>no) (?P=w)", r"(?i)wait", r"(?P<w>x)(?P=w)"), "b": (r"(y)-\1", r"(z)-\1")}
    )
    texts = ["no no", "WAIT", "xx", "y-y", "z-z", "z-y", "NO NO"]
    assert [judge.annotate([t])[0][0][2] for t in texts] == ["a", "a", "a", "b", "b", "other", "other"]


def test_patterns_that_are_none() -> None:
    with pytest.raises(ValidationError, match=r"(?s)'\(' is no regular expression: .*'\[' is no regular expression: "):
        RulesJudge(patterns={"a": ("(",), "b": ("[", "fine")})


def test_the_keyword_judge_writes_no_file(tmp_path: Path) -> None:
    script = """
import resource, signal, sys
from steerkit import registry
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
judge = registry.get("judges", "keyword")(keywords=["wait"])
judge.score(["imports what it needs"])
resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
sys.exit(judge.score(["wait no", "a b"])[0]["keyword"] != 0.5)
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
