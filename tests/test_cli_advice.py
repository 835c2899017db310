"""Advice that can be followed: hints name options of the command that gives them, and commands that there are."""

import ast
from collections.abc import Iterator
from pathlib import Path

import hints
import pytest
from hints import bare, commands, wrong_commands

import latte_cli
from latte_cli.cli.advice import in_words_of, long_options

PACKAGE = Path(latte_cli.__file__).parent
SOURCES = sorted(path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py"))
PAGES = sorted([PACKAGE.parent / "README.md", *(PACKAGE.parent / "docs").rglob("*.md")])
OF_ONE_COMMAND = {
    "allocator/curve.py": ("allocate",),
    "allocator/plan_file.py": ("allocate",),
    "allocator/rounds_file.py": ("allocate",),
    "allocator/files.py": ("allocate",),
    "allocator/plan.py": ("allocate",),
    "cli/allocate_request.py": ("allocate",),
    "cli/options.py": ("estimate", "allocate"),
    "cli/training.py": ("train-selector", "train-estimator"),
    "federated/study/files.py": ("simulate",),
    "files.py": ("allocate", "report", "store export", "zoo export"),
    "loading.py": ("profile",),
    "importers.py": ("import miopen-finddb", "import neusight-csv"),
    "network/channels/trace.py": ("allocate", "profile"),
    "network/depth.py": ("allocate",),
    "report/sweeps.py": ("profile",),
    "runtime/choices.py": ("tune",),
    "selector/artefact.py": ("train-selector",),
    "torch_trace/filing.py": ("import torch-trace",),
    "torch_trace/origins.py": ("import torch-trace",),
}
"""What only these commands come to, so that it may name their options; others name those of `latte estimate`."""


def texts(path: Path) -> Iterator[str]:
    """The texts that a module says something with, formatted ones without what is put in; no docstrings."""
    tree = ast.parse(path.read_text("utf-8"))
    docs = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    within = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            yield "".join(str(part.value) if isinstance(part, ast.Constant) else "" for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in within | docs:
            yield node.value


def of_module(source: str) -> tuple[str, ...]:
    """The commands that a module's advice is for: its own, those that alone come to it, else `estimate`."""
    module = "latte_cli." + source.removesuffix(".py").replace("/", ".")
    own = tuple(name for name, command in commands().items() if command.__module__ == module)
    return own or OF_ONE_COMMAND.get(source, ("estimate",))


@pytest.mark.parametrize("source", SOURCES)
def test_every_command_that_a_module_names_can_be_typed(source):
    assert [wrong for text in texts(PACKAGE / source) for wrong in wrong_commands(text)] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_that_a_page_names_in_a_sentence_can_be_typed(page):
    prose = "".join(page.read_text("utf-8").split("```")[::2])
    assert list(wrong_commands(" ".join(prose.split()))) == []


@pytest.mark.parametrize("source", SOURCES)
def test_options_in_backticks_are_those_of_the_commands_that_come_to_a_module(source):
    named = {option for text in texts(PACKAGE / source) for option in bare(only_code(text))}
    assert named <= frozenset().union(*(long_options(commands()[name]) for name in of_module(source)))


def only_code(text: str) -> str:
    return " ".join(f"`{code}`" for code in text.split("`")[1::2])


@pytest.mark.parametrize("name", sorted(commands()))
def test_advice_of_the_estimator_names_only_options_of_the_command_that_gives_it(name):
    own = long_options(commands()[name])
    for option in sorted(long_options(commands()["estimate"])):
        for text in (f"`{option}` helps", f"a smaller `{option} 2GiB` helps", f"give it: {option} x=SIZE"):
            said = in_words_of(name, commands()[name], text)
            hints.check(name.split(), f"hint: {said}")
            assert (said == text) is (option in own)


def test_who_is_given_a_file_is_told_its_fields():
    command = commands()["allocate"]
    assert in_words_of("allocate", command, "a larger `--batch-size` helps") == "a larger `batch` helps"
    assert in_words_of("allocate", command, "use `--precision bf16`") == "use `precision: bf16`"
    said = in_words_of("plan check", commands()["plan check"], "`--device` one of: a, b; `latte doctor --device cuda`")
    assert said == "`device` one of: a, b; `latte doctor --device cuda`"


def test_what_is_wrong_with_advice_is_found():
    assert list(wrong_commands("`latte brew` and `latte estimate MODEL --brew`")) == [
        "there is no such command as `latte brew`",
        "`latte estimate MODEL --brew` has no --brew",
    ]
    with pytest.raises(AssertionError, match="`latte plan check` has no --layout"):
        hints.check(("plan", "check", "p.json"), "error: it is slow\nhint: another `--layout` is faster\n")
