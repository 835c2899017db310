"""Grids: the devices of a federation in this process, one after the other, for tests and studies."""

from collections.abc import Iterable, Mapping, Sequence
from typing import cast

from flwr.app import Context, Message, RecordDict, UserConfig
from flwr.clientapp import ClientApp
from flwr.common.serde import message_from_proto, message_to_proto
from flwr.serverapp import Grid, ServerApp
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

_RUN, _SERVER, _FIRST_NODE = 1, 1, 2**63  # chosen: any numbers, and a node that no float can distinguish from others
"""Flower's numbers of nodes have 64 bits, more than a float keeps apart."""


class LocalGrid(Grid):
    """Runs `app` for each message at once, as the node it is for; messages are serialised as on a wire.

    `nodes` are the configurations of the devices. Each keeps its own state from message to message, and what
    their apps raise is raised here. The order is that of the messages, so that the same seeds give the same run.
    """

    def __init__(self, app: ClientApp, nodes: Sequence[UserConfig], run_config: UserConfig) -> None:
        self._app = app
        self._replies: dict[str, Message] = {}
        self._sent = 0
        self._contexts = {
            _FIRST_NODE + at: Context(
                run_id=_RUN,
                node_id=_FIRST_NODE + at,
                node_config=dict(node),
                state=RecordDict(),
                run_config=dict(run_config),
            )
            for at, node in enumerate(nodes)
        }
        self._run = Run.create_empty(_RUN)
        TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = _RUN, _SERVER, 0

    def set_run(self, run: Run) -> None:
        self._run = run

    @property
    def run(self) -> Run:
        return self._run

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> Iterable[int]:
        return list(self._contexts)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        return [self._push(message) for message in messages]

    def _push(self, message: Message) -> str:
        self._sent += 1
        message_id = str(self._sent)
        message.metadata.__dict__["_message_id"] = message_id  # as Flower's own grid does
        received = _copy(message)
        reply = self._app(received, self._contexts[message.metadata.dst_node_id])
        self._replies[message_id] = _copy(reply)
        return message_id

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        return [self._replies.pop(each) for each in message_ids if each in self._replies]

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        return self.pull_messages(self.push_messages(messages))


def _copy(message: Message) -> Message:
    return message_from_proto(message_to_proto(message))


def run_federation(
    server: ServerApp, client: ClientApp, nodes: Sequence[Mapping[str, object]], config: Mapping[str, object]
) -> None:
    """Run a federation of `nodes`, each with its configuration, under the run's `config`, in this process."""
    run_config = cast("UserConfig", dict(config))
    grid = LocalGrid(client, [cast("UserConfig", dict(node)) for node in nodes], run_config)
    server(grid, Context(run_id=_RUN, node_id=_SERVER, node_config={}, state=RecordDict(), run_config=run_config))
