"""Receiving: a grid on which a reply that cannot be unpacked costs its sender's part alone."""

import time
from collections.abc import Iterable

from flwr.app import Error, Message, RecordDict
from flwr.common.constant import ErrorCode
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

_LOOK_AGAIN_S = 3.0  # as often as Flower's own grid

_MALFORMED = (
    *(ArithmeticError, AssertionError, AttributeError, LookupError, MemoryError, RecursionError, TypeError, ValueError),
    DecodeError,
)
"""What unpacking raises for bytes that are no message. Flower unpacks replies as it pulls them, all of them or none."""


class Receiving(Grid):
    """`grid`, which pulls each reply by itself: one that cannot be unpacked becomes an error reply to its message."""

    def __init__(self, grid: Grid) -> None:
        self._grid = grid

    def set_run(self, run: Run) -> None:
        self._grid.set_run(run)

    @property
    def run(self) -> Run:
        return self._grid.run

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        return self._grid.create_message(content, message_type, dst_node_id, group_id, ttl)

    def get_node_ids(self) -> Iterable[int]:
        return self._grid.get_node_ids()

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        return self._grid.push_messages(messages)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        return self._grid.pull_messages(message_ids)

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        sent = list(messages)
        until = None if timeout is None else time.monotonic() + timeout
        waiting = {key: message for key, message in zip(self.push_messages(sent), sent, strict=False) if key}
        replies: list[Message] = []
        while waiting:
            found = {key: self._replies(key, message) for key, message in waiting.items()}
            replies += [reply for each in found.values() for reply in each]
            waiting = {key: message for key, message in waiting.items() if not found[key]}
            if not waiting or (until is not None and time.monotonic() > until):
                break
            time.sleep(_LOOK_AGAIN_S)
        return replies

    def _replies(self, message_id: str, message: Message) -> list[Message]:
        try:
            return list(self._grid.pull_messages([message_id]))
        except _MALFORMED as exc:
            reason = f"its reply cannot be unpacked: {type(exc).__name__}: {exc}"
            return [Message(Error(code=ErrorCode.UNKNOWN, reason=reason), reply_to=message)]
