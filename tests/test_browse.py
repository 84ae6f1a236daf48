"""The page of units and latents: what it is made of, and how it works in a real browser."""

from __future__ import annotations

import base64
import gzip
import json
import re
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from steerkit.errors import InputError, SteerkitError
from steerkit.report.browse import Column, Feature, Shown, write_browser

EVIL = "</script><script>document.title='owned'</script><b>bold</b>"
COLUMNS = (
    Column(key="sign", title="sign"),
    Column(key="share", title="active", about="share of tokens", digits=3),
    Column(key="loss", title="loss", digits=1, better="down"),
)


def context(*tokens: str, values: tuple[float, ...], at: int, facts: str = "") -> Shown:
    return Shown(tokens=tokens, values=values, at=at, facts=facts)


def some() -> list[Feature]:
    plus = context(" so", " wait", "\n", EVIL, values=(0.1, 2.0, 0.0, -1.0), at=1, facts="trace a, token 7")
    return [
        Feature(
            name="3.down +",
            kind="unit",
            values={"sign": "+", "share": 0.25, "loss": 2.0},
            explanation=f"turns back {EVIL}",
            label="broad",
            contexts=(plus, context(" wait", values=(1.5,), at=0)),
        ),
        Feature(
            name="3.down −",
            kind="unit",
            values={"sign": "−", "share": 0.125, "loss": 10.0},
            contexts=(context(" tens", " digit", values=(-0.5, -4.0), at=1),),
        ),
        Feature(name="latent 9", kind="latent", values={"share": float("nan"), "loss": 9.0}),
    ]


def embedded(page: Path) -> Any:
    found = re.search(r'<script id="data" type="text/plain">([A-Za-z0-9+/=]+)</script>', page.read_text("utf-8"))
    assert found
    return unpacked(found[1])


def unpacked(text: str) -> Any:
    return json.loads(gzip.decompress(base64.b64decode(text)))


def parts(page: Path) -> list[Any]:
    """Contexts of the page's features, in parts."""
    found = re.findall(r'<script id="part-\d+" type="text/plain">([A-Za-z0-9+/=]+)</script>', page.read_text("utf-8"))
    return [unpacked(text) for text in found]


def write(path: Path, features: list[Feature], about: str = "What they are.") -> Path:
    write_browser(path, title="Units of adapter.0", about=about, features=features, columns=COLUMNS)
    return path


def test_values_keep_three_digits_and_each_token_stands_once(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    texts = [f" word{n}" for n in range(50)]
    contexts = []
    for _ in range(20):
        values = rng.normal(0, 7, 30)
        contexts.append(context(*rng.choice(texts, 30).tolist(), values=tuple(values), at=int(np.abs(values).argmax())))
    page = write(tmp_path / "page.html", [Feature(name="x", kind="unit", contexts=tuple(contexts))])
    data, [[packed]] = embedded(page), parts(page)
    assert sorted(data["tokens"]) == sorted({token for shown in contexts for token in shown.tokens})
    (row,) = data["features"]
    largest = max(abs(v) for shown in contexts for v in shown.values)
    for (at, tokens, steps, _), shown in zip(packed, contexts, strict=True):
        assert at == shown.at and tuple(data["tokens"][int(n)] for n in tokens.split()) == shown.tokens
        back = np.array(steps.split(), float) / 1000 * row[6]
        assert np.abs(back - shown.values).max() <= largest / 1000 / 2 * 1.01


def test_the_same_features_give_the_same_bytes_and_no_markup_of_texts(tmp_path: Path) -> None:
    first = write(tmp_path / "a.html", some(), about=EVIL).read_bytes()
    assert first == write(tmp_path / "b.html", some(), about=EVIL).read_bytes()
    assert b"owned'</script>" not in first and first.count(b"<script") == 3


def test_what_cannot_be_shown_is_named(tmp_path: Path) -> None:
    features = [Feature(name="a", kind="unit"), Feature(name="a", kind="unit", values={"other": 1}), *some()]
    with pytest.raises(InputError) as error:
        write(tmp_path / "page.html", features)
    assert "2 have this name" in str(error.value) and "values of no column: other" in str(error.value)
    assert not (tmp_path / "page.html").exists()
    for wrong in ({"values": (1.0, 2.0)}, {"values": (float("nan"),)}, {"at": 1}):
        with pytest.raises(SteerkitError, match=r"trace 7"):
            Shown(**({"tokens": ("a",), "values": (1.0,), "at": 0, "facts": "trace 7"} | wrong))  # type: ignore[arg-type]


# --- in a browser ---------------------------------------------------------------------------------------------------


CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
browsing = pytest.mark.skipif(
    not (CHROMIUM and DRIVER), reason="needs a browser and its driver (apt install chromium chromium-driver)"
)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    webdriver = pytest.importorskip("selenium.webdriver", reason="needs selenium (pip install 'steerkit-hf[dev]')")
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    for word in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"):
        options.add_argument(word)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(str(DRIVER)))
    yield driver
    driver.quit()


