"""The report: whole, self-contained, safe to open, and only what the findings say."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from html.parser import HTMLParser
from io import StringIO
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from report_run import FINDING, found, transfer, write_run, write_table
from rich.console import Console

import steerkit.report
from steerkit.errors import SteerkitError
from steerkit.findings import Claim, Figure, Findings, Lines, Series
from steerkit.report import print_summary, summary, write_report
from steerkit.report.cautions import cautions, heads
from steerkit.report.page import write_page
from steerkit.report.run import Run
from steerkit.report.tabulate import MOST, condition_table, difference_table

NAMES = ("transfer", "windows", "blocks", "projection", "baselines", "circuit", "network")
FILES = [*(f"figures/{name}.{kind}" for name in NAMES for kind in ("png", "svg")), "report.html"]


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with every kind of figure, and its report."""
    folder = write_run(tmp_path_factory.mktemp("run"))
    assert write_report(folder) == FILES
    return folder


def page(folder: Path) -> str:
    """The page without its figures."""
    write_page(Run.read(folder), {})
    return (folder / "report.html").read_text(encoding="utf-8")


class Outline(HTMLParser):
    """What a page is made of."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.headings: list[tuple[int, str]] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.images: list[dict[str, str | None]] = []
        self.scopes: list[str | None] = []
        self._open = False
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        own = dict(attrs)
        self.ids += [str(own["id"])] if "id" in own else []
        self.links += [str(own["href"])] if tag == "a" else []
        self.images += [own] if tag == "img" else []
        self.scopes += [own.get("scope")] if tag == "th" else []
        if re.fullmatch("h[1-6]", tag):
            self._open = True
            self.headings.append((int(tag[1]), ""))

    def handle_endtag(self, tag: str) -> None:
        self._open = self._open and not re.fullmatch("h[1-6]", tag)

    def handle_data(self, data: str) -> None:
        if self._open:
            self.headings[-1] = (self.headings[-1][0], self.headings[-1][1] + data)


def test_files_are_whole_and_the_same_again(done: Path) -> None:
    first = {name: (done / name).read_bytes() for name in FILES}
    assert all(first[name].startswith(b"\x89PNG") for name in FILES if name.endswith("png"))
    assert all(b"<svg" in first[name] for name in FILES if name.endswith("svg"))
    write_report(done)
    assert {name: (done / name).read_bytes() for name in FILES} == first


def test_page_needs_nothing_and_runs_nothing(done: Path) -> None:
    html = (done / "report.html").read_text(encoding="utf-8")
    assert "<script" not in html and not re.search(r"https?://", html)
    assert set(re.findall(r'(?:src|srcset)="([^"]{0,22})', html)) == {"data:image/png;base64,"}
    assert all(link.startswith("#") for link in Outline(html).links)
    assert "default-src 'none'; img-src data:; style-src 'unsafe-inline'" in html
    assert "&lt;script&gt;alert(1)&lt;/script&gt; {{ 7 * 7 }} {% raw %} &lt;img src=x onerror=y&gt; &amp;" in html


def test_page_can_be_read_without_seeing_it(done: Path) -> None:
    """Headings in order, a text for each picture, a scope for each heading cell, links that lead somewhere."""
    outline = Outline((done / "report.html").read_text(encoding="utf-8"))
    levels = [level for level, _ in outline.headings]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    assert len(outline.images) == len(NAMES)
    captions = [figure.caption for one in found().values() for figure in one.figures]
    assert all(caption in str(image["alt"]) for image, caption in zip(outline.images, captions, strict=True))
    assert outline.scopes and all(outline.scopes)
    assert len(set(outline.ids)) == len(outline.ids) and {link[1:] for link in outline.links} <= set(outline.ids)


def test_first_screen_and_order(done: Path) -> None:
    """Name, question, finding, its picture, claims; experiments in the recipe's order; the rest is set-up."""
    html = (done / "report.html").read_text(encoding="utf-8")
    parts = ("<h1>tiny", "Does a direction in one model", f'"finding">{FINDING}'.replace("'", "&#39;"), "Figure 1. ")
    assert [html.index(part) for part in parts] == sorted(html.index(part) for part in parts)
    assert html.index("Figure 1. ") < html.index("Contents</h2>") < html.index('id="claims"')
    titles = [title for level, title in Outline(html).headings if level == 2]
    assert titles == [
        "Contents",
        "Claims",
        "Transfer between the models",
        "Sweeps",
        "How it was set up",
        "How to read this page",
    ]
    assert html.index('id="setup"') < html.index(">How the strength was chosen</h3>")
    assert "1 of 3 claims hold." in html


