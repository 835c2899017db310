"""Closeable: what holds memory of a library's, and lets it go when it is closed, left or no longer used."""

from contextlib import ExitStack
from types import TracebackType
from typing import Self
from weakref import finalize

KEPT = 256
"""How many of a kind a cache keeps: the zoo's networks have at most 90 distinct convolutions and phases (mobilenet_v2),
and each may be trained and evaluated at its own batches."""


class Closeable:
    """A context manager whose block ends with `close`."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let it go; nothing can be asked or run any more."""
        raise NotImplementedError


class SelfClosing(Closeable):
    """What a stack holds: let go by `close`, else when nobody refers to it any more, or when Python ends.

    So a bounded cache, such as `lru_cache`, closes what it evicts, but never under the hands of a call: each call that
    is made of it has to refer to it.
    """

    def __init__(self, stack: ExitStack) -> None:
        self._close = finalize(self, stack.close)

    def close(self) -> None:
        """Let it go; nothing can be asked or run any more."""
        self._close()
