"""A report's page in a real browser: no errors, tables that sort, nothing from elsewhere, no scrolling sideways."""

import re
import shutil
from html.parser import HTMLParser

import pytest
from made_rows import DEVICE, profile, step_layers
from running import latte

from latte_cli.network import load, zoo
from latte_cli.store import open_store

CHROMIUM = shutil.which("chromium")
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
FLEET = f"""
classes:
  - class: fast
    count: 2
    device: {DEVICE.slug}
    samples: 320
    batch: 8
    bandwidth: {{up: 20Mbit, down: 100Mbit}}
  - class: <slow & "odd">
    count: 3
    device: {DEVICE.slug}
    samples: 640
    batch: 8
    bandwidth: {{up: 1Mbit, down: 10Mbit}}
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A page of a network, a plan and a device, and the folder with its figures."""
    folder = tmp_path_factory.mktemp("report")
    model = folder / "lenet.onnx"
    model.write_bytes(zoo.export("lenet"))
    store = open_store(str(folder / "store"), shipped=False)
    for name in ("lenet", "mobilenet_v1"):
        profile(store, step_layers(zoo.network(name, batch_size=8)))
    assert load(model, batch_size=8).layers
    (folder / "fleet.yaml").write_text(FLEET)
    named = ("--store", store.uri)
    plan = folder / "plan.json"
    latte("allocate", model, "--fleet", folder / "fleet.yaml", "--round-duration", "1h", "-o", plan, *named)
    page = folder / "report.html"
    more = ("--device", DEVICE.slug, "--batch-size", 8, "--plan", plan, "--figures", folder / "figures")
    latte("report", model, "-o", page, *more, *named)
    return page, folder / "figures", store.uri


class _Checked(HTMLParser):
    """Identifiers, references to other places, and whether every element is closed."""

    VOID = frozenset({"meta", "link", "br", "img"})

    def __init__(self):
        super().__init__()
        self.open, self.ids, self.references = [], [], []

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        self.ids += [values["id"]] if "id" in values else []
        self.references += [values[name] for name in ("src", "href", "xlink:href") if name in values]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_page_is_whole_and_asks_for_nothing_from_elsewhere(made):
    page, _, _ = made
    text = page.read_text("utf-8")
    checked = _Checked()
    checked.feed(text)
    assert checked.open == []
    assert len(checked.ids) == len(set(checked.ids))
    assert all(one.startswith(("#", "data:")) for one in checked.references)
    assert {one[1:] for one in checked.references if one.startswith("#")} <= set(checked.ids)
    assert not re.search(r"url\((?!#)", text)
    assert "<slow" not in text
    for named in ("aria-labelledby", 'role="img"', "<caption>", 'lang="en"'):
        assert named in text


def test_each_figure_is_a_file_of_its_own_too(made):
    page, figures, _ = made
    names = set(re.findall(r'<figure id="([^"]+)"', page.read_text("utf-8")))
    assert {path.name for path in figures.iterdir()} == {f"{name}{end}" for name in names for end in (".png", ".svg")}


def test_what_is_there_is_not_overwritten_and_bad_names_are_refused(made, tmp_path):
    page, figures, store = made
    named = ("--device", DEVICE.slug, "--store", store)
    assert "--force" in latte("report", "-o", page, *named, code=1).stderr
    assert "ends in .html" in latte("report", "-o", tmp_path / "x.pdf", *named, code=2).stderr
    again = ("--figures", figures)
    assert "is there already" in latte("report", "-o", tmp_path / "x.html", *named, *again, code=1).stderr
    assert not (tmp_path / "x.html").exists()
    latte("report", "-o", tmp_path / "device.html", *named)
    assert "Roofline" in (tmp_path / "device.html").read_text("utf-8")


browser = pytest.mark.skipif(CHROMIUM is None, reason="needs a browser: Debian's package `chromium`")


@pytest.fixture(scope="module")
def chromium():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        running = driver.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS))
        yield running
        running.close()


@browser
@pytest.mark.parametrize("width", [1280, 400])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_browser_shows_it_without_errors_and_without_scrolling_sideways(made, chromium, width, scheme, tmp_path):
    page, _, _ = made
    context = chromium.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    tab = context.new_page()
    said, asked = [], []
    tab.on("console", lambda message: said.append(message.text))
    tab.on("pageerror", lambda error: said.append(str(error)))
    tab.on("request", lambda request: asked.append(request.url))
    tab.goto(page.as_uri())
    assert said == []
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == []
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    for figure in tab.query_selector_all("figure svg"):
        box = figure.bounding_box()
        assert box["width"] > 300
        assert box["height"] > 60
    ink = tab.evaluate("getComputedStyle(document.querySelector('figure svg text')).fill")
    paper = tab.evaluate("getComputedStyle(document.body).backgroundColor")
    assert contrast(ink, paper) > 4.5
    tab.screenshot(path=tmp_path / "page.png", full_page=True)
    context.close()


def contrast(one, other):
    """WCAG's contrast ratio of two colours as a browser names them."""

    def luminance(colour):
        parts = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
        linear = [part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@browser
def test_tables_sort_by_what_is_clicked_and_by_the_keyboard(made, chromium):
    page, _, _ = made
    tab = chromium.new_page()
    tab.goto(page.as_uri())
    table = tab.locator("table", has=tab.locator("caption", has_text="Calls of a step"))

    def column(at):
        return table.locator(f"tbody td:nth-child({at})").evaluate_all(
            "cells => cells.map(c => c.dataset.value === undefined ? c.textContent : Number(c.dataset.value))"
        )

    before = column(2)
    assert before != sorted(before)
    table.locator("th button", has_text="time").click()
    assert column(2) == sorted(before)
    assert table.locator("th").nth(1).get_attribute("aria-sort") == "ascending"
    table.locator("th button", has_text="time").press("Enter")
    assert column(2) == sorted(before, reverse=True)
    table.locator("th button", has_text="kind").press("Enter")
    assert column(7) == sorted(column(7))
    assert table.locator("th").nth(1).get_attribute("aria-sort") is None
    tab.close()


@browser
def test_it_prints_with_all_its_figures(made, chromium, tmp_path):
    page, _, _ = made
    tab = chromium.new_page()
    tab.goto(page.as_uri())
    tab.pdf(path=tmp_path / "report.pdf", format="A4")
    assert (tmp_path / "report.pdf").stat().st_size > 50_000
    tab.close()
