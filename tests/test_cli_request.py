"""Commands as functions of one request, whose options take part or are refused."""

import ast
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import pytest
import typer
from made_rows import DEVICE
from running import ended, here
from typer.testing import CliRunner

import latte_cli
from latte_cli.cli.help import Command
from latte_cli.cli.request import Request, check_apart, check_needed, from_options
from latte_cli.errors import ExitCode, LatteError
from latte_cli.network.zoo import export

PACKAGE = Path(latte_cli.__file__).parent
MOST_LINES = 60
MOST_LINES_OF_A_FILE = 500


def test_no_function_of_the_command_line_is_over_60_lines_with_its_parameters():
    functions = [
        (path.name, node.name, (node.end_lineno or 0) - node.lineno + 1)
        for path in sorted((PACKAGE / "cli").glob("*.py"))
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.FunctionDef)
    ]
    assert [each for each in functions if each[2] > MOST_LINES] == []


def test_no_file_is_over_500_lines():
    lengths = {
        path.relative_to(PACKAGE).as_posix(): len(path.read_text("utf-8").splitlines())
        for path in PACKAGE.rglob("*.py")
    }
    assert {name for name, lines in lengths.items() if lines > MOST_LINES_OF_A_FILE} == set()


@dataclass(frozen=True, kw_only=True)
class Tea(Request):
    leaves: Annotated[str, typer.Argument(metavar="LEAVES", help="What is brewed.")]
    minutes: Annotated[int, typer.Option("--minutes", "-m", min=2, help="How long.")] = 3
    milk: Annotated[bool, typer.Option("--milk", help="With milk.")] = False
    guests: Annotated[list[str] | None, typer.Option("--guest", help="For whom.")] = None


def brewed(*arguments):
    """The request that a command gets, and how it ended."""
    requests = []

    @from_options
    def brew(request: Tea) -> None:
        """Brew tea."""
        requests.append(request)

    app = typer.Typer(rich_markup_mode=None)
    app.command(cls=Command)(brew)
    result = CliRunner().invoke(app, [*arguments])
    return (requests or [None])[0], result


def test_the_fields_of_a_request_are_the_parameters_of_its_command():
    request, result = brewed("green", "-m", "5", "--guest", "Ada", "--guest", "Bob")
    assert result.exit_code == 0
    assert (request.leaves, request.minutes, request.milk, request.guests) == ("green", 5, False, ["Ada", "Bob"])


def test_a_request_knows_what_was_typed_also_where_that_is_the_default():
    assert brewed("green")[0] == Tea(leaves="green", given=frozenset({"leaves"}))
    assert brewed("green", "-m", "3")[0].given == {"leaves", "--minutes"}
    assert brewed("green", "--milk", "--guest", "Ada")[0].given == {"leaves", "--milk", "--guest"}


def test_what_a_field_lacks_or_bounds_is_asked_of_the_command_line():
    assert brewed()[1].exit_code == brewed("green", "-m", "0")[1].exit_code == ExitCode.USAGE
    said = brewed("--help")[1].output
    assert all(each in said for each in ("Brew tea.", "LEAVES", "--minutes", "[default: 3; at least 2]", "For whom."))
    assert "context" not in said.lower()


def test_options_that_do_not_go_together_and_options_without_the_one_they_need_are_refused():
    apart, needs = (("--a", ("--b", "--c"), "a reason"),), (("--d", "--a"),)
    for given in ({"--a"}, {"--b", "--c"}, {"--a", "--d"}, set()):
        check_apart(given, apart)
        check_needed(given, needs)
    with pytest.raises(LatteError, match="`--a` and `--c` do not go together: a reason") as caught:
        check_apart({"--a", "--c"}, apart)
    assert (caught.value.hint, caught.value.exit_code) == ("leave one out", ExitCode.USAGE)
    with pytest.raises(LatteError, match="`--d` means nothing without `--a`"):
        check_needed({"--d"}, needs)


FLEET = f"""\
round_duration: 1h
classes:
  - {{class: one, device: {DEVICE.slug}, samples: 8, batch: 8, bandwidth: {{up: 1Mbit, down: 1Mbit}}}}
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a model, a fleet and an empty store."""
    folder = tmp_path_factory.mktemp("requests")
    (folder / "lenet.onnx").write_bytes(export("lenet"))
    (folder / "fleet.yaml").write_text(FLEET)
    (folder / "there.json").write_text("{}")
    return folder


