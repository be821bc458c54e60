"""The pages of `scalr ui` in a browser: by keyboard, on a narrow screen, in light and dark."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait
from served_pages import HOSTILE_PATH, Site

CHROMIUM, DRIVER = "/usr/bin/chromium", "/usr/bin/chromedriver"
OPTIONS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
)
PAGES = ("", "runs", "batches", "batches/b1", "translators/neural-b2", "lineage", "nothing")
NARROW, WIDE = 320, 1200
LEAST_CONTRAST = 4.5
MOST_TABS = 60

# Each text that is seen, with its colour and that of what lies under it.
TEXTS = """
const seen = [];
const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
while (walker.nextNode()) {
  const element = walker.currentNode.parentElement;
  if (!walker.currentNode.data.trim() || !element.checkVisibility()) continue;
  let under = element, paper = "rgba(0, 0, 0, 0)";
  while (under && paper === "rgba(0, 0, 0, 0)") {
    paper = getComputedStyle(under).backgroundColor;
    under = under.parentElement;
  }
  seen.push([walker.currentNode.data.trim(), getComputedStyle(element).color, paper]);
}
return seen;
"""


@pytest.fixture(name="address")
def address_fixture(site: Site) -> str:
    return site.address


@pytest.fixture(scope="module", name="browser")
def browser_fixture(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    missing = [program for program in (CHROMIUM, DRIVER) if not Path(program).exists()]
    if missing:
        pytest.fail(
            f"no browser to test the pages in, {' and '.join(missing)}: on Debian "
            "`apt-get install chromium chromium-driver`",
            pytrace=False,
        )
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for option in (*OPTIONS, f"--user-data-dir={tmp_path_factory.mktemp('chromium')}"):
        options.add_argument(option)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    browser = webdriver.Chrome(options=options, service=Service(DRIVER))
    try:
        yield browser
    finally:
        browser.quit()


@pytest.fixture(autouse=True)
def as_new(browser: webdriver.Chrome) -> None:
    show(browser, WIDE, "light")
    for kind in ("browser", "performance"):
        browser.get_log(kind)


def show(browser: webdriver.Chrome, width: int, scheme: str) -> None:
    """A screen so many pixels wide, of somebody who prefers light or dark pages."""
    screen = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
    preferred = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", preferred)


def tab_to(browser: webdriver.Chrome, path: str) -> None:
    """Go by the tabulator from where one is to the first link to a path."""
    for _ in range(MOST_TABS):
        browser.switch_to.active_element.send_keys(Keys.TAB)
        at = browser.switch_to.active_element
        if (at.get_dom_attribute("href") or "").startswith(path):
            outline = at.value_of_css_property("outline-style")
            assert outline == "solid", f"the focus on {path} is not seen"
            return
    pytest.fail(f"no link to {path} is reached by the keyboard")


def follow(browser: webdriver.Chrome, title: str) -> None:
    """Press Enter, and wait for the page of that title."""
    browser.switch_to.active_element.send_keys(Keys.ENTER)
    WebDriverWait(browser, 60).until(lambda shown: shown.title.startswith(title))


def channels(colour: str) -> list[float]:
    """`rgb(r, g, b)` as shares of full light."""
    inner = colour[colour.index("(") + 1 : -1].split(",")
    assert len(inner) == 3, colour
    return [float(part) / 255 for part in inner]


def luminance(colour: str) -> float:
    """The relative luminance of WCAG 2."""
    red, green, blue = (
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4
        for part in channels(colour)
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(first: str, second: str) -> float:
    low, high = sorted(map(luminance, (first, second)))
    return (high + 0.05) / (low + 0.05)


def test_the_way_to_a_report_is_walked_by_keyboard_alone(browser, address):
    browser.get(address)
    assert browser.title == "Overview – SCALR"  # noqa: RUF001 - a dash
    browser.switch_to.active_element.send_keys(Keys.TAB)
    skip = browser.switch_to.active_element
    assert skip.text == "Skip to the content"
    assert skip.rect["x"] >= 0
    skip.send_keys(Keys.ENTER)
    assert browser.switch_to.active_element.get_attribute("id") == "content"
    tab_to(browser, "/batches/b1")
    follow(browser, "Batch b1")
    tab_to(browser, "/reports/")
    follow(browser, "SCALR report: The synthetic events help")
    assert "It helps." in browser.find_element(By.TAG_NAME, "main").text


def test_an_event_is_asked_for_by_keyboard(browser, address):
    browser.get(f"{address}lineage")
    tab_to_field(browser)
    browser.switch_to.active_element.send_keys("nothing", Keys.ENTER)
    WebDriverWait(browser, 60).until(lambda shown: shown.title.startswith("No such event"))
    field = browser.find_element(By.ID, "event")
    assert (field.get_attribute("value"), field.get_attribute("aria-invalid")) == (
        "nothing",
        "true",
    )
    assert "There is no synthetic event nothing" in browser.find_element(By.ID, "missing").text


def tab_to_field(browser: webdriver.Chrome) -> None:
    for _ in range(MOST_TABS):
        browser.switch_to.active_element.send_keys(Keys.TAB)
        if browser.switch_to.active_element.tag_name == "input":
            return
    pytest.fail("the field is not reached by the keyboard")


def test_pages_load_nothing_from_elsewhere_and_break_no_rule(browser, address):
    for path in (*PAGES[:-1], HOSTILE_PATH[1:]):
        browser.get(address + path)
    browser.get(f"{address}runs")
    browser.find_element(By.CSS_SELECTOR, "tbody a").click()
    browser.find_element(By.PARTIAL_LINK_TEXT, "Read the report").click()
    said = browser.get_log("browser")
    assert said == []
    events = (json.loads(entry["message"])["message"] for entry in browser.get_log("performance"))
    asked = {
        event["params"]["request"]["url"]
        for event in events
        if event["method"] == "Network.requestWillBeSent"
    }
    assert len(asked) > len(PAGES)
    assert all(url.startswith((address, "data:")) for url in asked), asked


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_stands_out_from_what_lies_under_it(browser, address, scheme):
    show(browser, WIDE, scheme)
    papers = set()
    for path in PAGES:
        browser.get(address + path)
        for text, ink, paper in browser.execute_script(TEXTS):
            assert contrast(ink, paper) >= LEAST_CONTRAST, (path, text, ink, paper)
            papers.add(paper)
    assert (luminance(max(papers, key=luminance)) > 0.5) == (scheme == "light")


def test_a_narrow_screen_is_wide_enough(browser, address):
    show(browser, NARROW, "light")
    for path in (*PAGES, HOSTILE_PATH[1:]):
        browser.get(address + path)
        width = "return document.documentElement.scrollWidth"
        assert browser.execute_script(width) <= NARROW, path


def test_what_can_be_reached_has_a_name_and_a_page_its_landmarks(browser, address):
    for path in PAGES:
        browser.get(address + path)
        tree = browser.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
        roles = [(node.get("role", {}).get("value"), node) for node in tree if not node["ignored"]]
        for role, node in roles:
            properties = {each["name"]: each["value"].get("value") for each in node["properties"]}
            if properties.get("focusable") and role not in {"RootWebArea", "main"}:
                assert node["name"]["value"].strip(), (path, role)
        found = [role for role, _ in roles]
        for role in ("banner", "main", "contentinfo"):
            assert found.count(role) == 1, (path, role)
        assert "navigation" in found
        if "table" in found:
            assert "columnheader" in found
            assert "rowheader" in found


def test_pages_are_whole_without_scripts(browser, address):
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        browser.get(f"{address}batches/b1")
        assert "published" in browser.find_element(By.CLASS_NAME, "facts").text
        assert len(browser.find_elements(By.CSS_SELECTOR, "tbody tr")) == 2
    finally:
        browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})
