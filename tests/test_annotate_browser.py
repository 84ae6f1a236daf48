"""The annotation page in a real browser, with real keys, from the first span to the export."""

from __future__ import annotations

import csv
import json
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from annotate_run import EVIL, TRACES, label_all, write_run

from steerkit.data.trace import Span, read_rows

pytest.importorskip("selenium", reason="needs selenium (pip install 'steerkit-hf[dev]')")
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(
    not (CHROMIUM and DRIVER), reason="needs a browser and its driver (apt install chromium chromium-driver)"
)
TOTAL = 16
Start = Callable[..., tuple["subprocess.Popen[str]", str]]


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    for word in (
        "--headless=new",
        "--no-sandbox",
        "--disable-dev-shm-usage",
        "--disable-gpu",
        "--window-size=1280,800",
    ):
        options.add_argument(word)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    folder = tmp_path_factory.mktemp("downloads")
    options.add_experimental_option("prefs", {"download.default_directory": str(folder)})
    driver = webdriver.Chrome(options=options, service=Service(str(DRIVER)))
    driver.downloads = folder
    yield driver
    driver.quit()


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write_run(tmp_path / "run")


@pytest.fixture
def start(run: Path) -> Iterator[Start]:
    """`steerkit annotate RUN ...` as a user starts it; its process and its link."""
    started: list[subprocess.Popen[str]] = []

    def begin(*words: str) -> tuple[subprocess.Popen[str], str]:
        command = [sys.executable, "-u", "-m", "steerkit", "annotate", str(run), "--no-open", *words]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        started.append(process)
        assert process.stdout is not None
        link = next(match[1] for line in process.stdout if (match := re.match(r"open (http\S+)", line)))
        return process, link

    yield begin
    for process in started:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def wait(browser: Any, true: Callable[[Any], Any]) -> Any:
    return WebDriverWait(browser, 30, poll_frequency=0.02).until(true)


def text(browser: Any, name: str) -> str:
    return str(browser.find_element(By.ID, name).get_property("textContent"))


def shown(browser: Any, name: str) -> bool:
    return bool(browser.find_element(By.ID, name).is_displayed())


def labelled(browser: Any, count: int) -> None:
    wait(browser, lambda b: text(b, "labelled") == str(count) and (shown(b, "reading") or shown(b, "done")))


def press(browser: Any, *keys: str) -> None:
    ActionChains(browser).send_keys(*keys).perform()


def answer(browser: Any) -> tuple[str, str]:
    """Label the marked part as a reader would; its text and the label."""
    part = text(browser, "span")
    key, label = ("6", "backtracking") if re.match("Wait|Hmm", part) else ("2", "deduction")
    if part == EVIL:
        key, label = "o", "other"
    press(browser, key)
    return part, label


def on_disk(run: Path, name: str = "ada") -> dict[str, str]:
    """Words → label, of what is in the annotator's file right now."""
    rows = [json.loads(line) for line in (run / f"annotations/{name}.jsonl").read_text(encoding="utf-8").splitlines()]
    last = {TRACES[row["trace_id"]][row["start"] : row["end"]]: row["label"] for row in rows}
    return {words: label for words, label in last.items() if label}