def test_order_follows_the_recipe(tmp_path: Path) -> None:
    write_run(tmp_path, asked=("choice", "sweep", "transfer"))
    headings = Outline(page(tmp_path)).headings
    assert [title for level, title in headings if level == 2][2:5] == [
        "How the strength was chosen",
        "Sweeps",
        "Transfer between the models",
    ]
    assert '"finding">Strength 30 has the highest keyword rate.' in page(tmp_path)


def test_a_phone_gets_narrow_figures(done: Path) -> None:
    html = (done / "report.html").read_text(encoding="utf-8")
    assert html.count('<source media="(max-width: 40rem)" srcset="data:image/png;base64,') == len(NAMES)


def test_claims_are_grouped_by_experiment(tmp_path: Path) -> None:
    findings = found()
    findings["sweep"] = replace(findings["sweep"], claims=(Claim(text="Block 2 is best", verdict="holds", n=40),))
    html = page(write_run(tmp_path, findings))
    table = html[html.index('id="claims"') :].split("</table>")[0]
    groups = re.findall(r'scope="rowgroup" colspan="5"><a href="#part-\d">([^<]+)</a>', table)
    assert groups == ["Transfer between the models", "Sweeps"]
    assert "2 of 4 claims hold" in html and "✗ does not hold" in table and "? cannot be told" in table
    assert "Cosine of the two vectors" not in table


def test_tables_folds_and_marks(tmp_path: Path) -> None:
    html = page(write_run(tmp_path))
    assert '<tr class="strong"><th scope="row">first-derived</th><td>second</td>' in html
    assert "<summary>Again <span>8 rows</span></summary>" in html and "<caption>All conditions</caption>" in html
    assert '<mark class="filled boxed">Wait</mark><mark class="filled">, let me reread that' in html
    assert '<span class="underlined">' in html and '<span class="grey">&lt;/think&gt; It is 9.</span>' in html
    assert '<span class="flag">collapsed</span>' in html and '<b class="role">system</b> You are terse.' in html
    legend = html[html.index("Marks:") :].split("</p>")[0]
    assert "filled" in legend and "grey" in legend and "shaded" not in legend


def test_provenance(tmp_path: Path) -> None:
    html = page(write_run(tmp_path))
    for text in (
        "<dt>model first</dt><dd>pocket:base, 4 blocks of width 3; weights f00d</dd>",
        "<dt>torch</dt><dd>9.9</dd>",
        "<dt>judges/keyword</dt><dd>steerkit-hf 0.1</dd>",
        "<dt>seed</dt><dd>3</dd>",
        "Traces: 8, 41.5 tokens on average.",
        "Mean coverage of a trace by its annotation: 95.0%.",
        "Spans labelled by gpt-4o (9 answers): 1,200 tokens read, 900 written, 0.01 dollars.",
        "windows dropped, first",
        "keyword rate: words that are keywords (share of words, judged by keyword; higher is better)",
        "harshness (points 0 to 100, judged by tone; lower is better)",
        "p below 0.1.",
        "20 % narrower",
    ):
        assert text in html, text
    assert "report</th>" not in html and "same model" not in html  # its own time would change the page


def test_models_that_are_the_same_are_named(tmp_path: Path) -> None:
    html = page(write_run(tmp_path, changes={"made_with": {"same_models": [["a", "b"], ["c", "d", "e"]]}}))
    assert "“a” and “b” are the same model in this run" in html and "“c”, “d” and “e” are" in html


