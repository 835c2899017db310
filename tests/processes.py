"""Processes of a test: all that carry its mark in their environment, whoever their parent is by now."""

import os
import signal
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from subprocess import PIPE, Popen
from uuid import uuid4

ENDINGS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Marked:
    """A command that runs in a separate process group with a mark that all that it starts inherits."""

    def __init__(self, command: Sequence[object], **environment: str) -> None:
        self._mark = f"LATTE_TEST_MARK={uuid4().hex}"
        name, _, value = self._mark.partition("=")
        self.process = Popen(
            [*map(str, command)],
            stdout=PIPE,
            stderr=PIPE,
            text=True,
            env=os.environ | {name: value} | environment,
            process_group=0,
            preexec_fn=_usual_signals,
        )

    def __enter__(self) -> "Marked":
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        for pid in self.living():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.communicate()

    def living(self) -> dict[int, str]:
        """The processes that carry the mark, with their command lines."""
        found = {}
        for folder in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                if self._mark.encode() in (folder / "environ").read_bytes().split(b"\0"):
                    found[int(folder.name)] = (folder / "cmdline").read_text(errors="replace").replace("\0", " ")
        return found

    def left(self, limit_s: float = 1.0) -> dict[int, str]:
        """The processes that still live `limit_s` after the command has ended."""
        self.process.wait()
        end_s = time.monotonic() + limit_s
        while self.living() and time.monotonic() < end_s:
            time.sleep(0.02)
        return self.living()

    def wait_for(self, words: str, limit_s: float = 120.0) -> None:
        """Wait until a process whose command line has `words` lives."""
        end_s = time.monotonic() + limit_s
        while not any(words in line for line in self.living().values()):
            assert self.process.poll() is None, self.process.communicate()
            assert time.monotonic() < end_s, self.living()
            time.sleep(0.05)


def _usual_signals() -> None:
    for number in ENDINGS:  # a job in the background ignores some
        signal.signal(number, signal.SIG_DFL)
