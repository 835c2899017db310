"""Replies: what devices send back, each of which becomes a checked record or the reason why it is refused."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeVar

from flwr.app import ArrayRecord, Message, RecordDict

from latte_cli.errors import LatteError
from latte_cli.federated.aggregation import groups
from latte_cli.federated.receiving import Replies
from latte_cli.network import Network
from latte_cli.printable import printable

Record = TypeVar("Record")
"""What is read from a reply's content."""

SMALL_BYTES = 2**20  # chosen: a thousand prices of 1 KiB each
"""The most that a reply without arrays may hold: far over the prices of a catalogue of thousands of sub-models."""

_ARRAY_BYTES = 1024  # chosen: eight times that header, for long names
"""The most that an array takes in addition to its numbers: its name, and its header of 128 bytes."""

_SHOWN = 300  # chosen: a few lines of a log
_READ = 3000  # chosen: so much that no address is cut in the letters that are shown


def answers(
    asked: Mapping[int, Message],
    replies: Iterable[Message],
    read: Callable[[int, RecordDict], Record],
    *,
    most_bytes: int = SMALL_BYTES,
) -> Iterator[tuple[int, Record | LatteError]]:
    """For each node that was `asked` what `read` makes of its reply, or why the reply is refused.

    All that devices send comes through here. Of a node's replies one counts, where it is the only one and answers the
    message that the node was asked; its content has at most `most_bytes`. `read` raises LatteError for what it
    refuses. Nodes that replied without having been asked come last, refused. The order is that of `asked`; of `Replies`
    one is there at a time.
    """
    strays = set[int]()
    for node, message, own in _of_nodes(asked, replies, strays):
        try:
            yield node, read(node, _content(message, own, most_bytes, stray=node in strays))
        except LatteError as exc:
            yield node, exc
    for node in sorted(strays - asked.keys()):
        yield node, LatteError("no reply of it was requested")


def update_bytes(network: Network) -> int:
    """The most that a device's reply after training may hold: all parameters, its channels, and its part of F."""
    channels = groups(network)
    arrays = sum(len(network.parameter_names(node)) for node in network.nodes) + 2 * len(channels)
    numbers = 4 * network.parameters + 16 * sum(group.channels for group in channels)
    return numbers + _ARRAY_BYTES * arrays + SMALL_BYTES


def reason(refused: LatteError) -> str:
    """Why a reply is refused, printable and on one line: devices have a say in it."""
    said = f"{refused.message} ({refused.hint})" if refused.hint else refused.message
    plain = printable(" ".join(said[:_READ].split()))
    return plain if len(plain) <= _SHOWN else f"{plain[:_SHOWN]}..."


def _of_nodes(
    asked: Mapping[int, Message], replies: Iterable[Message], strays: set[int]
) -> Iterator[tuple[int, Message, list[Message]]]:
    """Each node that was asked, its message and its replies to it; `strays` gains the nodes that sent others."""
    if isinstance(replies, Replies):
        for node, message in asked.items():
            of_node, others = _sort(asked, replies.to(message))
            strays |= others
            yield node, message, of_node[node]
        return
    of_node, others = _sort(asked, replies)
    strays |= others
    for node, message in asked.items():
        yield node, message, of_node[node]


def _sort(asked: Mapping[int, Message], replies: Iterable[Message]) -> tuple[dict[int, list[Message]], set[int]]:
    """The replies of each node to the message that it was asked, and the nodes that sent others.

    For what does not arrive Flower replies itself, in its own name.
    """
    by_id = {message.metadata.message_id: node for node, message in asked.items()}
    of_node, strays = defaultdict[int, list[Message]](list), set[int]()
    for reply in replies:
        said = reply.metadata
        by_flower = reply.has_error() and said.src_node_id == said.dst_node_id
        node = by_id.get(said.reply_to_message_id) if by_flower else said.src_node_id
        if node is not None and node in asked and asked[node].metadata.message_id == said.reply_to_message_id:
            of_node[node].append(reply)
        else:
            strays.add(said.src_node_id)
    return of_node, strays


def _content(message: Message, replies: list[Message], most_bytes: int, *, stray: bool) -> RecordDict:
    if not replies:
        raise LatteError("its reply is to another message" if stray else "it did not reply")
    if len(replies) > 1:
        raise LatteError(f"it replied {len(replies)} times")
    (reply,) = replies
    if reply.has_error():
        raise LatteError(reply.error.reason or "it failed")
    if not reply.has_content():
        raise LatteError("its reply is empty")
    asked, said = message.metadata, reply.metadata
    if (said.message_type, said.group_id) != (asked.message_type, asked.group_id):
        raise LatteError(f"its reply is to a `{said.message_type}` of round {said.group_id or 0}")
    size = sum(len(key) + _record_bytes(record) for key, record in reply.content.items())
    if size > most_bytes:
        raise LatteError(f"its reply holds {size} bytes", hint=f"at most {most_bytes} make sense")
    return reply.content


def _record_bytes(record: Any) -> int:
    if isinstance(record, ArrayRecord):
        return sum(len(name) + len(array.data) for name, array in record.items())
    return sum(len(name) + _value_bytes(value) for name, value in record.items())


def _value_bytes(value: object) -> int:
    if isinstance(value, list):
        return sum(map(_value_bytes, value))
    return 8 + (len(value) if isinstance(value, str | bytes) else 0)
