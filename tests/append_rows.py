"""Numbered rows, and a process that appends some of them to a store: `append_rows.py STORE FIRST LAST [SEAL_EVERY_S]`.

It prints a row's number once its `append` has returned.
"""

import sys

from latte_cli.algorithms import FRAMEWORK_DEFAULT
from latte_cli.devices import CPU, Device
from latte_cli.errors import LatteError
from latte_cli.layers import Convolution, Phase
from latte_cli.measure import Measurement
from latte_cli.store import Store, open_store
from latte_cli.tasks import Settings, Task

DEVICE = Device(slug="numbered", kind=CPU, name="a device of numbered rows", libraries=(("torch", "2.13.0"),))


def measurement(number: int, **values: object) -> Measurement:
    """The row that is told from all others by `number`."""
    layer = Convolution(batch=1, in_channels=1 + number % 50, out_channels=1 + number, input=(8, 8), kernel=(3, 3))
    task = Task(layer=layer, phase=Phase.FORWARD, algorithm=FRAMEWORK_DEFAULT, settings=Settings(threads=2))
    given = {"device_times_s": (0.25, 0.5), "host_times_s": (0.5, 0.5), "measured_at": float(number)} | values
    return Measurement(task=task, device=DEVICE, **given)  # type: ignore[arg-type]


def identities(store: Store) -> set[tuple[str, int]]:
    """The (task id, pass) of every row in `store`."""
    table = store.table(columns=("task_id", "pass"))
    return set(zip(table["task_id"].to_pylist(), table["pass"].to_pylist(), strict=True))


def main(store: str, first: str, last: str, seal_every_s: str = "0.01") -> None:
    with open_store(store, shipped=False).writer(DEVICE, seal_every_s=float(seal_every_s)) as writer:
        for number in range(int(first), int(last)):
            writer.append(measurement(number))
            sys.stdout.write(f"{number}\n")
            sys.stdout.flush()


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except LatteError as error:
        sys.exit(f"{error.message}\n{error.hint}")
