"""Devices: what one has itself (a profile, data, bandwidth), and what it says and returns."""

import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from latte_cli import child
from latte_cli.allocator import Deadline, Pricer, Round, SubModel, class_estimator, steps_within
from latte_cli.allocator.channels import Frequencies, kept_channels
from latte_cli.allocator.rounds_file import LONGEST_CLASS
from latte_cli.errors import ExitCode, LatteError, unknown
from latte_cli.federated import data, models
from latte_cli.federated.aggregation import Arrays, Kept, Update, channel_importance, groups, trained_channels
from latte_cli.federated.data import Examples
from latte_cli.federated.recipe import GoOn
from latte_cli.federated.settings import FederationSettings
from latte_cli.federated.virtual import class_of, fleet_of
from latte_cli.fleet import FleetClass, Method
from latte_cli.network import Network
from latte_cli.printable import printable
from latte_cli.profiles import NoProfile, resolve_profile
from latte_cli.quantities import bandwidth_bit_per_s, duration_or_zero_s, duration_s, size_bytes
from latte_cli.store import Store, open_store, shipped_models


@dataclass(frozen=True, kw_only=True)
class DevicePrices:
    """What a device says of itself: its `name`, its `number` among the devices, its `examples`, and its `rounds`."""

    name: str
    number: int
    device: str
    examples: int
    rounds: tuple[Round, ...]


@dataclass(frozen=True, kw_only=True)
class Returned:
    """What a device returns of a round: its `update`, the part of F that it adds, the sub-model and its last loss.

    `trained` counts its examples as often as it trained on each. `round_number` is that of the task; -1 where a device
    does not say it. It took so many `steps` of `step_s` seconds on average, with the deviation `spread_s`; `step_s` is
    None where it did not measure them.
    """

    update: Update
    frequencies: Mapping[str, NDArray[np.float64]]
    sub_model: str
    loss: float
    trained: int
    round_number: int = 0
    steps: int = 0
    step_s: float | None = None
    spread_s: float = 0.0


NODE_SETTINGS = (
    *("partition-id", "num-partitions", "name", "device", "store", "profile-budget", "calibration", "data", "up"),
    *("down", "memory", "threads", "strategy"),
)
"""What a node's configuration may say. All but the first two is optional: `device` is a profile's name (default: this
machine's), `profile-budget` how long to measure where there is no profile, `calibration` how long to measure where that
is not said (CALIBRATION_S; `0s`: not at all), `data` a folder of the device's own."""

CALIBRATION_S = 10.0  # chosen: as `latte estimate` on a terminal; the server waits an hour for prices

log = logging.getLogger("flwr")

MOST_DEVICES = 10**9  # chosen: more than any federation has, and exact in 32 bits
"""The numbers of devices are below it."""


def number(node: Mapping[str, Any]) -> int:
    """The device's number among those of the federation; raises LatteError for a node that has none."""
    for key in node:
        if key not in NODE_SETTINGS:
            raise unknown("node setting", key, NODE_SETTINGS)
    found = node.get("partition-id")
    if isinstance(found, bool) or not isinstance(found, int) or not 0 <= found < MOST_DEVICES:
        raise LatteError(
            "the node has no number",
            hint='start it with `flower-supernode --node-config "partition-id=0 num-partitions=2"`',
        )
    return found


def device_name(node: Mapping[str, Any], settings: FederationSettings) -> str:
    """What the device is called: the node's `name`, else by its class in a fleet, and its number."""
    known = class_of(node, settings)
    return str(node.get("name") or f"{known.name[:LONGEST_CLASS] if known else 'device'}-{number(node)}")


def device_examples(
    node: Mapping[str, Any], settings: FederationSettings, network: Network
) -> tuple[Examples, Examples]:
    """The examples that the device trains on, and those that it holds out for evaluating (may be none).

    They are its part of the federation's data set, or all of the folder. Raises LatteError for a number beyond
    `num-partitions` and for data that cannot be read.
    """
    own = str(node.get("data") or "")
    channels, image_size = network.inputs[0][1][1:3]
    if own:
        local = _whole(own, channels, image_size)
    elif settings.data:
        local = _part(node, settings, channels, image_size)
    else:
        raise LatteError("there are no examples", hint="say `data=FOLDER` in the node's configuration")
    if not settings.held_out_locally:
        return local, local.take(local.labels[:0])
    return data.split_examples(local, held_out=settings.held_out_locally, seed=settings.seed)


