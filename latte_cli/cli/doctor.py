"""`latte doctor`: what this machine has, what is missing, what to type."""

from pathlib import Path
from typing import Annotated

import typer

from latte_cli.cli import console
from latte_cli.cli.options import FormatOption
from latte_cli.errors import LatteError, unknown
from latte_cli.report import Format


def doctor(
    device: Annotated[
        str | None,
        typer.Option(metavar="cpu|cuda", help="Look at this device only; exit 1 if it cannot be measured here."),
    ] = None,
    device_json: Annotated[
        Path | None,
        typer.Option(
            "--device-json",
            metavar="FILE",
            help="Write what cuDNN tells of this machine's first GPU, for `latte explain --for-device` elsewhere.",
        ),
    ] = None,
    output_format: FormatOption = Format.TABLE,
) -> None:
    """Say what this machine can measure, and what it lacks.

    Each finding says what to type about it. Libraries that may crash are tried in processes of their own. The exit code
    is 0 unless the device, by default the CPU, cannot be measured here.
    """
    if device_json is not None:
        from latte_cli.backends.cuda import deviceless

        console.note(f"wrote `{device_json}`, {deviceless.write(device_json)}")
        console.note(f"next: `latte explain MODEL --for-device {device_json}` on any machine with cuDNN")
        return
    from latte_cli.doctor import devices, findings, looks_for, missing, usable
    from latte_cli.report.doctors import write_findings

    if device is not None and device not in devices():
        raise unknown("device", device, devices())
    with console.progress("looking", len(looks_for(device or ""))) as bar:
        found = findings(device or "", advance=bar.advance)
    can = {name: usable(found, name) for name in ([device] if device else devices())}
    write_findings(found, can, output_format)
    lacking = missing(found, device or devices()[0])
    if lacking:
        message = f"`{device or devices()[0]}` cannot be measured here: {lacking.subject}: {lacking.text}"
        raise LatteError(message, hint=lacking.hint or None)
    best = [name for name, measurable in can.items() if measurable][-1]
    console.note(f"next: `latte profile --device {best} --budget 2m`")