ALLOCATE = ("allocate", "lenet.onnx", "--fleet", "fleet.yaml")
EXPLAIN = ("explain", "lenet.onnx", "--for-device", "there.json")
IGNORED = [
    *((*ALLOCATE, "--objective", each) for each in ("balanced", "parameters")),
    *(
        (*ALLOCATE, *way, *more)
        for way in (("--devices", "all.csv"), ("--curve",))
        for more in (("--channels", "nested"), ("--channels", "rolling"), ("--seed", "0"), ("--objective", "balanced"))
    ),
    *(
        (*EXPLAIN, *more)
        for more in (
            *(("--device", "cpu"), ("--strategy", "pytorch"), ("--what-if", "batch-size=2"), ("--threads", "2")),
            *(("--workspace-limit", "1MiB"), ("--memory-limit", "1GiB"), ("--optimizer", "sgd"), ("--store", "here")),
        )
    ),
    ("doctor", "--force"),
    ("doctor", "--device-json", "new.json", "--device", "cpu"),
    ("doctor", "--device-json", "new.json", "--format", "json"),
    ("profile", "--batch-size", "8"),
    ("profile", "--suite", "quick", "--shape", "seq=8"),
    ("profile", "--suite", "standard", "--widths", "1"),
    ("profile", "lenet.onnx", "--configs", "5"),
    ("profile", "lenet.onnx", "--plan", "there.json", "--batch-size", "8"),
]


@pytest.mark.parametrize("arguments", IGNORED, ids=" ".join)
def test_an_option_that_would_be_left_out_of_account_is_refused_with_a_hint(place, monkeypatch, arguments):
    monkeypatch.chdir(place)
    monkeypatch.setenv("LATTE_STORE", str(place / "store"))
    done = here(*arguments, code=ExitCode.USAGE)
    assert done.stdout == ""
    error, hint = done.stderr.splitlines()
    assert error.startswith("error: `--")
    assert hint.startswith("hint: ")
    assert not (place / "new.json").exists()


def test_a_description_of_a_gpu_is_not_overwritten_unasked(place, monkeypatch):
    monkeypatch.chdir(place)
    done = here("doctor", "--device-json", "there.json", code=1)
    assert done.stderr == "error: `there.json` is there already\nhint: `--force` overwrites it\n"
    forced = ended("doctor", "--device-json", "there.json", "--force")
    assert "is there already" not in forced.stderr


_INTERRUPTED_AT = """
import signal, sys

class Interrupt:
    def find_spec(self, name, path=None, target=None):
        if name == at:
            sys.meta_path.remove(self)
            signal.raise_signal(signal.SIGINT)

at = sys.argv[1]
sys.argv[1:] = ["zoo", "list"]
sys.meta_path.insert(0, Interrupt())
from latte_cli.__main__ import main
main()
"""


@pytest.mark.parametrize(
    "module",
    ["latte_cli.cli", "importlib.metadata", "typer", "latte_cli.cli.commands", "latte_cli.report", "latte_cli.network"],
)
def test_an_interrupt_while_modules_are_imported_ends_with_130_and_one_error(module):
    done = subprocess.run(
        [sys.executable, "-c", _INTERRUPTED_AT, module], env=os.environ, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (ExitCode.INTERRUPTED, "")
    assert done.stderr.splitlines()[0] == "error: interrupted"
    assert "Traceback" not in done.stderr


_INTERRUPTED_IN = """
import latte_cli.cli
from latte_cli.__main__ import main

class Field:
    def __set_name__(self, *_):
        raise KeyboardInterrupt

def in_a_text():
    exec("raise KeyboardInterrupt")

def in_a_class():
    class Made:
        field = Field()

latte_cli.cli.main = {}
main()
"""


@pytest.mark.parametrize("where", ["in_a_text", "in_a_class"])
def test_an_interrupt_while_python_runs_a_text_or_makes_a_class_ends_with_130_too(tmp_path, where):
    (tmp_path / "interrupted.py").write_text(_INTERRUPTED_IN.format(where))
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-m", "interrupted"]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": path})
    assert (done.returncode, done.stderr) == (ExitCode.INTERRUPTED, "error: interrupted\n")