def whole(settings: FederationSettings, network: Network) -> tuple[Examples, Examples]:
    """The federation's data set: what its devices train on, and what is held out for the server (may be none)."""
    return _split_examples(settings, *network.inputs[0][1][1:3])


def check_parts(settings: FederationSettings, network: Network) -> None:
    """Raise LatteError where the data set cannot be spread over the devices of the fleet that the settings name."""
    fleet = fleet_of(settings)
    if fleet and settings.data:
        _parts(settings, sum(each.count for each in fleet.classes), *network.inputs[0][1][1:3])


@lru_cache(maxsize=4)
def _whole(source: str, channels: int, image_size: int) -> Examples:
    return data.load_examples(source, channels=channels, image_size=image_size)


@lru_cache(maxsize=4)
def _split_examples(settings: FederationSettings, channels: int, image_size: int) -> tuple[Examples, Examples]:
    found = _whole(settings.data, channels, image_size)
    if not settings.held_out:
        return found, found.take(found.labels[:0])
    return data.split_examples(found, held_out=settings.held_out, seed=settings.seed)


def _part(node: Mapping[str, Any], settings: FederationSettings, channels: int, image_size: int) -> Examples:
    devices = node.get("num-partitions")
    if isinstance(devices, bool) or not isinstance(devices, int) or not number(node) < devices:
        raise LatteError(
            f"there is no part {number(node)} of {devices}", hint="`partition-id` is under `num-partitions`"
        )
    return _parts(settings, devices, channels, image_size)[number(node)]


@lru_cache(maxsize=4)
def _parts(settings: FederationSettings, devices: int, channels: int, image_size: int) -> tuple[Examples, ...]:
    training, _ = _split_examples(settings, channels, image_size)
    parts = data.partitions(
        training.labels,
        devices,
        partition=settings.partition,
        seed=settings.seed,
        clients=training.clients,
        alpha=settings.alpha,
        classes_each=settings.classes_each,
    )
    return tuple(training.take(indices) for indices in parts)


def fleet_class(node: Mapping[str, Any], settings: FederationSettings, samples: int) -> FleetClass:
    """The device as a fleet's class of one: what the node says, else its class in a fleet, else the run.

    Raises LatteError naming the node's setting that is no quantity.
    """
    known = class_of(node, settings) or FleetClass(
        name="",
        device="auto",
        samples=samples,
        batch=settings.batch,
        up_bit_per_s=settings.up_bit_per_s,
        down_bit_per_s=settings.down_bit_per_s,
    )
    return replace(
        known,
        name=device_name(node, settings),
        count=1,
        device=str(node.get("device") or known.device),
        samples=samples,
        epochs=settings.epochs,
        up_bit_per_s=_quantity(node, "up", bandwidth_bit_per_s) or known.up_bit_per_s,
        down_bit_per_s=_quantity(node, "down", bandwidth_bit_per_s) or known.down_bit_per_s,
        memory_bytes=_quantity(node, "memory", size_bytes) or known.memory_bytes,
        threads=int(node.get("threads") or 0) or known.threads,
        strategy=str(node.get("strategy") or "") or known.strategy,
        optimizer=settings.optimizer,
    )


def _quantity(node: Mapping[str, Any], key: str, parse: Callable[[Any], Any]) -> Any:
    """What `parse` makes of the node's setting; None where it says nothing."""
    value = node.get(key)
    if value is None or value == "":
        return None
    try:
        return parse(value)
    except LatteError as exc:
        raise LatteError(f"node setting `{key}`: {exc.message}", hint=exc.hint) from exc


