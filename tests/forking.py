"""A process that has imported what commands need, and forks for each command that is requested (see forked.py).

`python tests/forking.py DESCRIPTOR` listens at that socket until its standard input ends. `latte` starts the command
line; `python -c CODE` runs CODE.
"""

import gc
import marshal
import os
import select
import socket
import subprocess
import sys
import tempfile
import traceback
from functools import cache
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import forked

IMPORTED = (
    *("matplotlib.backends.backend_agg", "matplotlib.backends.backend_svg", "matplotlib.figure", "onnx", "pandas"),
    *("pyarrow.compute", "pyarrow.dataset", "pyarrow.parquet", "scipy.optimize", "torch", "xgboost"),
    *("latte_cli.__main__", "latte_cli.cli", "latte_cli.allocator", "latte_cli.doctor", "latte_cli.estimator"),
    *("latte_cli.network.zoo", "latte_cli.report.estimates", "latte_cli.selector", "latte_cli.sweep"),
)
"""What several commands import. None of it starts a thread that a fork would miss."""


class Zygote:
    """The process, and a folder with its socket and with a `latte` for shells."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory()
        self.commands = Path(self._folder.name)
        self.address = str(self.commands / "socket")
        client = [sys.executable, "-IS", forked.__file__, self.address, "latte"]
        script = self.commands / "latte"
        script.write_text(f'#!/bin/sh\nexec {" ".join(client)} "$@"\n')
        script.chmod(0o755)
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(self.address)
            listening.listen()
            self._process = subprocess.Popen(
                [sys.executable, __file__, str(listening.fileno())],
                stdin=subprocess.PIPE,
                env=os.environ | {"OMP_NUM_THREADS": "1"},
                pass_fds=(listening.fileno(),),
            )

    def run(self, *words: str, **how: Any) -> int:
        """The exit code of a command, in this folder and environment unless `how` names others."""
        return forked.run(self.address, words, **{"folder": str(Path.cwd()), "environment": os.environ} | how)

    def end(self) -> None:
        """End the process; what it has started goes on."""
        self._process.communicate()
        self._folder.cleanup()


@cache
def zygote() -> Zygote:
    """The one of these tests, which the fixture `_zygote` ends."""
    return Zygote()


# --- in the process


def main() -> None:
    for name in IMPORTED:
        import_module(name)
    del sys.path[0]  # the folder of this file
    gc.freeze()  # a collection in a fork would copy all of this process
    waiting: dict[int, tuple[int, socket.socket]] = {}
    with socket.socket(fileno=int(sys.argv[1])) as listening:
        while 0 not in (ready := select.select([listening, 0, *waiting], [], [])[0]):
            for ended in waiting.keys() & set(ready):
                _tell(ended, *waiting.pop(ended))
            if listening in ready:
                connection, _ = listening.accept()
                child = _start(connection)
                waiting[os.pidfd_open(child)] = child, connection


def _tell(descriptor: int, child: int, connection: socket.socket) -> None:
    """Say how a command has ended to the one that requested it."""
    os.close(descriptor)
    with connection:
        connection.sendall(b"%d" % os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))


def _start(connection: socket.socket) -> int:
    """Fork for the command that is requested; the fork's number."""
    _, descriptors, _, _ = socket.recv_fds(connection, 1, 3)
    child = os.fork()
    if not child:
        request = marshal.loads(b"".join(iter(lambda: connection.recv(2**16), b"")))
        request["streams"] = dict(zip(request["streams"], descriptors, strict=True))
        _run(**request)
    for descriptor in descriptors:
        os.close(descriptor)
    return child


def _run(words: list[str], folder: str, environment: dict[str, str], streams: dict[int, int]) -> None:
    """Run a command as a separate process would; never returns."""
    code = 70
    try:
        _settle(folder, environment, streams)
        code = _code(words)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(_flush(code))


def _settle(folder: str, environment: dict[str, str], streams: dict[int, int]) -> None:
    """Be where and what a process would be that was just started."""
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    for number in (0, 1, 2):
        if number in streams:
            os.dup2(streams[number], number)
        else:
            os.close(number)
    for descriptor in streams.values():
        os.close(descriptor)
    encoding = environment.get("PYTHONIOENCODING")
    if encoding:
        sys.stdout.reconfigure(encoding=encoding)  # type: ignore[union-attr]
        sys.stderr.reconfigure(encoding=encoding, errors="backslashreplace")  # type: ignore[union-attr]


def _code(words: list[str]) -> int:
    """The exit code of `latte ARGUMENT...` or `python -c CODE`."""
    from latte_cli import __main__ as latte

    try:
        if words[0] == "latte":
            sys.argv, sys.modules["__main__"] = words, latte
            latte.main()
        else:
            sys.argv, sys.path[:0], sys.modules["__main__"] = words[1:2], [""], ModuleType("__main__")
            exec(words[2], vars(sys.modules["__main__"]))
    except SystemExit as end:
        return int(end.code or 0)
    except Exception:
        traceback.print_exc()
        return 1
    return 0


def _flush(code: int) -> int:
    """The exit code after what the interpreter does at its end."""
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except BaseException:
        return 120
    return code


if __name__ == "__main__":
    main()
