"""`latte doctor`: what this machine has, what is missing, what to type."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import typer

from latte_cli.cli import console
from latte_cli.cli.options import FormatOption
from latte_cli.cli.request import Request, check_apart, check_needed, from_options
from latte_cli.errors import LatteError, unknown
from latte_cli.report import Format

_APART = (("--device-json", ("--device", "--format"), "it writes the file alone, of the first GPU"),)
_NEEDS = (("--force", "--device-json"),)


@dataclass(frozen=True, kw_only=True)
class DoctorRequest(Request):
    """What `latte doctor` is asked."""

    device: Annotated[
        str | None,
        typer.Option(
            metavar="cpu|cuda", help="Look at this device only. Ends with code 1 if it cannot be measured here."
        ),
    ] = None
    device_json: Annotated[
        Path | None,
        typer.Option(
            "--device-json",
            metavar="FILE",
            help="Write what cuDNN tells of this machine's first GPU into this JSON file, for `latte explain "
            "--for-device` elsewhere.",
        ),
    ] = None
    force: Annotated[bool, typer.Option("--force", help="Overwrite the file.")] = False
    form: FormatOption = Format.TABLE


@from_options
def doctor(request: DoctorRequest) -> None:
    """Say what this machine can measure, and what it lacks.

    Each finding says what to type about it. Libraries that may crash are tried in separate processes. The exit code
    is 0 unless the device, by default the CPU, cannot be measured here.
    """
    check_apart(request.given, _APART)
    check_needed(request.given, _NEEDS)
    if request.device_json is None:
        _examine(request.device, request.form)
    else:
        _describe_gpu(request.device_json, force=request.force)


def _describe_gpu(file: Path, *, force: bool) -> None:
    from latte_cli.backends.cuda import deviceless

    console.note(f"wrote `{file}`, {deviceless.write_properties(file, force=force)}")
    console.note(f"next: `latte explain MODEL --for-device {console.shell_word(file)}` on any machine with cuDNN")


def _examine(device: str | None, form: Format) -> None:
    """Write what there is of a device, or of all; raises LatteError where it, or else the CPU, cannot be measured."""
    from latte_cli.doctor import all_findings, device_choices, first_missing, is_usable, looks_for
    from latte_cli.report.doctors import write_findings

    if device is not None and device not in device_choices():
        raise unknown("device", device, device_choices())
    with console.progress("looking", len(looks_for(device or ""))) as bar:
        found = all_findings(device or "", advance=bar.advance)
    found = tuple(replace(each, hint=console.advice(each.hint)) for each in found)
    can = {name: is_usable(found, name) for name in ([device] if device else device_choices())}
    write_findings(found, can, form)
    lacking = first_missing(found, device or device_choices()[0])
    if lacking:
        message = f"`{device or device_choices()[0]}` cannot be measured here: {lacking.subject}: {lacking.text}"
        raise LatteError(message, hint=lacking.hint or None)
    best = [name for name, measurable in can.items() if measurable][-1]
    console.note(f"next: `latte profile --device {best} --budget 2m`")
