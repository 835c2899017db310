"""Tuning: the ways in which a model may be run on this machine, tried on real steps."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from latte_cli.backends import OPENERS, opener_of
from latte_cli.backends.torch.training import RunRequest
from latte_cli.devices import spec_named
from latte_cli.errors import LatteError, unknown
from latte_cli.estimator import Limits
from latte_cli.network import Network
from latte_cli.precisions import Layout, Precision
from latte_cli.profiles import resolve_profile
from latte_cli.runtime.choices import Choices, Key
from latte_cli.runtime.convolution import wrapper_s
from latte_cli.runtime.deciding import Wish, unsafe, ways_to_run
from latte_cli.runtime.optimizing import own_key
from latte_cli.runtime.racing import Race, run_race, winning_choices
from latte_cli.store import Store

TUNABLE = tuple(one for one in Precision if one.arithmetic.plain)
"""The arithmetic that a module itself can have."""


@dataclass(frozen=True, kw_only=True)
class Tuned:
    """The `ways` that were tried, PyTorch's own first, how they did, and the `best` of them."""

    ways: tuple[Choices, ...]
    race: Race
    best: Choices


def key_here(device: str, precision: Precision, threads: int | None, limits: Limits) -> Key:
    """The key of choices made on `device` (`cpu` or `cuda:N`) of this machine, with `threads` of a CPU from now on.

    Raises LatteError for a device that is not there.
    """
    spec = spec_named(device)
    if spec is None or spec.kind is None:
        raise unknown("device", device, OPENERS)
    if not opener_of(spec.kind).usable():
        raise LatteError(f"torch finds no {spec.kind.title} here", hint="`latte doctor` says why")
    if spec.kind.threaded and threads:
        torch.set_num_threads(threads)
    own = own_key(torch.device(spec.kind.torch_type, spec.index), precision)
    return replace(own, workspace_limit_bytes=limits.workspace_bytes, memory_limit_bytes=limits.memory_bytes)


def tune_network(
    store: Store,
    model: Path,
    network: Network,
    *,
    key: Key,
    device: str,
    strategy: str = "latte",
    optimizer: str = "sgd",
    sizes: dict[str, int] | None = None,
    batch_axis: int | None = None,
    seconds: float = 5.0,
    warn: Callable[[str], None] = lambda text: None,
) -> Tuned:
    """Try the ways of running `network`, which `model` holds, on real steps of `seconds` each.

    Raises LatteError where a step does not run.
    """
    place = device if key.kind.indexed else key.kind.torch_type
    wish = Wish(
        strategy=strategy,
        precision=key.precision,
        threads=key.threads or None,
        limits=Limits(workspace_bytes=key.workspace_limit_bytes, memory_bytes=key.memory_limit_bytes),
        wrapper_s=wrapper_s(place),
        optimizer=optimizer,
    )
    ways = [replace(each, key=key) for each in _ways(store, device, network, wish, key, warn)]
    run = RunRequest(
        model=str(model),
        batch_size=network.batch_size,
        sizes=sizes or {},
        batch_axis=batch_axis,
        device=place,
        threads=key.threads,
        precision=key.precision,
        optimizer=optimizer,
        seconds=seconds,
    )
    race = run_race(run, ways)
    return Tuned(ways=tuple(ways), race=race, best=winning_choices(race, ways))


def _ways(
    store: Store, device: str, network: Network, wish: Wish, key: Key, warn: Callable[[str], None]
) -> list[Choices]:
    """What there is to try: by the profile of this machine, or layouts alone where there is none."""
    try:
        return ways_to_run(store, resolve_profile(store, device, wish.threads), network, wish)
    except LatteError as exc:
        warn(f"{exc.message}: only layouts are tried" + (f" ({exc.hint})" if exc.hint else ""))
    reasons = ("no profile says which algorithms to try", unsafe(network, key.kind))
    start = Choices(key=key, strategy=wish.strategy, reasons=tuple(reason for reason in reasons if reason))
    return [start] if reasons[1] else [start, replace(start, layout=Layout.CHANNELS_LAST)]
