"""What a command shows on a terminal of a given size, with the terminal's own signs or without."""

import fcntl
import os
import pty
import re
import struct
import termios
import threading
from typing import NamedTuple

from forking import zygote

_SIGNS = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class Shown(NamedTuple):
    """How a command ended, and all that it wrote to its terminal."""

    returncode: int
    raw: str
    columns: int

    @property
    def text(self) -> str:
        """What it wrote, without colours."""
        return _SIGNS.sub("", self.raw).replace("\r\n", "\n")

    @property
    def lines(self) -> list[str]:
        """The terminal's lines: longer ones are wrapped."""
        width = self.columns
        return [line[at : at + width] for line in self.text.splitlines() for at in range(0, max(1, len(line)), width)]


def on_terminal(*words: object, columns: int = 80, lines: int = 24, program: str = "latte", **variables: str) -> Shown:
    """What `latte` with these arguments shows on a terminal of this size, with these environment variables.

    `program` may be `python` with `-c` and code.
    """
    own = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES", "NO_COLOR")}
    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
    pieces: list[bytes] = []
    reader = threading.Thread(target=_read, args=(leader, pieces))
    reader.start()
    streams = dict.fromkeys((0, 1, 2), follower)
    environment = own | {"TERM": "xterm-256color"} | variables
    code = zygote().run(program, *map(str, words), environment=environment, streams=streams)
    os.close(follower)
    reader.join()
    os.close(leader)
    return Shown(returncode=code, raw=b"".join(pieces).decode(), columns=columns)


def _read(leader: int, pieces: list[bytes]) -> None:
    """Take what is written until the last writer has closed its end, which Linux tells as an error."""
    while True:
        try:
            piece = os.read(leader, 65536)
        except OSError:
            return
        if not piece:
            return
        pieces.append(piece)
