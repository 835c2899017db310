"""Whatever stdout and stderr are, a command ends with its code and at most one line on what cannot be written."""

import io
import os
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any

import pytest
from forking import zygote
from made_rows import DEVICE, profile, step_layers

from latte_cli.cli import streams
from latte_cli.network import load, zoo
from latte_cli.store import open_store

NAME = "\u0441\u0435\u0442\u044c"  # in Cyrillic
FLEET = (
    f"classes: [{{class: {NAME}, device: {DEVICE.slug}, samples: 80, batch: 8, bandwidth: {{up: 1Mbit, down: 1Mbit}}}}]"
)
FORMATS = ("table", "csv", "json")
MODEL = f"{NAME}.onnx"
PRICED = ("--batch-size", "8", "--device", DEVICE.slug)
COMMANDS = [
    ["--help"],
    ["--version"],
    ["zoo", "list", "--help"],
    *(["zoo", "list", "--format", form] for form in FORMATS),
    *(["store", "info", "--format", form] for form in FORMATS),
    *(["store", "devices", "--format", form] for form in FORMATS),
    ["store", "export"],
    *(["estimate", MODEL, *PRICED, "--format", form] for form in (*FORMATS, "trace")),
    *(["explain", MODEL, *PRICED, "--format", form] for form in FORMATS),
    *(["allocate", MODEL, "--fleet", "fleet.yaml", "--round-duration", "1h", "--format", form] for form in FORMATS),
    *(["plan", "show", "plan.json", "--format", form] for form in FORMATS),
    ["estimate", MODEL, *PRICED, "--fail-above", "1h", "--annotate", "junit"],
]
SOME = COMMANDS[1::3]  # every kind of writer


class Place:
    """A folder with a model and a fleet of Cyrillic names, a plan and a store, where each command is a fork."""

    def __init__(self, folder: Path) -> None:
        (folder / MODEL).write_bytes(zoo.export("lenet"))
        (folder / "fleet.yaml").write_text(FLEET, "utf-8")
        store = open_store(str(folder / "store"), shipped=False)
        profile(store, step_layers(load(folder / MODEL, batch_size=8)))
        self._folder, self._own = str(folder), {"LATTE_STORE": store.uri, "COLUMNS": "80"}
        made = ["allocate", MODEL, "--fleet", "fleet.yaml", "--round-duration", "1h", "-o", "plan.json"]
        [(code, _, said)] = self.run([made])
        assert code == 0, said

    def run(self, commands: list[list[str]], out: str = "kept", err: str = "kept") -> list[tuple[int, bytes, bytes]]:
        """What became of each command, with streams that are `kept`, `full`, `closed`, or `gone`.

        `gone` is a pipe closed after a line; `ascii` and `cp1252` are kept, and both streams have that encoding.
        """
        return [self._ended(command, out, err) for command in commands]

    def _ended(self, command: list[str], out: str, err: str) -> tuple[int, bytes, bytes]:
        environment = os.environ | self._own | ({"PYTHONIOENCODING": out} if out in ("ascii", "cp1252") else {})
        with ExitStack() as stack, Path(os.devnull).open() as nothing:
            said, told = (stack.enter_context(tempfile.TemporaryFile()) for _ in range(2))
            given = {0: nothing, 1: _stream(out, said, stack), 2: _stream(err, told, stack)}
            streams = {number: file.fileno() for number, file in given.items() if file}
            code = zygote().run("latte", *command, folder=self._folder, environment=environment, streams=streams)
            return code, *(os.pread(file.fileno(), 2**24, 0) for file in (said, told))


