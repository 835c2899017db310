"""A command in a fork of one process that has imported what commands need (see forking.py), at a hundredth of the cost.

In tests `run` does it; `python -IS tests/forked.py SOCKET WORD...` does it for a shell, in place of the command WORD.
"""

import marshal
import os
import signal
import socket
import sys
from collections.abc import Mapping, Sequence

STREAMS = {0: 0, 1: 1, 2: 2}
"""The standard streams of this process."""


def run(
    address: str,
    words: Sequence[str],
    *,
    folder: str,
    environment: Mapping[str, str],
    streams: Mapping[int, int] = STREAMS,
) -> int:
    """The exit code of `words`, negative for a signal; `streams` are its open ones with the descriptors they are."""
    request = {"words": list(words), "folder": folder, "environment": dict(environment), "streams": list(streams)}
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(address)
        if streams:
            socket.send_fds(connection, [b"+"], list(streams.values()))
        else:
            connection.sendall(b"+")
        connection.sendall(marshal.dumps(request))
        connection.shutdown(socket.SHUT_WR)
        return int(connection.recv(16))


if __name__ == "__main__":
    code = run(sys.argv[1], sys.argv[2:], folder=os.getcwd(), environment=os.environ)  # noqa: PTH109 - pathlib is slow
    if code < 0:
        signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    sys.exit(code)