def choose_channels(
    network: Network,
    whole: Arrays,
    frequencies: Frequencies,
    sub_model: SubModel,
    settings: FederationSettings,
    *,
    round_number: int,
    device: int,
) -> Kept:
    """The channels that the device with the number `device` trains in a round (from 0) of `sub_model`.

    They follow from the settings' method, the frequency table, and the `whole` parameters.
    """
    return kept_channels(
        settings.method,
        groups(network),
        dict(sub_model.widths),
        round_number=round_number,
        device=device,
        seed=settings.seed,
        frequencies=frequencies,
        importance=channel_importance(network, whole) if settings.method is Method.IMPORTANCE else None,
    )


def train_part(
    network: Network,
    arrays: Arrays,
    channels: Kept,
    sub_model: SubModel,
    examples: Examples,
    settings: FederationSettings,
    *,
    round_number: int,
    device: int,
    go_on: GoOn = lambda steps: True,
) -> Returned:
    """What the device with the number `device` makes of `arrays` in a round (from 0).

    They are the parameters of `sub_model` with these `channels` of `network`. It trains as long as `go_on` says
    (`train_network`). Raises LatteError as training does.
    """
    from latte_cli.federated.training import train_network

    found = train_network(
        sub_model.of(network),
        arrays,
        examples,
        settings.recipe,
        seed=_seed(settings.seed, round_number, device),
        whole=network,
        go_on=go_on,
    )
    gained = Frequencies.none(groups(network)).after(
        trained_channels(network, channels, sub_model.dropped), found.examples
    )
    update = Update(kept=channels, arrays=found.arrays, examples=len(examples), dropped=sub_model.dropped)
    measured = settings.measures_steps and found.step_s > 0  # a coarse clock may see no time pass
    return Returned(
        update=update,
        frequencies=gained.examples,
        sub_model=sub_model.id,
        loss=float(found.loss),
        trained=found.examples,
        round_number=round_number,
        steps=found.steps,
        step_s=found.step_s if measured else None,
        spread_s=found.spread_s if measured else 0.0,
    )


def clock(settings: FederationSettings, priced: Round, duration_s: float) -> GoOn:
    """Whether a device takes another step of a round: until `duration_s`, where devices stop then, else always.

    A virtual device takes as many steps as its estimate says, since this machine's clock is not its own.
    """
    if settings.deadline is not Deadline.PARTIAL:
        return lambda steps: True
    if settings.fleet:
        most = steps_within(priced, duration_s)
        return lambda steps: steps < most
    return Countdown(duration_s - priced.sending_s)


class Countdown:
    """Whether another step, as long as the last one, ends within `seconds` of this object's making.

    A step lasts from one question to the next, so that what comes before the first one, such as imports, is no step.
    """

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._last_s = clock()
        self._end_s = self._last_s + seconds

    def __call__(self, steps: int) -> bool:
        now_s = self._clock()
        step_s, self._last_s = now_s - self._last_s, now_s
        return now_s + step_s <= self._end_s


def _seed(*parts: int) -> int:
    return int(np.random.SeedSequence(parts).generate_state(1)[0])


def rounds(
    node: Mapping[str, Any], settings: FederationSettings, model: bytes, sub_models: Sequence[SubModel], samples: int
) -> tuple[Round, ...]:
    """A round with each of `sub_models` on this device, by the estimator on its own profile.

    Raises LatteError where it has no profile and may not make one, and as the estimator does.
    """
    store = open_store(str(node.get("store") or "") or None, skip=_left_out)
    own = fleet_class(node, settings, samples)
    slug = resolve_profile(store, own.device, own.threads) if settings.fleet else _profile(store, node, settings, model)
    pricer = _pricer(store.full_uri, model, slug, _rests_on(store, slug))
    return tuple(pricer(each, replace(own, device=slug)) for each in sub_models)


def _left_out(error: LatteError) -> None:
    log.warning("left out: %s", printable(f"{error.message}; {error.hint}"))


