"""What the command line says of itself."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main
from typer.testing import CliRunner

from latte_cli import __version__
from latte_cli.cli import app
from latte_cli.errors import ExitCode

LATTE = str(Path(sys.executable).with_name("latte"))
HEAVY = {"torch", "xgboost", "pandas", "pyarrow", "onnx", "scipy", "numpy"}


def _paths(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    yield path
    for name, child in getattr(command, "commands", {}).items():
        yield from _paths(child, (*path, name))


def _run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        arguments, env=os.environ | environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("path", [*_paths(typer.main.get_command(app))], ids=lambda path: " ".join(("latte", *path)))
def test_every_command_explains_itself_in_80_columns(path: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    result = CliRunner().invoke(app, [*path, "--help"], prog_name="latte")
    assert result.exit_code == ExitCode.DONE
    assert result.stdout.startswith(f"Usage: {' '.join(('latte', *path))} ")
    assert [line for line in result.stdout.splitlines() if len(line) > 80] == []
    assert result.stderr == ""


def test_the_version_is_that_of_the_package() -> None:
    result = _run(LATTE, "--version")
    assert (result.returncode, result.stdout, result.stderr) == (ExitCode.DONE, f"latte {__version__}\n", "")


def test_the_module_runs_as_the_command_does() -> None:
    result = _run(sys.executable, "-m", "latte_cli", "--version")
    assert (result.returncode, result.stdout) == (ExitCode.DONE, f"latte {__version__}\n")


@pytest.mark.parametrize("arguments", [("brew",), ("--brew",)])
def test_what_latte_does_not_know_is_a_usage_error(arguments: tuple[str, ...]) -> None:
    result = _run(LATTE, *arguments)
    assert (result.returncode, result.stdout) == (ExitCode.USAGE, "")
    assert "brew" in result.stderr
    assert "Traceback" not in result.stderr


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
