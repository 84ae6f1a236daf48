"""The report of a hostile run in a real browser: nothing of it runs, nothing is loaded, and the page still works."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from xml.etree import ElementTree

import pytest
import yaml
from report_run import effect, write_run

from steerkit.report import write_report
from steerkit.report.compare import write_comparison
from steerkit.tables import COMPARISON_COLUMNS, RESULT_COLUMNS, read_csv, write_csv

pytest.importorskip("selenium", reason="needs selenium (pip install 'steerkit-hf[dev]')")
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(
    not (CHROMIUM and DRIVER), reason="needs a browser and its driver (apt install chromium chromium-driver)"
)
RUN = "document.title='owned'"
EVIL = (
    f"</title></style><script>{RUN}</script><img src='URL/i' onerror=\"{RUN}\"><link rel=stylesheet href=URL/s>"
    f'<iframe src=URL/f></iframe><a href="javascript:{RUN}" autofocus onfocus={RUN}>x</a><meta http-equiv=refresh '
    "content='0;url=URL/r'> \"'`]]>--> {{ 7 * 7 }} {% raw %} ${7} \u2028 \u2029 \u202e \u2067 \u200f \x00 \x1b[2J &amp;"
)
HANDLERS = "return [...document.querySelectorAll('*')].flatMap(e => [...e.attributes]).filter(a => /^on/.test(a.name))"


@pytest.fixture(scope="module")
def visits() -> Iterator[tuple[str, list[str]]]:
    """A server that notes who asks it for what."""
    seen: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            seen.append(self.path)
            self.send_response(204)
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", seen
        server.shutdown()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    for word in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"):
        options.add_argument(word)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(str(DRIVER)))
    yield driver
    driver.quit()


def hostile_run(folder: Path, evil: str) -> Path:
    """A run whose every text is markup: recipe, models, label, keywords, methods, prompts, their ids, generations."""
    run = write_run(folder, effect(0.05), text=f"Wait. {evil}")
    recipe = yaml.safe_load((run / "recipe.yaml").read_text(encoding="utf-8"))
    label = evil + "label"
    recipe |= {"name": evil + "name", "about": evil + "about", evil + "key": evil}
    recipe["span_judge"]["patterns"] = {label: ["^Wait"]}
    recipe["score_judge"]["keywords"] = ["wait", evil]
    recipe["fitter"]["label"] = label
    for role in ("base", "reasoning"):
        recipe["made_with"][role]["model"] = f"{evil}{role}"
    (run / "recipe.yaml").write_text(json.dumps(recipe), encoding="utf-8")
    for name, columns in (("results.csv", RESULT_COLUMNS), ("comparisons.csv", COMPARISON_COLUMNS)):
        rows = read_csv(run / name)
        for row in rows:
            for cell in ("method", "vs_method", "judge"):
                if row.get(cell) in ("gaussian-noise", "rules"):
                    row[cell] = evil + str(row[cell])
        write_csv(run / name, columns, [{k: "" if v is None else v for k, v in row.items()} for row in rows])
    for name in ("prompts.jsonl", "generations.jsonl"):
        rows = [json.loads(line) for line in (run / name).read_text(encoding="utf-8").splitlines()]
        for row in rows:
            row |= {k: evil + row[k] for k in ("id", "prompt_id", "prompt") if k in row}
        (run / name).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (run / "choice.json").write_text(json.dumps({"strength": 10.0, "how": evil}))
    notes = {"labels": {label: 5}, "rejected_spans": {evil: 2}, "answered_by": {evil: 9}, "mean_coverage": 0.5}
    notes |= {"input_tokens": 5, "output_tokens": 6}
    (run / "spans.notes.json").write_text(json.dumps(notes))
    return run


def opened(browser: Any, page: Path) -> None:
    browser.get(page.as_uri())
    assert browser.execute_script("return document.readyState") == "complete"


def harmless(browser: Any, seen: list[str]) -> None:
    """Nothing ran, nothing was loaded, nothing is there that could."""
    assert browser.title != "owned" and browser.title.endswith("steerkit report")
    assert browser.execute_script("return document.scripts.length") == 0
    assert browser.find_elements(By.CSS_SELECTOR, "iframe, object, embed, form, link, base, a[href]") == []
    assert browser.execute_script(HANDLERS) == []
    sources = browser.execute_script("return [...document.images].map(i => [i.src.slice(0, 22), i.naturalWidth > 0])")
    assert sources and all(source == ["data:image/png;base64,", True] for source in sources)
    loaded = browser.execute_script("return performance.getEntriesByType('resource').map(e => e.name)")
    assert [name for name in loaded if not name.startswith("data:")] == [] and seen == []
    assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []


def test_nothing_of_a_hostile_run_runs(browser: Any, visits: tuple[str, list[str]], tmp_path: Path) -> None:
    url, seen = visits
    evil = EVIL.replace("URL", url)
    run = hostile_run(tmp_path / "run", evil)
    write_report(run)
    opened(browser, run / "report.html")
    harmless(browser, seen)
    # All of it is there as text, but for what turns the page's direction or is no text.
    shown = evil
    for character in "\u202e\u2067\x00\x1b":
        shown = shown.replace(character, "\ufffd")
    everything = browser.execute_script("return document.documentElement.textContent")
    assert shown + "name" in everything and shown + "label" in everything and shown + "base" in everything
    assert browser.find_element(By.TAG_NAME, "h1").get_property("textContent") == shown + "name"
    assert "owned" in browser.find_element(By.CSS_SELECTOR, ".texts .text").get_property("textContent")
    # And it works: what is folded opens by a click, and closes again.
    folded = browser.find_elements(By.CSS_SELECTOR, "details:not([open])")
    assert folded
    for part in folded[:2]:
        part.find_element(By.TAG_NAME, "summary").click()
        assert part.get_attribute("open") == "true"
    harmless(browser, seen)
    for figure in (run / "figures").glob("*.svg"):
        tags = {element.tag.rpartition("}")[2] for element in ElementTree.parse(figure).iter()}
        assert not tags & {"script", "foreignObject", "image", "a", "iframe"}, figure


def test_nothing_of_two_hostile_runs_runs(browser: Any, visits: tuple[str, list[str]], tmp_path: Path) -> None:
    url, seen = visits
    runs = [hostile_run(tmp_path / name, EVIL.replace("URL", url)) for name in ("a", "b")]
    for run in runs:
        write_report(run)
    write_comparison(runs[0], runs[1], tmp_path / "both.html")
    opened(browser, tmp_path / "both.html")
    harmless(browser, seen)


def test_the_policy_stops_what_would_get_past_the_escaping(
    browser: Any, visits: tuple[str, list[str]], tmp_path: Path
) -> None:
    url, seen = visits
    run = write_run(tmp_path / "run", effect(0.05), kept=("transfer",))
    write_report(run)
    page = run / "report.html"
    added = f"<script>document.title='owned'</script><img src='{url}/i' onerror=\"document.title='owned'\">"
    page.write_text(
        page.read_text(encoding="utf-8").replace("</body>", f"{added}<iframe src='{url}/f'></iframe></body>")
    )
    opened(browser, page)
    assert browser.title != "owned" and seen == []
    stopped = [
        entry["message"] for entry in browser.get_log("browser") if "Content Security Policy" in entry["message"]
    ]
    assert len(stopped) >= 3
