"""Receiving: a grid that waits for each device as long as it may take, and takes one reply after the other."""

import time
from collections.abc import Callable, Iterable, Iterator
from copy import copy

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
    """`grid`, but it pulls each reply only when the caller needs it.

    A reply that cannot be unpacked becomes an error reply to its message; so does one that does not come within the
    `limit_s` of its message, in seconds from when it was sent (None: the timeout of all). Messages are sent one by one,
    and their content is let go as soon as it was sent.
    """

    def __init__(
        self,
        grid: Grid,
        limit_s: Callable[[Message], float | None] = lambda _: None,
        *,
        clock: Callable[[], float] = time.monotonic,
        wait: Callable[[float], None] = time.sleep,
    ) -> None:
        self._grid, self._limit_s, self._clock, self._wait = grid, limit_s, clock, wait

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

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> "Replies":
        return Replies([self._send(message, timeout) for message in messages], self._replies)

    def _send(self, message: Message, timeout: float | None) -> "Sent":
        limit_s = self._limit_s(message)
        key = next(iter(self.push_messages([copy(message)])), None)  # Flower's simulation keeps what it was given
        message.content = RecordDict()  # only its metadata, which the copy shares, are needed from here on
        return Sent(message, key, self._clock(), timeout if limit_s is None else limit_s)

    def _replies(self, sent: "Sent") -> list[Message]:
        """The replies to a message, which are waited for as long as it may take; an error reply where none comes."""
        if not sent.key:
            return [_error_reply(sent.message, "it could not be sent its message")]
        while not (found := self._pull(sent)):
            if sent.limit_s is not None and self._clock() > sent.at_s + sent.limit_s:
                return [_error_reply(sent.message, f"it did not reply in {sent.limit_s:.3g} s")]
            self._wait(_LOOK_AGAIN_S)
        return found

    def _pull(self, sent: "Sent") -> list[Message]:
        try:
            return list(self._grid.pull_messages([sent.key or ""]))
        except _MALFORMED as exc:
            return [_error_reply(sent.message, f"its reply cannot be unpacked: {type(exc).__name__}: {exc}")]


class Sent:
    """A message that was sent: its `key` on the grid, when that was, and how long its reply may take from then on."""

    def __init__(self, message: Message, key: str | None, at_s: float, limit_s: float | None) -> None:
        self.message, self.key, self.at_s, self.limit_s = message, key, at_s, limit_s


class Replies(Iterable[Message]):
    """The replies to messages that were sent, each pulled when its turn comes and kept by nobody here."""

    def __init__(self, sent: Iterable[Sent], pull: Callable[[Sent], list[Message]]) -> None:
        self._sent = {id(each.message): each for each in sent}
        self._pull = pull

    def to(self, message: Message) -> list[Message]:
        """The replies to `message`. A second call finds none, and so does a message that was not sent."""
        sent = self._sent.pop(id(message), None)
        return [] if sent is None else self._pull(sent)

    def __iter__(self) -> Iterator[Message]:
        for each in list(self._sent.values()):
            yield from self.to(each.message)


def _error_reply(message: Message, reason: str) -> Message:
    return Message(Error(code=ErrorCode.UNKNOWN, reason=reason), reply_to=message)
