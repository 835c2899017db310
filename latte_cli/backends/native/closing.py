"""Closing: what holds memory of a library's, and lets it go when it is closed or its `with` block ends."""

from types import TracebackType
from typing import Self


class Closing:
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
