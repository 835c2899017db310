"""Plain English: the words that a person reads are the field's standard ones, and no line is longer than 120."""

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LONGEST = 120  # characters of a line
PROSE = ("README.md", "CHANGELOG.md", "docs/**/*.md")
CODE = ("latte_cli/**/*.py", "benchmarks/**/*.py", "tests/**/*.py")
RECORDED = ("tests/golden/", "tests/frozen/", "docs/reference/commands.md")  # what commands print, looked at elsewhere

DIALECT = {
    "of (its|their|his|our) own": "a separate ..., or its ...",
    "(leave|leaves|leaving|left) (\\w+ )?away": "leave out",
    "asked for": "requested, or the name of the option",
    "(stand|stands|stood|standing) for": "means, represents",
    "(is|are|was|were) none of": "is not one of",
    "there (is|are|was|were) none of": "does not exist",
    "that there (is|are) not": "does not exist",
    "who(ever)? (names|wants|reads|asks)": "the reader, the caller",
    "wants it": "expects, needs",
    "commas between": "separated by commas",
    "beforehand": "before",
    "in which of them": "which",
}
"""Turns of phrase that readers have to read twice, and what to write instead."""

PATTERN = re.compile(rf"\b(?:{'|'.join(DIALECT)})\b", re.IGNORECASE)


def files(patterns: tuple[str, ...]) -> list[Path]:
    found = sorted({path for pattern in patterns for path in ROOT.glob(pattern)} - {Path(__file__)})
    return [path for path in found if not path.relative_to(ROOT).as_posix().startswith(RECORDED)]


def without_blocks(text: str) -> str:
    """A page's text with empty lines instead of its blocks of code."""
    return re.sub(r"^```.*?^```", lambda block: "\n" * block[0].count("\n"), text, flags=re.DOTALL | re.MULTILINE)


def paragraphs(path: Path) -> Iterator[tuple[int, str]]:
    """The prose of a page without its blocks of code, by the number of its first line."""
    line = 1
    for paragraph in without_blocks(path.read_text("utf-8")).split("\n\n"):
        yield line, paragraph
        line += paragraph.count("\n") + 2


def strings_and_comments(path: Path) -> Iterator[tuple[int, str]]:
    """What a module says: its texts, docstrings included, and its comments, those on neighbouring lines as one."""
    source = path.read_text("utf-8")
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.lineno, node.value
    said: list[str] = []
    last = first = 0
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            if token.start[0] != last + 1:
                yield first, " ".join(said)
                said, first = [], token.start[0]
            said.append(token.string.lstrip("#: "))
            last = token.start[0]
    yield first, " ".join(said)


def dialect(path: Path, texts: Iterator[tuple[int, str]]) -> Iterator[str]:
    for line, text in texts:
        for found in PATTERN.finditer(" ".join(text.split())):
            yield f"{path.relative_to(ROOT)}:{line}: {found[0]}"


def test_pages_are_in_plain_words() -> None:
    assert [said for path in files(PROSE) for said in dialect(path, paragraphs(path))] == []


def test_texts_and_comments_of_the_code_are_in_plain_words() -> None:
    assert [said for path in files(CODE) for said in dialect(path, strings_and_comments(path))] == []


@pytest.mark.parametrize(
    "words", ["in a folder of its own", "none was asked for", "it leaves one away", "*Stands for* x"]
)
def test_dialect_is_found(words: str) -> None:
    assert PATTERN.search(words)


def test_no_line_is_longer_than_a_screen() -> None:
    """Of pages and code; tables, links and blocks of output in pages cannot be broken."""
    found = []
    for path in files((*PROSE, *CODE)):
        text = path.read_text("utf-8")
        if path.suffix == ".md":
            text = without_blocks(text)
        for number, line in enumerate(text.splitlines(), start=1):
            said = re.sub(r"  # (type: |noqa|fmt: ).*", "", line)
            if (
                len(said) > LONGEST
                and not said.lstrip().startswith(("|", "![", "["))
                and len(max(said.split(), key=len)) < 80
            ):
                found.append(f"{path.relative_to(ROOT)}:{number}: {len(line)}")
    assert found == []
