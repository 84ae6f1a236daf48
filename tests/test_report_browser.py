"""The report of a hostile run in a real browser: nothing of it runs, nothing is loaded, and the page still works."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import fields, is_dataclass, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from xml.etree import ElementTree

import pytest
from report_run import METRICS, found, write_run

from steerkit.findings import Figure, Findings
from steerkit.report import write_comparison, write_report

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


def evil_findings(thing: Any, evil: str) -> Any:
    """Findings with markup before each text; names of figures, which are names of files, stay."""
    if isinstance(thing, str):
        return evil + thing
    if isinstance(thing, tuple):
        return tuple(evil_findings(one, evil) for one in thing)
    if is_dataclass(thing) and not isinstance(thing, type):
        kept = {"kind", "verdict"} | ({"name"} if isinstance(thing, Figure) else set())
        values = {f.name: getattr(thing, f.name) for f in fields(thing) if f.name not in kept}
        return replace(thing, **{name: evil_findings(value, evil) for name, value in values.items()})
    return thing


def few() -> dict[str, Findings]:
    """Findings with a figure for each experiment: drawing takes the most time."""
    every = found()
    return {name: replace(one, figures=one.figures[:1]) for name, one in every.items()}


def hostile_run(folder: Path, evil: str) -> Path:
    """A run whose every text is markup: recipe, models, labels, findings, prompts, their ids, logs."""
    findings = {name: evil_findings(one, evil) for name, one in few().items()}
    recipe = {"name": evil + "name", "about": evil + "about", evil + "key": evil}
    made = {"models": {evil: {"model": evil + "base", "fingerprint": evil}}, "same_models": [[evil, "b"]], evil: evil}
    metrics = [replace(m, title=evil + m.title, unit=evil, judge=evil, about=evil) for m in METRICS]
    run = write_run(
        folder, findings, metrics=metrics, labels=(evil, evil + "vector"), changes=recipe | {"made_with": made}
    )
    prompts = [{"id": evil, "prompt": evil, "split": evil}]
    (run / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in prompts), encoding="utf-8")
    notes = {"labels": {evil: 5}, "rejected_spans": {evil: 2}, "answered_by": {evil: 9}, "mean_coverage": 0.5}
    (run / "spans.notes.json").write_text(json.dumps(notes))
    (run / "state.json").write_text(json.dumps({"steps": {evil: {"key": evil, "seconds": 1.0}}}))
    return run


def opened(browser: Any, page: Path) -> None:
    browser.get(page.as_uri())
    assert browser.execute_script("return document.readyState") == "complete"


def harmless(browser: Any, seen: list[str]) -> None:
    """Nothing ran, nothing was loaded, nothing is there that could."""
    assert browser.title != "owned" and browser.title.endswith("steerkit report")
    assert browser.execute_script("return document.scripts.length") == 0
    assert browser.find_elements(By.CSS_SELECTOR, "iframe, object, embed, form, link, base") == []
    links = browser.execute_script("return [...document.links].map(a => a.getAttribute('href'))")
    assert all(re.fullmatch(r"#[a-z0-9-]+", link) for link in links)
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
    for text in ("name", "about", "base", "Transfer between the models", "keyword rate", "Wait", "collapsed", "vector"):
        assert shown + text in everything, text
    assert browser.find_element(By.TAG_NAME, "h1").get_property("textContent") == shown + "name"
    assert "owned" in browser.find_element(By.CSS_SELECTOR, ".texts .text").get_property("textContent")
    # And it works: what is folded opens by a click, and closes again.
    folded = browser.find_elements(By.CSS_SELECTOR, "details:not([open])")
    assert folded
    for part in [part for part in folded if part.is_displayed()][:2]:
        browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", part)
        part.find_element(By.TAG_NAME, "summary").click()
        assert part.get_attribute("open") == "true"
    harmless(browser, seen)
    for figure in (run / "figures").glob("*.svg"):
        elements = [(element.tag.rpartition("}")[2], element) for element in ElementTree.parse(figure).iter()]
        assert not {tag for tag, _ in elements} & {"script", "foreignObject", "a", "iframe"}, figure
        links = [value for tag, one in elements if tag == "image" for key, value in one.items() if "href" in key]
        assert all(link.startswith("data:image/png;base64,") for link in links), figure  # the cells of a heatmap


def test_nothing_of_two_hostile_runs_runs(browser: Any, visits: tuple[str, list[str]], tmp_path: Path) -> None:
    url, seen = visits
    runs = [hostile_run(tmp_path / name, EVIL.replace("URL", url)) for name in ("a", "b")]
    write_comparison(runs[0], runs[1], tmp_path / "both.html")
    opened(browser, tmp_path / "both.html")
    harmless(browser, seen)


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A report, and a page about two runs."""
    runs = [write_run(tmp_path_factory.mktemp(name), few()) for name in "ab"]
    write_report(runs[0])
    write_comparison(runs[0], runs[1], runs[0] / "both.html")
    return runs[0] / "report.html", runs[0] / "both.html"