def test_from_the_first_span_to_the_export(browser: Any, run: Path, start: Start, tmp_path: Path) -> None:
    process, link = start("--annotator", "ada", "--context", "1")
    browser.get(link)
    labelled(browser, 0)
    assert "token" not in browser.current_url
    given: dict[str, str] = {}

    # Keys, and what they leave on the disk before the next one.
    for count in range(1, 5):
        part, label = answer(browser)
        given[part] = label
        labelled(browser, count)
        assert on_disk(run) == given

    # Undo, by key and by Ctrl-Z: the same spans come back, last first.
    last, before = list(given)[-1], list(given)[-2]
    press(browser, "u")
    labelled(browser, 3)
    assert text(browser, "span") == last
    ActionChains(browser).key_down(Keys.CONTROL).send_keys("z").key_up(Keys.CONTROL).perform()
    labelled(browser, 2)
    assert text(browser, "span") == before
    assert on_disk(run) == {k: v for k, v in given.items() if k not in (last, before)}
    for count in (3, 4):
        answer(browser)
        labelled(browser, count)

    # A reload in the middle goes on at the same span; so does a skip at the next.
    here = text(browser, "span")
    browser.refresh()
    labelled(browser, 4)
    assert text(browser, "span") == here
    press(browser, "s")
    wait(browser, lambda b: "1 skipped" in text(b, "skipped"))
    assert text(browser, "span") != here

    # A second tab: what one labels, the other knows; one span has one label.
    tab = browser.current_window_handle
    browser.switch_to.new_window("tab")
    browser.get(link)  # the link again: the same browser may
    labelled(browser, 4)
    part, label = answer(browser)
    given[part] = label
    labelled(browser, 5)
    other = browser.current_window_handle
    browser.switch_to.window(tab)
    labelled(browser, 5)
    assert "another tab" in text(browser, "status")
    assert text(browser, "span") != part
    browser.switch_to.window(other)
    browser.close()
    browser.switch_to.window(tab)

    # The link is spent for everybody else.
    url = urlsplit(link)
    connection = HTTPConnection(str(url.hostname), url.port)
    connection.request("GET", f"/?{url.query}")
    assert connection.getresponse().status == 403
    connection.close()

    # The program is killed: the page says so and loses nothing; started again, it goes on.
    process.send_signal(signal.SIGKILL)
    process.wait()
    press(browser, "1")
    wait(browser, lambda b: shown(b, "problem"))
    assert "Start steerkit annotate again" in text(browser, "problem")
    process, link = start("--annotator", "ada", "--context", "1")
    browser.get(link)
    labelled(browser, 5)
    assert on_disk(run) == given

    # To the end, the skipped one last. HTML of a model stays text.
    count = 5
    while count < TOTAL - 1:
        part, label = answer(browser)
        given[part] = label
        count += 1
        labelled(browser, count)
        assert browser.find_elements(By.CSS_SELECTOR, "main img, main script") == []
        assert browser.title == "ada · steerkit annotate"
    wait(browser, lambda b: shown(b, "done"))
    press(browser, "r")
    wait(browser, lambda b: shown(b, "reading"))
    assert text(browser, "span") == here
    part, label = answer(browser)
    given[part] = label
    wait(browser, lambda b: text(b, "done-title") == "All labelled")
    assert given[EVIL] == "other"
    assert len(given) == TOTAL

    # Export by the page and by the command line: the same spans.
    browser.find_element(By.ID, "export").click()
    saved = browser.downloads / "ada.jsonl"
    wait(browser, lambda _: saved.exists() and saved.stat().st_size)
    everything = browser.execute_script("return performance.getEntriesByType('resource').map(e => e.name)")
    assert everything and all(name.startswith(link.partition("?")[0]) for name in everything)
    browser.find_element(By.ID, "finish").click()
    wait(browser, lambda b: text(b, "done-title") == "Finished")
    assert process.wait(30) == 0
    file = tmp_path / "labels.jsonl"
    words = [sys.executable, "-m", "steerkit", "annotate", str(run), "--export", str(file)]
    assert f"{TOTAL} labels" in subprocess.run(words, check=True, capture_output=True, text=True).stdout
    spans = read_rows(file, Span)
    assert {TRACES[s.trace_id][s.start : s.end]: s.label for s in spans} == given
    assert {s.judge for s in spans} == {"human:ada"}
    assert read_rows(saved, Span) == spans
    severe = [entry for entry in browser.get_log("browser") if "ERR_CONNECTION_REFUSED" not in entry["message"]]
    assert severe == []  # no script error, nothing that the policy had to stop

    # What comes of it: agreement with the judge that labelled the run.
    table = tmp_path / "agreement.csv"
    words = [sys.executable, "-m", "steerkit", "judge", "compare", str(file), str(run / "spans.jsonl")]
    said = subprocess.run([*words, "--out", str(table)], check=True, capture_output=True, text=True).stdout
    assert "Krippendorff's alpha of all 2" in said
    theirs = {TRACES[s.trace_id][s.start : s.end]: s.label for s in read_rows(run / "spans.jsonl", Span)}
    same = sum(theirs[words] == label for words, label in given.items()) / TOTAL
    with table.open(newline="") as opened:
        (row,) = (row for row in csv.DictReader(opened) if row["metric"] == "agreement")
    assert float(row["value"]) == pytest.approx(same, abs=1e-5)


def test_help_context_and_the_prompt(browser: Any, run: Path, start: Start) -> None:
    _, link = start("--annotator", "bob", "--context", "0")
    browser.get(link)
    labelled(browser, 0)
    press(browser, "?")
    wait(browser, lambda b: shown(b, "keys"))
    press(browser, "2")  # a key in the help labels nothing
    press(browser, Keys.ESCAPE)
    wait(browser, lambda b: not shown(b, "keys"))
    assert not shown(browser, "prompt")
    press(browser, "p")
    assert re.fullmatch(r"Why t\d\?", text(browser, "prompt")) and shown(browser, "prompt")
    whole = "".join(text(browser, name) for name in ("far-before", "before", "span", "after", "far-after"))
    assert whole in TRACES.values()
    assert not shown(browser, "far-before") and not shown(browser, "far-after")
    press(browser, "x")
    hidden = [name for name in ("far-before", "far-after") if text(browser, name).strip() and not shown(browser, name)]
    assert hidden == []
    assert browser.execute_script("return document.documentElement.scrollHeight <= innerHeight")
    assert text(browser, "labelled") == "0" and not (run / "annotations/bob.jsonl").exists()
    focused = browser.switch_to.active_element.get_attribute("id")
    assert focused == "reading"


def test_buttons_do_what_keys_do(browser: Any, run: Path, start: Start) -> None:
    process, link = start("--annotator", "cy", "--sample", "3")
    browser.get(link)
    labelled(browser, 0)
    assert text(browser, "total") == "3"
    for count in (1, 2):
        browser.find_element(By.CSS_SELECTOR, "button[data-label=backtracking]").click()
        labelled(browser, count)
    browser.find_element(By.ID, "undo").click()
    labelled(browser, 1)
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 0
    assert process.stdout is not None
    assert "1 of 3 labelled (1 now)\nthe same command goes on where you were\n" in process.stdout.read()
    assert list(on_disk(run, "cy").values()) == ["backtracking"]


def test_adjudication(browser: Any, run: Path, start: Start) -> None:
    label_all(run, "ada", Wait="backtracking")
    label_all(run, "bob")
    _, link = start("--adjudicate")
    browser.get(link)
    labelled(browser, 0)
    assert text(browser, "span") == "Wait, is that 4?"
    votes = sorted(element.text for element in browser.find_elements(By.CSS_SELECTOR, "#votes li"))
    assert [vote[:7] for vote in votes] == ["A says ", "B says "]
    assert sorted(vote[7:] for vote in votes) == ["backtracking", "deduction"]
    assert "bob" not in browser.page_source and "ada" not in browser.page_source.replace("readable", "")
    press(browser, "6")
    wait(browser, lambda b: text(b, "done-title") == "All labelled")
    assert on_disk(run, "adjudicated") == {"Wait, is that 4?": "backtracking"}