def test_a_run_without_experiments(tmp_path: Path) -> None:
    html = page(write_run(tmp_path, {}, asked=()))
    assert "No experiments were run." in html and 'id="claims"' not in html
    write_run(tmp_path, {"x": Findings(title="Mute")}, asked=("x",))
    assert "No experiment of this run states a finding in words" in page(tmp_path)


def test_only_findings_and_recipe_are_needed(tmp_path: Path) -> None:
    write_run(tmp_path, {"x": Findings(title="Alone", finding="It is so.")}, asked=("x",))
    for path in tmp_path.glob("*"):
        if path.is_file() and path.name != "recipe.yaml":
            path.unlink()
    assert write_report(tmp_path) == ["report.html"]


def test_conditions_by_labels_of_any_names(tmp_path: Path) -> None:
    findings = {"transfer": Findings(title="Mine")}
    run = Run.read(write_run(tmp_path, findings, asked=("transfer",), labels=("007", "in", "β", "same")))
    table = condition_table(run, "transfer")
    assert table is not None and table.folded and table.left == 3
    assert table.headings == ("007", "in", "β", "keyword rate, % of words", "harshness, points 0 to 100", "prompts")
    assert table.rows[0] == ("first", "none", "0", "1.20 [0.70, 1.70]", "40.0 [37.0, 43.0]", "12")
    assert table.rows[-1] == ("second", "dom", "45", "10.2 [9.70, 10.7]", "49.0 [46.0, 52.0]", "12")
    assert table.note == "All rows have same x. Also in results.csv." and "<summary>Conditions" in page(tmp_path)
    assert condition_table(run, "other") is None


def test_paired_differences(tmp_path: Path) -> None:
    run = Run.read(write_run(tmp_path))
    table = difference_table(run, "transfer")
    assert table is not None and len(table.rows) == 8  # the uncollapsed form of a metric has no row
    headings = ("strength", "minus", "metric", "unit", "difference", "90 % interval", "p, Holm", "prompts")
    assert table.headings == headings
    assert table.rows[0] == (
        "10",
        "vector none, strength 0",
        "keyword rate",
        "points (% of words)",
        "+2.00",
        "[+1.50, +2.50]",
        "0.011",
        "12",
    )
    assert table.note.startswith("All rows have model second, vector dom.")


def test_long_tables_are_cut_and_say_so(tmp_path: Path) -> None:
    write_run(tmp_path, {"transfer": Findings(title="x")}, asked=("transfer",))
    run = Run.read(tmp_path)
    rows = tuple({**run.results.rows[0], "strength": str(i), "metric": "rate"} for i in range(MOST + 5))
    table = condition_table(replace(run, results=replace(run.results, rows=rows)), "transfer")
    assert table is not None and len(table.rows) == MOST
    assert f"The first {MOST} of {MOST + 5} rows; results.csv has all." in table.note


def change(path: Path, **cells: Any) -> None:
    """Set cells of all rows of a table."""
    import csv

    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    write_table(path, [{**row, **cells} for row in rows])


def test_cautions_follow_from_the_tables(tmp_path: Path) -> None:
    write_run(tmp_path)
    own, few = cautions(Run.read(tmp_path))
    assert own.startswith("One collapsed text") and few.startswith("Few prompts: a claim rests on 12 prompts. ")
    change(tmp_path / "results.csv", mean="", degenerate="False")
    change(tmp_path / "comparisons.csv", n_apart=9)
    lost, apart = cautions(Run.read(tmp_path))[2:]
    assert lost.startswith("No value for 18 of 18 conditions (counted for each metric): ")
    assert (
        apart.startswith("Few prompts that differ: in 12 of 12 paired differences") and "fewer than 10 prompts" in apart
    )
    change(tmp_path / "comparisons.csv", n_apart=0, degenerate="True")
    assert cautions(Run.read(tmp_path))[3].startswith("Degenerate intervals: 12 of 12 paired differences")