def screen(browser: Any, width: int, theme: str = "light") -> None:
    """A screen of a width in CSS pixels."""
    size = {"width": width, "height": 740, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    media = {"features": [{"name": "prefers-color-scheme", "value": theme}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)


OPEN = "document.querySelectorAll('details').forEach(d => d.open = true)"
WIDER = (
    "const width = document.documentElement.clientWidth;"
    "return [...document.querySelectorAll('body *')].filter(e => e.getBoundingClientRect().right > width + 1"
    " && !e.closest('.scroll') && !e.closest('thead')).map(e => e.outerHTML.slice(0, 80))"
)


@pytest.mark.parametrize("width", [360, 800, 1400])
def test_pages_are_no_wider_than_the_screen(browser: Any, pages: tuple[Path, Path], width: int) -> None:
    """Wide tables scroll inside the page, also in what is folded; the first screen has the finding and its picture."""
    screen(browser, width)
    for page in pages:
        opened(browser, page)
        browser.execute_script(OPEN)
        assert browser.execute_script("const e = document.documentElement; return e.scrollWidth <= e.clientWidth")
        assert browser.execute_script(WIDER) == []
    opened(browser, pages[0])
    for selector in (".finding", "header img"):
        place = browser.find_element(By.CSS_SELECTOR, selector).rect
        assert place["y"] < 740 and place["width"] > 0.6 * min(width, 700)
    img = "const i = document.querySelector('header img'); return [i.naturalWidth, i.naturalHeight]"
    wide, high = browser.execute_script(img)
    assert (wide < high) == (width < 500)  # a phone gets the figure with its panels below each other


def test_contents_lead_to_their_sections(browser: Any, pages: tuple[Path, Path]) -> None:
    """At the side on a wide screen, where they stay in sight; in the flow on a phone."""
    for width in (360, 1400):
        screen(browser, width)
        opened(browser, pages[0])
        nav, main = (browser.find_element(By.TAG_NAME, name).rect for name in ("nav", "main"))
        assert (nav["x"] + nav["width"] < main["x"]) == (width == 1400)
        links = browser.find_elements(By.CSS_SELECTOR, "nav a")
        assert len(links) == 6
        for link in links:
            browser.execute_script("scrollTo(0, 0)")
            browser.execute_script("arguments[0].scrollIntoView({block: 'nearest'})", link)
            link.click()
            target = browser.find_element(By.ID, link.get_attribute("href").rpartition("#")[2])
            top = browser.execute_script("return arguments[0].getBoundingClientRect().top", target)
            assert 0 <= top < 740, link.text
    last = browser.execute_script("scrollTo(0, 1e6); return document.querySelector('nav').getBoundingClientRect().top")
    assert 0 <= last < 100


CONTRAST = """
const light = c => { const [r, g, b] = c.map(v => (v /= 255) <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4);
  return .2126 * r + .7152 * g + .0722 * b; };
const parse = c => (c.match(/[\\d.]+/g) || []).map(Number);
const over = ([r, g, b, a = 1], below) => [r, g, b].map((v, i) => v * a + below[i] * (1 - a));
const back = e => e ? over(parse(getComputedStyle(e).backgroundColor), back(e.parentElement)) : [255, 255, 255];
const said = e => [...e.childNodes].some(n => n.nodeType == 3 && n.data.trim());
return [...document.querySelectorAll('body *')].filter(said)
  .map(e => { const [a, b] = [light(parse(getComputedStyle(e).color)), light(back(e))];
    return [(Math.max(a, b) + .05) / (Math.min(a, b) + .05), e.outerHTML.slice(0, 80)]; });
"""


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_all_text_stands_out_from_what_is_behind_it(browser: Any, pages: tuple[Path, Path], theme: str) -> None:
    """A contrast of at least 4.5 to 1 (WCAG 2.1, 1.4.3), marks, shades and verdicts included."""
    screen(browser, 1400, theme)
    for page in pages:
        opened(browser, page)
        browser.execute_script(OPEN)
        found = browser.execute_script(CONTRAST)
        assert len(found) > 100 and [one for one in found if one[0] < 4.5] == []
    paper = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
    assert (paper == "rgb(22, 24, 27)") == (theme == "dark")


def test_the_policy_stops_what_would_get_past_the_escaping(
    browser: Any, visits: tuple[str, list[str]], tmp_path: Path
) -> None:
    url, seen = visits
    run = write_run(tmp_path / "run", {"x": Findings(title="x")}, asked=("x",))
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
