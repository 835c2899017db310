"""Interrupts: Ctrl-C, SIGTERM and SIGHUP end a command by KeyboardInterrupt, but never inside an import.

Libraries in C++ call Python while they are imported, and few stand an exception there: ONNX and torch abort the
process, NumPy and pandas say that a module is missing. An interrupt that comes meanwhile is raised at the next line of
the code that began the import.
"""

import os
import signal
import sys
from contextlib import suppress
from types import FrameType
from typing import Any, NoReturn

_IMPORTLIB = "<frozen importlib._bootstrap>"  # the file of the frames between an import and what is imported
_LONGEST_WAIT_S = 5.0  # chosen: torch takes 2 s with warm files; an import may hang
_INTERRUPTED = 130  # errors.ExitCode.INTERRUPTED, which may not have been imported yet
_ENDINGS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name))  # not on Windows


def catch_signals() -> None:
    """Let SIGINT, SIGTERM and SIGHUP interrupt, unless they are ignored, as under nohup."""
    for number in (signal.SIGINT, *_ENDINGS):
        if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
            signal.signal(number, _interrupt)


def _interrupt(_: int, frame: FrameType | None) -> None:
    """Interrupt, once for SIGTERM and SIGHUP: a shell passes SIGHUP on to jobs that a closing terminal has sent it to.

    Where an import goes on for long, or the user presses Ctrl-C again, the process ends at once.
    """
    for number in _ENDINGS:
        signal.signal(number, signal.SIG_IGN)
    importer = _importer(frame)
    if importer is None:
        raise KeyboardInterrupt
    importer.f_trace = _raise
    sys.settrace(_trace_nothing)
    signal.signal(signal.SIGINT, _end)
    if hasattr(signal, "setitimer"):
        signal.signal(signal.SIGALRM, _end)
        signal.setitimer(signal.ITIMER_REAL, _LONGEST_WAIT_S)


def _importer(frame: FrameType | None) -> FrameType | None:
    """The code that began the outermost import that `frame` is part of; None where it is part of none."""
    found = None
    while frame:
        if frame.f_code.co_filename == _IMPORTLIB:
            found = frame.f_back
        frame = frame.f_back
    return found


def _trace_nothing(*_: object) -> None:
    """Trace no call; Python traces the lines of a frame only while calls are traced."""


def _raise(*_: Any) -> NoReturn:
    """Interrupt the code that began an import, now that it goes on."""
    sys.settrace(None)
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGINT, _interrupt)
    raise KeyboardInterrupt


def _end(*_: object) -> NoReturn:
    """End the process as an interrupt does, with nothing tidied up but what ends with it."""
    with suppress(OSError):
        os.write(2, b"error: interrupted\n")
    os._exit(_INTERRUPTED)
