"""A process that sweeps a recorded GPU into a store: `sweep_recorded.py STORE`; it prints a line once a row is kept."""

import sys

from recorded_gpu import opener

from latte_cli.layers import Convolution, Layer, Phase
from latte_cli.store import open_store
from latte_cli.sweep import Budget, Sweep, Wanted
from latte_cli.worker import Opening, Worker

ROUNDS = Budget(rounds=3)


def convolution(channels: int) -> Convolution:
    return Convolution(
        batch=32, in_channels=64, out_channels=channels, input=(56, 56), kernel=(3, 3), pad_before=(1, 1),
        pad_after=(1, 1),
    )  # fmt: skip


LAYERS: list[Layer] = [convolution(8 * number) for number in range(1, 7)]


def main(uri: str) -> None:
    store = open_store(uri, shipped=False)
    with Worker(Opening(device="cuda", open=opener())) as worker, store.writer(worker.device) as writer:
        earlier = store.measurements(worker.device.slug) if store.devices() else []
        wanted = [Wanted(layer=layer) for layer in LAYERS]
        sweep = Sweep(worker, wanted, phases=tuple(Phase), earlier=earlier)
        sweep.run(writer, ROUNDS, progress=lambda done, label: print(done, flush=True))  # noqa: T201


if __name__ == "__main__":
    main(*sys.argv[1:])
