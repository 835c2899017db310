"""A report's page in a real browser: no errors, tables that sort, nothing from elsewhere, no scrolling sideways."""

import re
from html.parser import HTMLParser

import pytest
from browser import WIDTHS, chromium, faint_texts, needs_browser, wider_than_the_screen
from made_rows import DEVICE, measurement, profile, step_layers, tasks, write
from running import latte

from latte_cli.estimator import Estimator
from latte_cli.network import load, zoo
from latte_cli.report import duration
from latte_cli.report.page.modules import module_boxes
from latte_cli.report.pictures.drawing import axis_end, readable_on
from latte_cli.store import open_store

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


def test_an_interval_that_is_a_thousand_times_the_step_leaves_the_bars_visible():
    assert axis_end([10.0, 8.0], [4e6, 9.0]) == 16.0
    assert axis_end([10.0, 8.0], [12.0, 9.0]) == pytest.approx(12.48)
    assert axis_end([10.0, 8.0], [10.0, 9.0]) == pytest.approx(10.8)
    assert axis_end([], []) == 1.0


def test_text_on_a_colour_is_black_or_white_by_what_can_be_read():
    assert readable_on("#FFFFFF") == readable_on("#D98200") == "#010101"
    assert readable_on("#000000") == readable_on("#0044AA") == "#FFFFFF"


def test_boxes_of_modules_add_up_to_the_step(tmp_path):
    network = zoo.network("resnet18", batch_size=8)
    store = open_store(str(tmp_path / "store"), shipped=False)
    profile(store, step_layers(network))
    root = module_boxes(Estimator(store, DEVICE.slug).estimate(network))
    assert {box.name for box in root.boxes} >= {"conv1", "layer1", "layer4"}
    for box in root.all_boxes():
        assert sum(inner.time_s for inner in box.boxes) <= box.time_s * (1 + 1e-9)
        assert 0 <= box.share <= 1 and 0 <= box.own <= 1
    assert sum(box.share for box in root.boxes) == pytest.approx(1, abs=0.02)
    assert len({box.path for box in root.all_boxes()}) == sum(1 for _ in root.all_boxes())


def page_of_choices(folder, first, second):
    """The page of a small CNN, all of whose algorithms were measured, under two strategies."""
    (folder / "cnn.onnx").write_bytes(zoo.export("custom_cnn"))
    store = open_store(str(folder / "store"), shipped=False)
    profile(store, step_layers(zoo.network("custom_cnn", batch_size=8)))
    more = ("--batch-size", 8, "--device", DEVICE.slug, "--store", store.uri, "--strategy", first)
    latte("report", folder / "cnn.onnx", "-o", folder / "x.html", *more, "--strategy", second)
    return (folder / "x.html").read_text("utf-8")


def test_the_page_says_what_each_choice_saves(tmp_path):
    text = page_of_choices(tmp_path, "exhaustive", "pytorch")
    table = text[text.index("<caption><span>What each choice of exhaustive saves over pytorch") :]
    rows = re.findall(r"<tr><td>.*</tr>", table[: table.index("</table>")])
    assert rows
    assert all("<td>DEFAULT</td><td>IM2COL_GEMM</td>" in row and 'data-value="-' not in row for row in rows)
    assert "take the same" not in text
    total_s = sum(float(re.findall(r'data-value="([^"]*)"', row)[0]) for row in rows)
    assert f"{duration(total_s)} in all<" in table


def test_choices_that_cost_time_are_named(tmp_path):
    text = page_of_choices(tmp_path, "pytorch", "exhaustive")
    assert re.search(r"saves over exhaustive: -\S+ \S+ in all \(a minus: the choice takes longer", text)


def test_the_page_says_that_one_way_only_was_measured_instead_of_equal_bars(tmp_path):
    (tmp_path / "lenet.onnx").write_bytes(zoo.export("lenet"))
    store = open_store(str(tmp_path / "store"), shipped=False)
    rows = map(measurement, tasks(step_layers(zoo.network("lenet", batch_size=8))))
    write(store, [row for row in rows if row.task.algorithm.name == "DEFAULT"])
    more = ("--batch-size", 8, "--device", DEVICE.slug, "--store", store.uri, "--strategy", "pytorch")
    latte("report", tmp_path / "lenet.onnx", "-o", tmp_path / "x.html", *more, "--strategy", "exhaustive")
    text = (tmp_path / "x.html").read_text("utf-8")
    assert "of each convolution one way only was measured" in text
    assert "A step under each strategy" not in text
    assert "What each choice" not in text


@pytest.fixture(scope="module")
def running():
    with chromium() as found:
        yield found


@needs_browser
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_browser_shows_it_without_errors_and_without_scrolling_sideways(made, running, width, scheme, tmp_path):
    page, _, _ = made
    context = running.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    tab = context.new_page()
    said, asked = [], []
    tab.on("console", lambda message: said.append(message.text))
    tab.on("pageerror", lambda error: said.append(str(error)))
    tab.on("request", lambda request: asked.append(request.url))
    tab.goto(page.as_uri())
    assert said == []
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == []
    tab.evaluate("document.querySelectorAll('details').forEach(each => { each.open = true; })")
    assert wider_than_the_screen(tab) == []
    assert faint_texts(tab) == []
    for figure in tab.query_selector_all("figure svg"):
        box = figure.bounding_box()
        assert box["width"] > 300
        assert box["height"] > 60
    for box in tab.query_selector_all("ul.icicle > li > span"):
        assert box.bounding_box()["width"] > 0.8 * (width - 200)
    tab.screenshot(path=tmp_path / "page.png", full_page=True)
    context.close()


@needs_browser
def test_texts_that_are_too_faint_are_found(running):
    """The check itself: in text, on a colour, half transparent, and in a picture above a shape."""
    tab = running.new_page()
    tab.set_content(
        "<body style='background:#fff'><p style='color:#999'>faint</p><p style='color:#767676'>fair</p>"
        "<p style='background:#1565a7;color:#111'>on blue</p><p style='color:rgba(0,0,0,.3)'>thin</p>"
        "<svg width=100 height=50><rect width=100 height=50 fill='#d98200'></rect>"
        "<text x=10 y=20 fill='#fff'>white</text><text x=10 y=40 fill='#000'>black</text></svg></body>"
    )
    assert [line.split()[1] for line in faint_texts(tab)] == ["faint", "on", "thin", "white"]
    tab.set_content("<div style='width:3000px'>wide</div>")
    assert wider_than_the_screen(tab)
    tab.close()


@needs_browser
def test_tables_sort_by_what_is_clicked_and_by_the_keyboard(made, running):
    page, _, _ = made
    tab = running.new_page()
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


@needs_browser
def test_it_prints_with_all_its_figures(made, running, tmp_path):
    page, _, _ = made
    tab = running.new_page()
    tab.goto(page.as_uri())
    tab.pdf(path=tmp_path / "report.pdf", format="A4")
    assert (tmp_path / "report.pdf").stat().st_size > 50_000
    tab.close()
