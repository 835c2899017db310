"""Mods: what Flower runs around a device's training, such as noise for differential privacy."""

from flwr.app import ArrayRecord, Context, Message, RecordDict
from flwr.clientapp.typing import ClientAppCallable, Mod

from latte_cli.federated.messages import ARRAYS


def parameters_alone(mod: Mod) -> Mod:
    """`mod`, to which a message and its reply hold no arrays but parameters, as Flower's privacy mods want it.

    The channels that the device keeps and its part of F pass it by.
    """

    def around(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
        sent = _take_others(message)
        returned: dict[str, ArrayRecord] = {}

        def train(seen: Message, context: Context) -> Message:
            _put_back(seen, sent)
            reply = call_next(seen, context)
            returned.update(_take_others(reply))
            return reply

        reply = mod(message, context, train)
        _put_back(reply, returned)
        return reply

    return around


def _take_others(message: Message) -> dict[str, ArrayRecord]:
    """Take the arrays that are no parameters out of a message."""
    if not message.has_content():
        return {}
    found = {key: record for key, record in message.content.array_records.items() if key != ARRAYS}
    message.content = RecordDict({key: record for key, record in message.content.items() if key not in found})
    return found


def _put_back(message: Message, records: dict[str, ArrayRecord]) -> None:
    if message.has_content():
        message.content = RecordDict({**message.content, **records})
