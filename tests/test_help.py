"""What the command line says of itself."""

import fcntl
import os
import platform
import pty
import re
import struct
import subprocess
import sys
import termios
from collections.abc import Iterator
from functools import cache, partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import typer.main
from running import ended
from typer.testing import CliRunner

from latte_cli import __version__
from latte_cli.cli import app
from latte_cli.cli.panels import PANELS
from latte_cli.errors import ExitCode

LATTE = str(Path(sys.executable).with_name("latte"))
HEAVY = {"torch", "xgboost", "pandas", "pyarrow", "onnx", "scipy", "numpy"}


def _commands(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    yield path, command
    for name, child in getattr(command, "commands", {}).items():
        yield from _commands(child, (*path, name))


def _environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}


def _run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        arguments,
        env=_environment() | environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )


COMMANDS = dict(_commands(typer.main.get_command(app)))


def _title(path: tuple[str, ...]) -> str:
    return " ".join(("latte", *path))


@cache
def shown(path: tuple[str, ...]) -> str:
    """What `--help` of a command prints at 80 columns."""
    result = CliRunner(env={"COLUMNS": "80"}).invoke(app, [*path, "--help"], prog_name="latte")
    assert (result.exit_code, result.stderr) == (ExitCode.DONE, "")
    return result.stdout


@pytest.mark.parametrize("path", COMMANDS, ids=_title)
def test_every_command_explains_itself_in_80_columns(path: tuple[str, ...]) -> None:
    lines = shown(path).splitlines()
    assert lines[0].startswith(f"Usage: {_title(path)} ")
    assert [line for line in lines if len(line) > 80] == []


@pytest.mark.parametrize("path", COMMANDS, ids=_title)
def test_no_help_shows_the_marks_of_a_formatter_or_is_cut_off(path: tuple[str, ...]) -> None:
    lines = shown(path).splitlines()
    assert [line for line in lines if "\\" in line or "\x1b" in line or "\b" in line] == []
    assert [line for line in lines[1:] if line.rstrip().endswith(("...", "…"))] == []


@pytest.mark.parametrize(
    "path", [path for path, command in COMMANDS.items() if hasattr(command, "commands")], ids=_title
)
def test_a_list_of_commands_has_one_line_for_each(path: tuple[str, ...]) -> None:
    rows = shown(path).split("\nCommands:\n")[1].splitlines()
    assert [row.split()[0] for row in rows] == [*COMMANDS[path].commands]
    assert all(row.endswith(".") for row in rows)


def test_what_is_optional_required_and_bounded_stands_in_plain_brackets() -> None:
    words = " ".join(shown(("allocate",)).split())
    for said in (
        "[default: nested]",
        "random choices. [default: 0]",
        "[default: the fleet file's]",
        "above. [required]",
    ):
        assert said in words
    assert "[default: 5; at least 2]" in " ".join(shown(("train-selector",)).split())
    assert "[default: 0.3; 0.01 to 0.9]" in " ".join(shown(("profile",)).split())


def _options(path: tuple[str, ...]) -> dict[str, tuple[str, str]]:
    """How each option is typed, and its help in one line, by its longest name; as `--help` shows them."""
    rows: list[tuple[str, list[str]]] = []
    for line in shown(path).split("\nCommands:\n")[0].splitlines():
        if found := re.fullmatch(r"  (?P<name>-.*?)(?:  +(?P<text>\S.*))?", line):
            rows.append((found["name"], [found["text"] or ""]))
        elif line.startswith("     ") and rows:
            rows[-1][1].append(line.strip())
    return {max(re.findall(r"--[a-z-]+", name), key=len): (name, " ".join(words).strip()) for name, words in rows}


@pytest.mark.parametrize("path", COMMANDS, ids=_title)
def test_every_option_says_in_a_sentence_what_it_does(path: tuple[str, ...]) -> None:
    options = _options(path)
    hidden = {name for param in COMMANDS[path].params for name in param.opts if not name.startswith("--")}
    assert len(options) == len({max(each.opts, key=len) for each in COMMANDS[path].params} - hidden) + 1  # --help
    odd = [name for name, (_, text) in options.items() if not re.fullmatch(r"[^\[].*[.)](?: \[[^\[]*\])?", text)]
    assert odd == []


@pytest.mark.parametrize("path", COMMANDS, ids=_title)
def test_the_value_of_every_option_has_a_name_and_its_unit_an_example(path: tuple[str, ...]) -> None:
    for name, (typed, text) in _options(path).items():
        assert not re.search(r"\b(TEXT|INTEGER|FLOAT|RANGE)\b", typed), typed
        assert not re.search(r"x[<>]=|<=x", text), text
        if re.search(r"\b(DURATION|SIZE|RATE)\b", typed) and "=SIZE" not in typed and name != "--loading-rate":
            assert re.search(r"\d(?:ms|s|m|h|[KMG]iB|Mbit/s|GB/s)\b", text), (name, text)