def test_cautions_are_short_at_the_top_and_only_there_when_there_are_any(tmp_path: Path) -> None:
    html = page(write_run(tmp_path))
    line = "<summary><b>2 cautions.</b> One collapsed text at the chosen strength · Few prompts</summary>"
    assert line in html and html.index(line) < html.index("Contents</h2>")
    write_run(tmp_path, {"sweep": Findings(title="x", finding="y")}, asked=("sweep",))
    assert 'class="cautions"' not in page(tmp_path)
    assert heads(["A b. C", "A b: d", "x" * 99]) == ["A b", "x" * 69 + "…"]


def test_summary_and_screen(tmp_path: Path) -> None:
    write_run(tmp_path)
    assert [claim.kind for claim in summary(tmp_path)] == ["claim"] * 3 + ["beside"] * 2
    console = Console(file=StringIO(), width=100, soft_wrap=True)
    print_summary(tmp_path, console)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    for said in (
        "does not hold",
        "90 % interval",
        "Sweeps: Block 2 is best.",
        "1 of 3 claims hold.",
        "Few prompts: a claim",
    ):
        assert said in text
    assert "Strength 30 has" not in text  # nobody asked for it: it describes the set-up
    assert all(len(line.rstrip()) <= 100 for line in text.splitlines())


def test_texts_of_a_run_cannot_steer_the_terminal(tmp_path: Path) -> None:
    evil = "\x1b[2J\x1b]0;owned\x07\u202e\x9b31m"
    claim = Claim(text=evil, verdict="holds", difference=evil, interval=evil)
    one = Findings(title=evil, finding=evil, claims=(claim,), cautions=(evil,))
    write_run(tmp_path, {"x": one}, asked=("x",), changes={"about": evil, "made_with": {"same_models": [[evil, "b"]]}})
    console = Console(file=StringIO(), width=100, force_terminal=False)
    print_summary(tmp_path, console)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert not set(text) & set("\x1b\x07\x9b\u202e") and "owned" in text


def broken(folder: Path, name: str, text: str) -> str:
    """What is said of a run with a damaged file."""
    write_run(folder)
    (folder / name).write_text(text, encoding="utf-8")
    with pytest.raises(SteerkitError) as told:
        summary(folder)
    return str(told.value)


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("recipe.yaml", "[1]", "is not a recipe"),
        ("findings/transfer.json", "{", "is damaged: not JSON"),
        ("findings/transfer.json", "[" * 100_000, "is damaged: not JSON"),
        ("findings/transfer.json", "[]", "not a JSON object"),
        ("findings/transfer.json", '{"value": 1}', "has no findings; run the recipe"),
        ("results.csv", "", "results.csv: is empty"),
        ("results.csv", "a,b\n1,2\n", "has no column experiment, split, metric, mean, sd"),
        (
            "comparisons.csv",
            "experiment,split,metric,delta\n",
            "ci_high, n_prompts, n_apart, degenerate, p, p_holm: it was",
        ),
        ("metrics.json", "[", "metrics.json: its files are damaged"),
    ],
)
def test_damaged_files_are_named(tmp_path: Path, name: str, text: str, said: str) -> None:
    message = broken(tmp_path, name, text)
    assert said in message and str(tmp_path) in message


def test_findings_of_another_version_name_all_problems(tmp_path: Path) -> None:
    text = json.dumps({"findings": {"title": 5, "figures": [{"name": "a"}]}})
    message = broken(tmp_path, "findings/sweep.json", text)
    for said in ("4 problems", "title: Input should be a valid string", "figures.0.panels: Field required"):
        assert said in message


def test_unfinished_runs(tmp_path: Path) -> None:
    with pytest.raises(SteerkitError, match=r"no run there \(no recipe\.yaml\); give the folder"):
        write_report(tmp_path)
    write_run(tmp_path, {}, asked=("a", "b"))
    with pytest.raises(SteerkitError, match=r"findings/a\.json, findings/b\.json: not there: the run is not finished"):
        write_report(tmp_path)
    write_run(tmp_path, {}, asked=())
    (tmp_path / "results.csv").unlink()
    with pytest.raises(SteerkitError, match=r"no finished run there \(no findings/\*\.json, no results\.csv\)"):
        write_report(tmp_path)
    write_run(tmp_path)
    (tmp_path / "metrics.json").unlink()
    with pytest.raises(SteerkitError, match=r"metrics\.json: is not there, and results\.csv needs it; run the recipe"):
        write_report(tmp_path)