def _stream(kind: str, kept: IO[bytes], stack: ExitStack) -> IO[bytes] | None:
    """What a command is given for a stream of a kind; None for a closed one."""
    if kind == "full":
        return stack.enter_context(Path("/dev/full").open("wb", buffering=0))
    if kind == "gone":
        head = stack.enter_context(subprocess.Popen(["head", "-1"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL))
        return head.stdin
    return None if kind == "closed" else kept


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return Place(tmp_path_factory.mktemp("streams"))


@pytest.mark.parametrize(("kind", "reason"), [("full", "No space left on device"), ("closed", "Bad file descriptor")])
def test_a_result_that_cannot_be_written_is_one_error(place: Place, kind: str, reason: str) -> None:
    commands = COMMANDS if kind == "full" else SOME
    for command, (code, _, said) in zip(commands, place.run(commands, out=kind), strict=True):
        lines = said.decode().splitlines()
        assert code == 1, (command, lines)
        assert lines[-2] == f"error: cannot write to standard output: {reason}", (command, lines)
        assert lines[-1].startswith("hint: ")
        assert all(line.startswith(("warning: ", "the ", "fitting")) for line in lines[:-2]), (command, lines)


def test_a_reader_that_goes_ends_the_command_silently_with_141(place: Place) -> None:
    for command, (code, _, said) in zip(SOME, place.run(SOME, out="gone"), strict=True):
        text = said.decode()
        assert code in (0, 141), (command, text)  # 0: all was in the pipe before
        assert not any(word in text for word in ("error", "Traceback", "Exception", "Broken")), (command, text)


def test_a_pipe_that_nobody_reads_gives_141() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "latte_cli", "zoo", "list", "--format", "json"]
    done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writing)
    assert (done.returncode, done.stderr) == (141, "")


@pytest.mark.parametrize("kind", ["full", "closed", "gone"])
def test_messages_that_nobody_can_read_change_no_result(place: Place, kind: str) -> None:
    commands = [*SOME, ["zoo", "list", "--nope"], ["estimate", "no.onnx"]]
    for command, (code, out, _) in zip(commands, place.run(commands, err=kind), strict=True):
        assert (code, bool(out)) == ((0, True) if command in SOME else (code or 70, False)), command
        assert code in (0, 1, 2)


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_signs_that_an_encoding_lacks_degrade(place: Place, encoding: str) -> None:
    commands = [*SOME, ["estimate", f"{NAME}…±.onnx"], ["zoo", NAME], ["zoo", "list", f"--{NAME}"]]
    for command, (code, out, said) in zip(commands, place.run(commands, out=encoding, err=encoding), strict=True):
        assert code == 0 if command in SOME else code in (1, 2), (command, said)
        text = (out + said).decode(encoding)
        assert "Traceback" not in text
        assert NAME not in text


def test_both_streams_closed_before_the_interpreter_starts_end_without_noise(place: Place) -> None:
    for redirection, code in ((">&-", 1), ("2>&-", 0), (">&- 2>&-", 1), ("<&- >&-", 1), (">/dev/full 2>/dev/full", 1)):
        command = f"{sys.executable} -m latte_cli --version {redirection}"
        done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False)
        assert done.returncode == code, redirection
        assert "Traceback" not in done.stderr
        assert "Exception" not in done.stderr


def test_the_program_s_own_signs_degrade_to_what_they_mean() -> None:
    program = (
        "import sys; from latte_cli.cli import streams; streams.prepare(); print('\\u00b1 1.5 \\u2026 \\u2264 \\u0441')"
    )
    environment = os.environ | {"PYTHONIOENCODING": "ascii"}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout == "+/- 1.5 ... <= ?\n"


def test_help_is_written_in_ascii(place: Place) -> None:
    """Typer writes it by itself, in UTF-8 where the terminal is ASCII."""
    from latte_cli.cli.commands import COMMANDS as SINGLE
    from latte_cli.cli.commands import GROUPS

    grouped = [[name, info.name] for name, group in GROUPS.items() for info in group.registered_commands if info.name]
    commands = [[*words, "--help"] for words in ([[]] + [[name] for name in (*SINGLE, *GROUPS)] + grouped)]
    for command, (code, out, _) in zip(commands, place.run(commands), strict=True):
        assert code == 0
        assert out.isascii(), command


class _Console(io.RawIOBase):
    """A console that takes text by separate calls, as that of Windows does: bytes on descriptor 1 miss it."""

    def __init__(self) -> None:
        self.text = ""

    def writable(self) -> bool:
        return True

    def isatty(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self.text += bytes(data).decode()
        return len(data)


def test_a_console_that_takes_text_is_not_written_past(monkeypatch: pytest.MonkeyPatch) -> None:
    console = _Console()
    stream = io.TextIOWrapper(io.BufferedWriter(console), encoding="utf-8", newline="")
    for name in ("stdout", "__stdout__"):
        monkeypatch.setattr(sys, name, stream)
    streams.prepare()
    print(f"{NAME} \u00b1")  # noqa: T201
    sys.stdout.flush()
    assert console.text == f"{NAME} \u00b1\n"
