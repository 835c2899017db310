"""The pages in docs: their blocks are run in order, each page in a fresh folder; links lead somewhere; the pages build.

A block that is not run says why, in a separate line above it, as in the README.
"""

import re
from pathlib import Path

import pytest
import typer
from blocks import Block, blocks, run
from browser import WIDTHS, chromium, faint_texts, needs_browser, wider_than_the_screen
from running import forked

from latte_cli.cli.commands import COMMANDS, GROUPS

DOCS = Path(__file__).parents[1] / "docs"
PAGES = sorted(path for path in DOCS.rglob("*.md") if "federation" not in path.parts and path.name != "commands.md")
SHOWN = ("text", "json", "")
MARKED = [
    "compiles and profiles for some minutes",
    "measures for a minute",
    "measures for a minute",
    "measures this machine",
    "measures this machine",
    "measures this machine",
    "measures this machine",
    "measures this machine",
    "downloads torch",
    "downloads torch",
    "needs an object store",
    "needs an object store",
    "needs another machine",
    "needs another machine",
    "needs a profile",
    "needs a profile of this machine",
    "needs a profile of this machine",
    "needs a Jetson",
    "needs a Jetson",
    "needs the file",
    "needs the files",
    "needs an NVIDIA GPU",
    "needs an NVIDIA GPU",
    "needs an NVIDIA GPU",
    "needs several GPUs",
    "needs a GPU's description",
]


def of(path: Path) -> list[Block]:
    found = [block for block in blocks(path.read_text("utf-8")) if not block.language.startswith("{")]
    return [block for block in found if block.language not in SHOWN]


RUN = [path for path in PAGES if any(not block.reason for block in of(path))]


@pytest.mark.parametrize("page", RUN, ids=lambda path: str(path.relative_to(DOCS)))
def test_the_blocks_of_a_page_run(page: Path, tmp_path: Path) -> None:
    for block in of(page):
        if not block.reason:
            done = run(block, tmp_path)
            assert done.returncode == 0, f"{block.code}\n{done.stderr}"
            assert done.stdout or done.stderr


def test_only_the_known_blocks_are_not_run() -> None:
    found = [block.reason for path in PAGES for block in of(path) if block.reason]
    assert sorted(found) == sorted(MARKED)


LINKS = [
    (path, link) for path in PAGES for link in re.findall(r"\]\((?!https?:)([^)#]+)[^)]*\)", path.read_text("utf-8"))
]


@pytest.mark.parametrize(("page", "link"), LINKS, ids=lambda one: str(one).removeprefix(str(DOCS)))
def test_a_link_leads_to_a_file(page: Path, link: str) -> None:
    assert (page.parent / link).is_file()


def test_a_page_shows_what_an_estimate_prints_on_a_terminal() -> None:
    screen = (Path(__file__).parent / "golden" / "estimate-screen.txt").read_text("utf-8")
    assert screen in [block.code for block in blocks((DOCS / "how-to" / "reading-an-estimate.md").read_text("utf-8"))]


@pytest.fixture(scope="module")
def html(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with the pages as `make docs` builds them: a warning is an error."""
    folder = tmp_path_factory.mktemp("docs") / "html"
    words = ["-W", "--keep-going", "-q", "-b", "html", str(DOCS), str(folder)]
    done = forked("python", "-c", f"import sys; from sphinx.cmd.build import main; sys.exit(main({words}))")
    assert done.returncode == 0, done.stderr
    return folder


def test_the_pages_build_without_a_warning(html: Path) -> None:
    for page in ("index", "reference/commands", "reference/python"):
        assert (html / f"{page}.html").stat().st_size > 3000
    commands = (DOCS / "reference" / "commands.md").read_text("utf-8")
    titles = [*COMMANDS, *(f"{name} {word}" for name, group in GROUPS.items() for word in _commands_of(group))]
    assert [title for title in titles if f"# `latte {title}`" not in commands] == []


def _commands_of(group: typer.Typer) -> list[str]:
    named = [info.name or info.callback.__name__ for info in group.registered_commands if info.callback]
    return [name.replace("_", "-") for name in named]


@needs_browser
def test_no_page_scrolls_sideways_on_a_phone_or_has_faint_text(html: Path) -> None:
    """In a real browser, light and dark: 360 pixels wide, and contrast of at least 4.5:1."""
    pages = sorted(path for path in html.rglob("*.html") if "_modules" not in path.parts)
    assert len(pages) > len(PAGES)
    faults: list[str] = []
    with chromium() as running:
        tab = running.new_page(viewport={"width": WIDTHS[0], "height": 900})
        for page in pages:
            tab.emulate_media(color_scheme="light")
            tab.goto(page.as_uri())
            found = [("wide", wider_than_the_screen(tab)), ("light", faint_texts(tab))]
            tab.emulate_media(color_scheme="dark")
            found.append(("dark", faint_texts(tab)))
            faults += [f"{page.relative_to(html)}: {what}: {text}" for what, texts in found for text in texts]
    assert faults == []


def test_the_index_lists_every_page() -> None:
    listed = re.findall(r"^[a-z0-9/-]+$", (DOCS / "index.md").read_text("utf-8"), re.MULTILINE)
    pages = [str(path.relative_to(DOCS).with_suffix("")) for path in PAGES if path.name != "index.md"]
    assert sorted(listed) == sorted([*pages, "reference/commands"])