_AS_WRITTEN = re.compile("  latte |    +[a-z#-]|  [a-z-]+  |Usage: |  --(format|channels) ")
"""Lines that are not laid out: examples, files, summaries and lists of choices."""


@pytest.mark.parametrize("columns", [60, 80, 100])
@pytest.mark.parametrize("path", COMMANDS, ids=_title)
def test_no_line_ends_within_the_name_of_an_option_or_a_short_command(path: tuple[str, ...], columns: int) -> None:
    text = CliRunner().invoke(app, [*path, "--help"], prog_name="latte", terminal_width=columns).stdout
    wide = [line for line in text.splitlines() if len(line) > columns and not _AS_WRITTEN.match(line)]
    assert wide + [line for line in text.splitlines() if line.endswith("-")] == []
    assert not {"\u2011", "\u00a0"} & {*text}
    broken = [code for code in re.findall(r"`([^`]*)`", text) if "\n" in code and len(" ".join(code.split())) <= 28]
    assert broken == []


@pytest.mark.parametrize("path", COMMANDS, ids=_title)
def test_every_argument_has_a_help_text(path: tuple[str, ...]) -> None:
    text = shown(path)
    arguments = [param for param in COMMANDS[path].params if param.param_type_name == "argument"]
    assert ("\nArguments:\n" in text) is bool(arguments)
    rows = text.split("\nArguments:\n")[1].split("\n\n")[0].splitlines() if arguments else []
    assert [row for row in rows if not re.match(r"  \S.*?  +[A-Z]|    ", row)] == []
    of_models = [row for row in rows if "MODEL" in row.split("  ")[1]]
    assert [row for row in of_models if ".onnx" not in row or ".pt2" not in row] == []


@pytest.mark.parametrize("path", [(), ("estimate",)], ids=_title)
def test_the_help_on_a_terminal_is_that_in_a_pipe(path: tuple[str, ...]) -> None:
    piped = _run(LATTE, *path, "--help")
    terminal, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    with subprocess.Popen([LATTE, *path, "--help"], env=_environment(), stdin=theirs, stdout=theirs) as process:
        os.close(theirs)
        printed = b"".join(iter(partial(_read, terminal), b""))
    os.close(terminal)
    assert (process.returncode, piped.returncode) == (ExitCode.DONE, ExitCode.DONE)
    assert printed.decode().replace("\r\n", "\n") == piped.stdout


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 1 << 16)
    except OSError:  # Linux says so that the other end is closed
        return b""


def test_the_version_is_that_of_the_package() -> None:
    result = _run(LATTE, "--version")
    assert (result.returncode, result.stderr) == (ExitCode.DONE, "")
    lines = dict(line.split(" ", 1) for line in result.stdout.splitlines())
    assert [*lines][:2] == ["latte", "python"]
    assert lines["latte"] == __version__
    installed = {name: version(name) for name in ("torch", "xgboost", "pyarrow")}
    assert lines.items() >= {"python": platform.python_version(), **installed}.items()


def test_the_versions_are_told_without_importing_the_libraries() -> None:
    code = "import sys; from latte_cli.cli import app; app(['--version'], standalone_mode=False); "
    result = _run(sys.executable, "-c", code + "sys.stderr.write(' '.join(sys.modules))")
    assert HEAVY.isdisjoint(result.stderr.split())


def test_the_module_runs_as_the_command_does() -> None:
    result = _run(sys.executable, "-m", "latte_cli", "--version")
    assert (result.returncode, result.stdout) == (ExitCode.DONE, _run(LATTE, "--version").stdout)


MANY = 20  # options that still can be read as one list


@pytest.mark.parametrize("path", [path for path, command in COMMANDS.items() if len(command.params) > MANY], ids=_title)
def test_many_options_stand_under_headings(path: tuple[str, ...]) -> None:
    panels = PANELS[path[-1]]
    text = shown(path)
    titles = [line.removesuffix(":") for line in text.splitlines() if re.fullmatch(r"[A-Z].*:", line)]
    assert titles[-len(panels) - 2 :] == ["Arguments", *panels, "Options"]
    assert len(text.split("\nOptions:\n")[1].splitlines()) == 3  # --quiet, --verbose and --help


@pytest.mark.parametrize("name", PANELS)
def test_every_option_stands_under_one_heading(name: str) -> None:
    params = [param for param in COMMANDS[(name,)].params if param.expose_value]
    options = [max(param.opts, key=len) for param in params if param.param_type_name == "option"]
    assert sorted(option for names in PANELS[name].values() for option in names) == sorted(options)


