"""Files that come with a plan: the devices of a large fleet, what each is given, and the sub-models as model files."""

import csv
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from latte_cli import files
from latte_cli.allocator.channels import Frequencies, windows
from latte_cli.allocator.many import ABLE_ABOVE_0, OWN, Assignment, Devices
from latte_cli.allocator.plan_file import MANY, PlanFile, left_out_widths
from latte_cli.errors import LatteError
from latte_cli.fleet import FleetClass
from latte_cli.network import Network
from latte_cli.network.parts import Cutter, write_arrays
from latte_cli.printable import csv_cell, printable
from latte_cli.store.columns import Words, column_of_names, read_columns, write_columns

_MOST_PARTS = 1000  # chosen: a catalogue has tens; more is a mistake that would fill a disk


def read_devices(path: Path, fleet: Sequence[FleetClass]) -> tuple[Words, Devices]:
    """The names of the devices in a Parquet or CSV file, and their classes and numbers.

    Its columns are `device` and `class`, and whatever is a device's own: `samples`, `up_bit_per_s`, `down_bit_per_s`,
    `overhead_s`, `memory_bytes`. A device may have 0 samples, or 0 bits per second. Raises LatteError for what cannot
    be read, for names that two devices have, for classes that the fleet has not and for numbers that cannot be.
    """
    columns = read_columns(path, ("device", "class"), OWN)
    for name in ("device", "class"):
        if name not in columns:
            raise LatteError(f"`{path}`: the column `{name}` is missing", hint="a device has a name and a class")
    _check_names(path, columns["device"])
    indices = {each.name: index for index, each in enumerate(fleet)}
    kinds = columns["class"].distinct
    for kind in kinds:
        if kind not in indices:
            hint = f"the fleet has {', '.join(list(indices)[:5])}"
            raise LatteError(f"`{path}`: the class `{kind[:40]}` is not in the fleet", hint=hint)
    own = {name: columns[name] for name in OWN if name in columns}
    for name, values in own.items():
        least = 0.0 if name == "overhead_s" else 1.0
        usable = (values >= least) & np.isfinite(values) | ((values == 0) & (name in ABLE_ABOVE_0))
        bad = np.flatnonzero(~np.isnan(values) & ~usable)
        if len(bad):
            raise LatteError(
                f"`{path}`: row {bad[0] + 1}: `{name}` cannot be {values[bad[0]]:g}", hint=f"it is {least:g} or more"
            )
    classes = np.array([indices[kind] for kind in kinds], dtype=np.int64)[columns["class"].rows]
    return columns["device"], Devices(classes=classes, own=own)


def _check_names(path: Path, names: Words) -> None:
    row = names.first_repeated
    if row is not None:
        message = f"`{path}`: row {row + 1}: `{printable(names[row])[:40]}` is the name of another device too"
        raise LatteError(message, hint="give each its own name")


def write_assignment(
    path: Path,
    fleet: Sequence[FleetClass],
    names: Words,
    devices: Devices,
    found: Assignment,
    network: Network | None = None,
) -> None:
    """Write what each device is given as Parquet or CSV, a row a device in the order of `devices`.

    With the `network`, `window` is the start of its window in each channel group, laid end to end over the fleet so
    that all channels are trained by as many devices; it goes on at 0 where it passes the end.
    """
    columns: dict[str, Any] = {
        "device": names,
        "class": column_of_names([each.name for each in fleet], devices.classes),
        "sub_model": column_of_names([each.id for each in found.sub_models], found.chosen),
        "round_s": found.round_s,
        "low_s": found.low_s,
        "high_s": found.high_s,
        "memory_bytes": found.memory_bytes,
        "least_s": found.least_s,
    }
    if network is not None and found.sub_models[0].widths:
        columns["window"] = _starts(fleet, devices, found, network)
    write_columns(path, columns)


def _starts(fleet: Sequence[FleetClass], devices: Devices, found: Assignment, network: Network) -> Any:
    from latte_cli.network.channels import channel_groups

    groups = channel_groups(network)
    # the last width, 0, is that of devices without a sub-model
    by_sub_model = [
        dict(each.widths) | dict.fromkeys(left_out_widths(network, groups, each), 0) for each in found.sub_models
    ]
    samples = np.array([float(each.samples * each.epochs) for each in fleet])[devices.classes]
    starts = np.empty((len(found.chosen), len(groups)), np.int32)
    for at, group in enumerate(groups):  # one at a time: a column of each for a million devices is large
        wide = np.array([*(each.get(group.name, group.channels) for each in by_sub_model), 0])[found.chosen]
        laid = windows([group], {group.name: wide}, samples, Frequencies.none([group]))
        starts[:, at] = laid.starts[group.name]
    return starts


def materialise(file: PlanFile, model: Path, network: Network, folder: Path, done: Callable[[int], None]) -> int:
    """Write every distinct sub-model of the plan into `folder`, as ONNX and its weights as safetensors; their number.

    `devices.csv` says which device trains which. Raises LatteError where a sub-model cannot be cut out of the file,
    for more than a thousand of them, and for more devices than a plan lists.
    """
    if not file.listed:
        raise LatteError(
            f"the channels of more than {MANY:,} devices are not listed, so there is nothing to write",
            hint="leave `--materialise` out",
        )
    cutter = Cutter(model, network)
    by_class = {each.fleet_class.name: each.sub_model for each in file.plan.devices}
    names: dict[tuple[Any, ...], str] = {}
    lines = []
    files.make_folder(folder)
    for trainee in file.trainees:
        sub_model = by_class[trainee.class_name]
        if sub_model is None:
            continue
        key = (sub_model.id, *((name, channels.tobytes()) for name, channels in trainee.kept.items()))
        if key not in names:
            again = sum(other[0] == sub_model.id for other in names)
            names[key] = f"{sub_model.id}-{again + 1}" if again else sub_model.id
            if len(names) > _MOST_PARTS:
                raise LatteError(
                    f"there are more than {_MOST_PARTS:,} different sub-models to write",
                    hint="`--channels nested` gives all devices with the same widths the same channels",
                )
            part = cutter.part({name: list(map(int, each)) for name, each in trainee.kept.items()}, sub_model.dropped)
            files.write_file(folder / f"{names[key]}.onnx", part.onnx)
            if part.arrays:
                write_arrays(folder / f"{names[key]}.safetensors", part.arrays)
            done(len(names))
        cells = map(csv_cell, (trainee.class_name, sub_model.id, f"{names[key]}.onnx"))
        lines.append((trainee.number, *cells))
    with files.text_replacement(folder / "devices.csv") as out:
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(("number", "class", "sub_model", "file"))
        writer.writerows(lines)
    return len(names)