@lru_cache(maxsize=64)  # chosen: as many profiles as a simulated fleet has; further ones are priced again
def _pricer(uri: str, model: bytes, slug: str, rests_on: object) -> Pricer:
    """Prices on a profile for the devices of this process, of which those with the same settings share their estimates.

    Where something that they rest on changes, it is another pricer, which reads the store again.
    """
    store = open_store(uri, skip=_left_out)
    return Pricer(lambda batch: models.network_from(model, batch=batch), partial(class_estimator, store))


def _rests_on(store: Store, slug: str) -> object:
    """What prices on the profile rest on, as it is now: the parts with its rows, and what was learned of rows."""
    folders = filter(None, (store.models_dir, shipped_models()))
    learned = sorted(path for folder in folders for path in folder.rglob("*") if path.is_file())
    return store.located_parts(slug), tuple((path, *_state(path)) for path in learned)


def _state(path: Path) -> tuple[int, ...]:
    """Tells a file from what it is after somebody wrote it; nothing where it has just gone."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return ()
    return found.st_ino, found.st_size, found.st_mtime_ns


def too_slow(rounds: Sequence[Round], duration_s: float) -> LatteError:
    """The error for a device none of whose rounds meets the duration."""
    least = min((each.high_s for each in rounds if each.high_s is not None), default=None)
    if least is None:
        return LatteError("no sub-model fits its memory", hint="smaller `widths` or a smaller `batch` need less")
    return LatteError(
        f"no sub-model finishes a round of {duration_s:.3g} s", hint=f"the shortest takes up to {least:.3g} s"
    )


def _profile(store: Store, node: Mapping[str, Any], settings: FederationSettings, model: bytes) -> str:
    """The slug of the device's profile. Where there is none, make the one that the node names, or a rough one."""
    device, threads = str(node.get("device") or "") or None, node.get("threads")
    budget_s = _quantity(node, "profile-budget", duration_s)
    calibration_s = _quantity(node, "calibration", duration_or_zero_s)
    calibration_s = CALIBRATION_S if calibration_s is None else calibration_s
    try:
        return resolve_profile(store, device, threads)
    except LatteError as exc:
        if budget_s is None and not (calibration_s and isinstance(exc, NoProfile)):
            raise
    with TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        path.write_bytes(model)
        if budget_s is None:
            return _calibrate(path, store, settings, calibration_s, device=device, threads=threads)
        widths = ",".join(map(str, settings.widths))
        _latte("profile", path, store, settings, widths=widths, budget=f"{budget_s:.6f}s", threads=threads)
    return resolve_profile(store, None, threads)


def _calibrate(
    path: Path, store: Store, settings: FederationSettings, seconds: float, *, device: str | None, threads: int | None
) -> str:
    """The slug of this machine, whose rows in `store` are those of so many seconds that tell most of the model."""
    log.info("\tthere is no profile of this machine: measuring it for %.3g s", seconds)
    options = {"measure": f"{seconds:.6f}s", "device": device, "threads": threads, "optimizer": settings.optimizer}
    output = _latte("estimate", path, store, settings, **options, format="json")
    (measured,) = json.loads(output)["measured"]
    said = "\tmeasured %d calls of `%s` in %.1f s; its intervals are wide until its own steps narrow them"
    log.info(said, measured["calls"], measured["device"], measured["seconds"])
    return str(measured["device"])


def _latte(command: str, path: Path, store: Store, settings: FederationSettings, **options: str | int | None) -> bytes:
    """What a command of LATTE prints of the model on this machine with `store`, in a separate process."""
    given = [f"--{key}={value}" for key, value in options.items() if value is not None]
    variables = {"LATTE_STORE": store.full_uri}  # others may read a command line, with its secrets
    words = (command, str(path), f"--batch-size={settings.batch}", *given)
    done = child.run_child("latte_cli.cli:main", *words, variables=variables)
    if done.code != ExitCode.DONE:
        said = " ".join(done.errors.decode(errors="replace").split())[-200:]
        message = f"latte {command} ended with code {done.code}: {said}"
        raise LatteError(message, hint="`latte profile MODEL` on this machine makes a profile")
    return done.output