@pytest.mark.parametrize(
    ("words", "error", "hint"),
    [
        ("brew", "unknown command `brew`", "one of: allocate, "),
        ("estimat", "unknown command `estimat`", "did you mean `estimate`?"),
        ("--brew", "unknown option `--brew`", "`latte --help` lists the options"),
        ("estimate m.onnx --devise cpu", "unknown option `--devise`", "did you mean `--device`?"),
        ("estimate m.onnx --zzzz", "unknown option `--zzzz`", "`latte estimate --help` lists the options"),
        ("estimate", "missing argument `MODEL`", "`latte estimate --help` says what goes there"),
        ("estimate m.onnx --device", "option `--device` requires an argument", "`latte estimate --help`"),
        ("estimate m.onnx --accumulate 0", "invalid value for `--accumulate`: ", "`latte estimate --help`"),
        (
            "verify m.onnx --batch-size 1e6",
            "invalid value for `--batch-size`: `1e6` is not a whole number",
            "`latte ver",
        ),
        (
            "estimate m.onnx --framework jax",
            "unknown option `--framework`",
            "`latte estimate --help` lists the options",
        ),
        ("doctor --device gpu", "unknown device `gpu`", "did you mean `cuda`?"),
        ("profile --device GPU", "unknown device `GPU`", "did you mean `cuda`?"),
        ("estimate m.onnx --format jsn", "invalid value for `--format`: `jsn` is not", "did you mean `json`?"),
        ("estimate m.onnx n.onnx", "got unexpected extra argument (n.onnx)", "`latte estimate --help`"),
        (
            "compare m.onnx --gpus 2",
            "unknown option `--gpus`",
            "`latte estimate` takes it; `latte compare --help` lists",
        ),
        ("plan sho", "unknown command `sho`", "did you mean `show`?"),
    ],
)
def test_a_malformed_command_line_is_an_error_like_others(words: str, error: str, hint: str) -> None:
    code, out, err = ended(*words.split())
    assert (code, out) == (ExitCode.USAGE, "")
    first, second = err.splitlines()
    assert first.startswith(f"error: {error}")
    assert second.startswith(f"hint: {hint}")
    assert err.lower().count("did you mean") == hint.count("did you mean")


@pytest.mark.parametrize("path", [(), ("plan",)], ids=_title)
def test_a_group_by_itself_shows_its_help(path: tuple[str, ...]) -> None:
    done = ended(*path)
    assert (done.stdout + done.stderr).split() == shown(path).split()


@pytest.mark.parametrize("path", COMMANDS, ids=_title)
def test_every_command_takes_quiet_and_verbose(path: tuple[str, ...]) -> None:
    if not hasattr(COMMANDS[path], "commands"):
        assert "-q, --quiet" in shown(path) and "-v, --verbose" in shown(path)


@pytest.mark.parametrize(
    "words", [("-q", "zoo", "list"), ("zoo", "list", "-q"), ("zoo", "list", "--quiet")], ids=" ".join
)
def test_quiet_may_be_typed_before_and_after_the_command(words: tuple[str, ...]) -> None:
    assert "next: " in ended("zoo", "list").stderr
    assert ended(*words) == (ExitCode.DONE, ended("zoo", "list").stdout, "")
    assert "next: " in ended("zoo", "list").stderr


def test_help_imports_nothing_heavy() -> None:
    code = """if True:
        import sys
        from latte_cli.cli import main
        sys.argv = ["latte", "--help"]
        try:
            main()
        finally:
            sys.stderr.write(" ".join(sys.modules))
    """
    result = _run(sys.executable, "-c", code)
    assert result.returncode == ExitCode.DONE
    assert result.stdout.startswith("Usage: ")
    assert HEAVY.isdisjoint(result.stderr.split())


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_completion_script_of_each_shell_can_be_printed(shell: str) -> None:
    result = _run(LATTE, "--show-completion", shell, _TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION="1")
    assert (result.returncode, result.stderr) == (ExitCode.DONE, "")
    assert "_LATTE_COMPLETE" in result.stdout


def test_bash_completes_the_options_of_latte() -> None:
    result = _run(LATTE, _LATTE_COMPLETE="complete_bash", COMP_WORDS="latte --ver", COMP_CWORD="1")
    assert (result.returncode, result.stdout.split()) == (ExitCode.DONE, ["--version", "--verbose"])


def test_help_loads_neither_layers_nor_what_computes() -> None:
    slow = {"latte_cli.layers", "importlib.metadata", "numpy", "torch", "pandas", "pyarrow", "onnx", "xgboost"}
    script = f"import sys; from latte_cli import cli; cli._command(); sys.exit(str(sorted({slow} & set(sys.modules))))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.stderr.strip() == "[]"
