"""The device's side of a federation, as a Flower ClientApp: prices sub-models, and trains what the server sends."""

from collections.abc import Callable
from dataclasses import replace
from functools import wraps
from hashlib import sha256
from typing import Any

from flwr.app import ConfigRecord, Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.clientapp.typing import Mod
from flwr.common.constant import ErrorCode
from numpy.typing import NDArray

from latte_cli.errors import LatteError
from latte_cli.federated import device, messages, models
from latte_cli.federated.aggregation import check_arrays
from latte_cli.federated.device import DevicePrices
from latte_cli.federated.messages import ARRAYS, KEPT, METRICS, TABLE, RoundTask
from latte_cli.federated.settings import settings
from latte_cli.network import Network

_Answer = Callable[[Message, Context], RecordDict]


def _answer_errors(answer: _Answer) -> Callable[[Message, Context], Message]:
    """A handler whose LatteErrors become error replies, which the server names."""

    @wraps(answer)
    def handler(message: Message, context: Context) -> Message:
        try:
            return Message(answer(message, context), reply_to=message)
        except LatteError as exc:
            reason = f"{exc.message} ({exc.hint})" if exc.hint else exc.message
            return Message(Error(code=ErrorCode.CLIENT_APP_RAISED_EXCEPTION, reason=reason), reply_to=message)

    return handler


@_answer_errors
def prices(message: Message, context: Context) -> RecordDict:
    """Price the server's catalogue of sub-models by this device's own profile."""
    task = messages.task_in(message.content)
    try:
        found = _prices(task, context)
    except LatteError as exc:  # the server does not know the device's name yet
        name = device.device_name(context.node_config, settings(context.run_config))
        raise LatteError(f"`{name}`: {exc.message}", hint=exc.hint) from exc
    return RecordDict({TABLE: messages.prices_record(found)})


@_answer_errors
def train(message: Message, context: Context) -> RecordDict:
    """Train the sub-model that the server sent, until the round ends, and return it with what F gains by it."""
    task, own = messages.task_in(message.content), settings(context.run_config)
    table, entry = _prices(task, context), task.entry
    (priced,) = (each for each in table.rounds if each.sub_model == entry)
    go_on = device.clock(own, priced, task.round_duration_s)
    network = models.network_from(task.model, batch=own.batch)
    channels, arrays = _arrays(message.content, KEPT), _arrays(message.content, ARRAYS)
    check_arrays(network, arrays, channels, entry.dropped)
    training, _ = device.device_examples(context.node_config, own, network)
    returned = device.train_part(
        network,
        arrays,
        channels,
        entry,
        training,
        own.in_round(task.round_number),
        round_number=task.round_number,
        device=table.number,
        go_on=go_on,
    )
    return messages.returned_content(returned)


@_answer_errors
def answer_evaluation(message: Message, context: Context) -> RecordDict:
    """Evaluate the whole network on what this device holds out."""
    task, own = messages.task_in(message.content), settings(context.run_config)
    from latte_cli.federated.training import evaluate_network

    network = models.network_from(task.model, batch=own.batch)
    training, held_out = device.device_examples(context.node_config, own, network)
    if not len(held_out):
        raise LatteError("nothing is held out for evaluating", hint="set `held-out-locally`")
    score = evaluate_network(network, _whole(message.content, network), held_out, statistics=training)
    return RecordDict({METRICS: messages.score_record(score, len(held_out))})


def app_with(*mods: Mod) -> ClientApp:
    """The app with Flower's `mods` around a device's training, the first of them outermost."""
    made = ClientApp()
    made.query()(prices)
    made.train(mods=list(mods))(train)
    made.evaluate()(answer_evaluation)
    return made


app = app_with()


def _prices(task: RoundTask, context: Context) -> DevicePrices:
    """The prices of the task's catalogue: those this device remembers, else made and remembered."""
    key = sha256(
        task.model + str(messages.task_record(replace(task, round_number=0, sub_model=""))["catalogue"]).encode()
    ).hexdigest()
    known = context.state.get(TABLE)
    if isinstance(known, ConfigRecord) and known.get("key") == key:
        return messages.prices_in(known, task.sub_models)
    node, own = context.node_config, settings(context.run_config)
    network = models.network_from(task.model, batch=own.batch)
    training, _ = device.device_examples(node, own, network)
    rounds = device.rounds(node, own, task.model, task.sub_models, len(training))
    found = DevicePrices(
        name=device.device_name(node, own),
        number=device.number(node),
        device=rounds[0].device,
        examples=len(training),
        rounds=rounds,
    )
    record = messages.prices_record(found)
    record["key"] = key
    context.state[TABLE] = record
    return found


def _whole(content: RecordDict, network: Network) -> dict[str, NDArray[Any]]:
    """The parameters that the server sent; raises LatteError where they are not those of the network."""
    found = _arrays(content, ARRAYS)
    check_arrays(network, found, kept={})
    return found


def _arrays(content: RecordDict, key: str) -> dict[str, NDArray[Any]]:
    found = content.array_records.get(key)
    if found is None:
        raise LatteError(f"the server sent no `{key}`", hint=messages.SAME_VERSION)
    return messages.arrays_in(found)