def lines(name: str, series: Sequence[Series] = ()) -> Figure:
    panel = Lines(title="t", xlabel="x", ylabel="y", series=tuple(series))
    return Figure(name=name, title="T", caption="c", panels=(panel,))


def test_figures_cannot_write_elsewhere_and_problems_come_at_once(tmp_path: Path) -> None:
    """A figure's name is a file's name; whatever doesn't fit together is named before anything is drawn."""
    bad = Series(name="s", x=(1.0, 2.0), y=(1.0,), low=(0.0, 0.0))
    names = ("../../evil", "/tmp/evil", ".hidden", "a/b", "", "CON\0", "x" * 101)
    figures = (*(lines(name) for name in names), lines("same"), lines("same", [bad]), replace(transfer(), widths=(1,)))
    write_run(tmp_path, {"x": Findings(title="x", figures=figures)}, asked=("x",))
    with pytest.raises(SteerkitError) as told:
        write_report(tmp_path)
    message = str(told.value)
    assert message.count("use up to 100 letters") == len(names) and str(tmp_path / "findings/x.json") in message
    assert "figure 'same': x has a figure of that name too" in message
    assert "panel 1: series 's': y has 1 values, and there are 2 places" in message
    assert "has one end of its intervals" in message and "widths needs 2 positive numbers" in message
    assert not (tmp_path / "figures").exists()


def test_a_value_that_is_no_number_is_drawn_as_none(tmp_path: Path) -> None:
    """Infinite and missing values in a findings file neither stop the drawing nor reach an axis."""
    odd = (float("nan"), float("inf"), None, 1.0)
    series = Series(name="s", x=(0.0, 1.0, 2.0, 3.0), y=odd, low=odd, high=odd)
    write_run(tmp_path, {"x": Findings(title="x", figures=(lines("odd", [series]),))}, asked=("x",))
    assert write_report(tmp_path)[0] == "figures/odd.png"


def test_import_is_cheap_and_a_report_loads_no_plugin(tmp_path: Path) -> None:
    """What a stranger's folder names is neither loaded nor asked."""
    write_run(tmp_path, {"x": Findings(title="x")}, asked=("x",))
    code = (
        "import sys, pathlib, steerkit.report as r\n"
        "print(any(m in sys.modules for m in ('torch', 'matplotlib', 'jinja2')))\n"
        f"r.write_report(pathlib.Path({str(tmp_path)!r}))\n"
        "print(any(m.startswith('steerkit_plugins') for m in sys.modules))"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).split() == ["False", "False"]


PAPER = (
    "backtracking",
    "transfer",
    "baselines?",
    "offsets?",
    "lens",
    "projections?",
    "agreement",
    "keywords?",
    "reasoning",
    "base",
    "base-derived",
    "unsteered",
    "choice",
    "dom",
)


def test_the_report_knows_no_paper() -> None:
    """No experiment, figure, label, keyword or role of a paper in its code, templates included."""
    files = [path for path in Path(steerkit.report.__file__).parent.rglob("*") if path.suffix in (".py", ".j2", ".css")]
    assert len(files) > 15
    words = re.compile(rf"(?<![-\w])({'|'.join(PAPER)})(?![-\w])")
    named = {path.name: words.findall(path.read_text(encoding="utf-8")) for path in files}
    assert {name: sorted(set(own)) for name, own in named.items() if own} == ALLOWED


ALLOWED = {"facts.py": ["reasoning"], "network.py": ["offset"]}
"""The end of a trace's reasoning: a word of the trace format, not a model's role; matplotlib's unit of a distance."""