def screen(browser: Any, width: int, theme: str = "light") -> None:
    size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    media = {"features": [{"name": "prefers-color-scheme", "value": theme}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)


def until(true: Callable[[], Any]) -> Any:
    end = time.monotonic() + 20
    while not (found := true()):
        assert time.monotonic() < end
        time.sleep(0.02)
    return found


def opened(browser: Any, page: Path, anchor: str = "") -> None:
    browser.get("about:blank")
    browser.get(page.as_uri() + anchor)
    until(lambda: one(browser, "#count"))


def every(browser: Any, selector: str) -> list[str]:
    found: list[str] = browser.execute_script(
        "return [...document.querySelectorAll(arguments[0])].map(e => e.textContent)", selector
    )
    return found


def one(browser: Any, selector: str) -> str:
    return (every(browser, selector) or [""])[0]


def names(browser: Any) -> list[str]:
    return every(browser, "#rows a")


def click(browser: Any, selector: str, number: int = 0) -> None:
    browser.find_elements("css selector", selector)[number].click()


def keys(browser: Any, *pressed: str) -> None:
    from selenium.webdriver.common.action_chains import ActionChains

    ActionChains(browser).send_keys(*pressed).perform()


@browsing
def test_features_are_found_filtered_and_sorted(browser: Any, tmp_path: Path) -> None:
    screen(browser, 1400)
    opened(browser, write(tmp_path / "page.html", some()))
    assert names(browser) == ["3.down +", "3.down −", "latent 9"] and one(browser, "#count") == "3 of 3 features"
    heads = every(browser, "#head button")
    assert heads == ["feature", "kind", "class", "sign", "active", "loss", "strongest at"]

    def sorted_by(title: str) -> tuple[list[str], str]:
        click(browser, "#head button", heads.index(title))
        return names(browser), browser.execute_script(
            "return document.querySelector('[aria-sort]').getAttribute('aria-sort')"
        )

    assert sorted_by("active") == (["3.down +", "3.down −", "latent 9"], "descending")
    assert sorted_by("active") == (["3.down −", "3.down +", "latent 9"], "ascending")  # what has no value stays last
    assert sorted_by("loss") == (["3.down +", "latent 9", "3.down −"], "ascending")  # numbers, not their letters
    cells = every(browser, "#rows tr:nth-child(2) td")
    assert cells == ["latent", "", "", "–", "9.0", ""]

    find = browser.find_element("id", "find")
    for asked, expected in (("WAIT", ["3.down +"]), ("turns back", ["3.down +"]), ("digit", ["3.down −"])):
        find.clear()
        find.send_keys(asked)
        until(lambda expected=expected: names(browser) == expected)
    find.send_keys("xyz")
    until(lambda: one(browser, "#count") == "None of 3 features matches.")
    click(browser, "#reset")
    assert len(names(browser)) == 3
    for title, value, expected in (
        ("kind", "=latent", ["latent 9"]),
        ("class", "=broad", ["3.down +"]),
        ("sign", "=−", ["3.down −"]),
        ("sign", "=", ["latent 9"]),
    ):
        click(browser, "#reset")
        browser.execute_script(
            "const labels = [...document.querySelectorAll('#filters label')];"
            "const l = labels.find(l => l.textContent.startsWith(arguments[0]));"
            "const s = l.querySelector('select'); s.value = arguments[1]; s.dispatchEvent(new Event('change'))",
            *(title, value),
        )
        assert names(browser) == expected
    assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []


@browsing
def test_a_feature_is_read_token_by_token_with_mouse_and_keys(browser: Any, tmp_path: Path) -> None:
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.keys import Keys

    screen(browser, 1400)
    page = write(tmp_path / "page.html", some())
    opened(browser, page)
    assert "Choose a feature" in one(browser, "#detail")
    click(browser, "#rows a")
    until(lambda: one(browser, "#detail h2") == "3.down +broad")
    # Texts are texts, line breaks are seen, shades have the sign of the value, the strongest token is framed.
    assert browser.title == "3.down + · Units of adapter.0" and one(browser, ".explanation") == f"turns back {EVIL}"
    assert every(browser, ".context i")[:4] == [" so", " wait", "↵\n", EVIL]
    looks = browser.execute_script("return [...document.querySelectorAll('.text i')].map(e => e.className)")
    assert looks == ["", "p5 at", "break", "n3", "p4 at"]
    assert every(browser, ".facts > span:first-child") == ["trace a, token 7", ""]
    assert every(browser, ".value")[0] == "2.00  wait"
    ActionChains(browser).move_to_element(browser.find_elements("css selector", ".text i")[3]).perform()
    assert every(browser, ".value")[0] == f"−1.00 {EVIL}"
    browser.execute_script("document.querySelector('.text').focus()")
    keys(browser, Keys.ARROW_LEFT, Keys.ARROW_LEFT, Keys.ARROW_LEFT, Keys.ARROW_LEFT)
    assert every(browser, ".value")[0] == "0.100  so"  # it stops at the beginning
    # Next, back and forward, links from outside, and what is not there.
    keys(browser, "j")
    until(lambda: one(browser, "#detail h2") == "3.down −")
    assert every(browser, ".value") == ["−4.00  digit"]
    keys(browser, "j")
    until(lambda: "No contexts are kept for this feature." in one(browser, "#detail"))
    assert one(browser, ".position") == "3 of 3"
    browser.back()
    until(lambda: one(browser, "#detail h2") == "3.down −")
    browser.forward()
    until(lambda: one(browser, "#detail h2") == "latent 9")
    keys(browser, Keys.ESCAPE)
    until(lambda: "Choose a feature" in one(browser, "#detail"))
    keys(browser, "/")
    keys(browser, "digit")
    until(lambda: names(browser) == ["3.down −"])
    opened(browser, page, "#3.down%20%E2%88%92")
    until(lambda: one(browser, "#detail h2") == "3.down −")
    opened(browser, page, "#nothing%")
    until(lambda: "There is no feature nothing% here." in one(browser, "#detail"))


@browsing
def test_no_features_and_a_phone(browser: Any, tmp_path: Path) -> None:
    screen(browser, 400)
    opened(browser, write(tmp_path / "empty.html", []))
    assert one(browser, "#count") == "There are no features to show."
    page = write(tmp_path / "page.html", some())
    for anchor in ("", "#3.down%20%2B"):
        opened(browser, page, anchor)
        assert browser.execute_script("const e = document.documentElement; return e.scrollWidth <= e.clientWidth")
        for selector, seen in (("#rows", not anchor), ("#detail", bool(anchor)), (".back", bool(anchor))):
            assert browser.find_element("css selector", selector).is_displayed() is seen, (anchor, selector)
    click(browser, ".back")
    until(lambda: browser.find_element("id", "rows").is_displayed())


CONTRAST = """
const light = c => { const [r, g, b] = c.map(v => (v /= 255) <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4);
  return .2126 * r + .7152 * g + .0722 * b; };
const parse = c => (c.match(/[\\d.]+/g) || []).map(Number);
const over = ([r, g, b, a = 1], below) => [r, g, b].map((v, i) => v * a + below[i] * (1 - a));
const back = e => e ? over(parse(getComputedStyle(e).backgroundColor), back(e.parentElement)) : [255, 255, 255];
const said = e => [...e.childNodes].some(n => n.nodeType == 3 && n.data.trim());
return [...document.querySelectorAll('body *:not(script, noscript *)')].filter(said).map(e => {
  const [a, b] = [light(parse(getComputedStyle(e).color)), light(back(e))];
  return [(Math.max(a, b) + .05) / (Math.min(a, b) + .05), e.outerHTML.slice(0, 80)]; });
"""


@browsing
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_text_stands_out_on_every_shade(browser: Any, tmp_path: Path, theme: str) -> None:
    values = tuple(number / 5 for number in range(-5, 6))
    shades = Feature(name="x", kind="unit", contexts=(context(*"abcdefghijk", values=values, at=10),))
    screen(browser, 1400, theme)
    opened(browser, write(tmp_path / "page.html", [shades, *some()]), "#x")
    until(lambda: one(browser, "#detail h2") == "x")
    looks = browser.execute_script("return [...document.querySelectorAll('.text i')].map(e => e.className)")
    assert looks == ["n5", "n4", "n3", "n2", "n1", "", "p1", "p2", "p3", "p4", "p5 at"]
    found = browser.execute_script(CONTRAST)
    assert len(found) > 40 and [each for each in found if each[0] < 4.5] == []


@browsing
def test_the_page_loads_nothing_and_runs_no_other_script(browser: Any, tmp_path: Path) -> None:
    page = write(tmp_path / "page.html", some(), about=EVIL)
    page.write_text(page.read_text("utf-8").replace("</body>", "<script>document.title='owned'</script></body>"))
    opened(browser, page, "#3.down%20%2B")
    until(lambda: one(browser, "#detail h2"))
    assert browser.title == "3.down + · Units of adapter.0" and EVIL in one(browser, "header .note")
    assert browser.execute_script("return performance.getEntriesByType('resource').length") == 0
    assert any("Content Security Policy" in entry["message"] for entry in browser.get_log("browser"))


@browsing
def test_thousands_of_features_stay_quick(browser: Any, tmp_path: Path) -> None:
    """2,224 features are sorted, filtered and drawn at once (within 3 s if busy), a hundred rows at a time."""
    rng = np.random.default_rng(0)
    many = [
        Feature(
            name=f"{n}.down",
            kind=("unit", "latent")[n % 2],
            values={"share": float(rng.random())},
            explanation=f"explanation {n}",
            contexts=(context(f" t{n % 300}", " b", values=(1.0, -0.5), at=0),) * 10,
        )
        for n in range(2224)
    ]
    screen(browser, 1400)
    page = write(tmp_path / "page.html", many)
    opened(browser, page)
    assert len(names(browser)) == 100 and one(browser, "#more") == "Show 100 more of 2,124"
    click(browser, "#more")
    assert len(names(browser)) == 200
    opened(browser, page, "#350.down")
    until(lambda: one(browser, "#rows tr[aria-current] a") == "350.down")  # rows up to it are there
    for act in (
        "document.querySelectorAll('#head button')[3].click()",
        "const s = document.querySelector('select'); s.value = '=latent'; s.dispatchEvent(new Event('change'))",
    ):
        assert browser.execute_script(f"const t = performance.now(); {act}; return performance.now() - t") < 3000
    assert one(browser, "#count") == "1,112 of 2,224 features"
    top = max((f for f in many if f.kind == "latent"), key=lambda f: f.values["share"])  # type: ignore[arg-type, return-value]
    assert names(browser)[0] == top.name
    browser.execute_script("location.hash = '#1999.down'")
    until(lambda: one(browser, "#detail h2") == "1999.down")
    assert every(browser, ".context i")[:2] == [" t199", " b"]
