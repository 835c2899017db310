"""The README's blocks are executed, in order, in one fresh folder.

A block that starts make, needs another machine or lasts over ten seconds stands below a separate line that tells the
reader so: *(not run by the tests: REASON)*. A new reason has to be added to `MARKED`, so that markers do not creep in.
A block in `text` shows what a command printed; there is one.
"""

import re
from pathlib import Path

import pytest
from blocks import Block, blocks, run

README = Path(__file__).parents[1] / "README.md"
MARKED = [
    "measures this machine for three minutes",
    "runs all tests",
    "downloads torch",
    "measures this machine",
]
BLOCKS = blocks(README.read_text())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("readme")


@pytest.mark.parametrize(
    "block",
    [block for block in BLOCKS if not block.reason and block.language != "text"],
    ids=lambda block: block.code.splitlines()[0],
)
def test_a_block_of_the_readme_runs(block: Block, folder: Path) -> None:
    done = run(block, folder)
    assert done.returncode == 0, done.stderr
    assert done.stdout


def test_the_readme_shows_one_output() -> None:
    assert sum(block.language == "text" for block in BLOCKS) == 1


def test_the_readme_shows_what_the_command_prints_on_a_terminal() -> None:
    """In the same order, with lines left out."""
    [shown] = [block.code.splitlines() for block in BLOCKS if block.language == "text"]
    screen = iter((Path(__file__).parent / "golden" / "estimate-screen.txt").read_text("utf-8").splitlines())
    assert [line for line in shown if line != "..." and line not in screen] == []


def test_the_readme_has_only_the_known_markedblocks() -> None:
    assert [block.reason for block in BLOCKS if block.reason] == MARKED


def test_every_marker_and_fence_of_the_readme_is_read() -> None:
    text = README.read_text()
    assert text.count("(not run by the tests") == len(MARKED)
    assert text.count("```") == 2 * len(BLOCKS)


def test_a_marker_holds_only_for_the_block_right_below_it() -> None:
    text = "*(not run by the tests: slow)*\n\n```sh\none\n```\n\n```python\ntwo\n```\n"
    assert blocks(text) == [
        Block(language="sh", code="one\n", reason="slow"),
        Block(language="python", code="two\n", reason=None),
    ]


@pytest.mark.parametrize("link", re.findall(r"\]\((?!https?:)([^)#]+)\)", README.read_text()))
def test_a_link_of_the_readme_leads_to_a_file(link: str) -> None:
    assert (README.parent / link).is_file()


def test_the_readme_is_short() -> None:
    assert len(README.read_text().splitlines()) <= 150
