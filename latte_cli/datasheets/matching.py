"""Matching: the data sheet of a device that is known by its name, as a driver or a kernel tells it."""

import re

from latte_cli.datasheets import Sheet, sheets
from latte_cli.devices import Device

_GENERATIONS = {
    ("amd", 23, 49): "zen2",
    ("amd", 25, 1): "zen3",
    ("amd", 25, 17): "zen4",
    ("amd", 26, 2): "zen5",
    ("intel", 6, 63): "haswell",
    ("intel", 6, 79): "broadwell",
    ("intel", 6, 85): "skylake",
    ("intel", 6, 106): "ice-lake",
    ("intel", 6, 143): "sapphire-rapids",
}
"""The generation of servers' CPUs by vendor, family and model (Linux, arch/x86/include/asm/intel-family.h; AMD's
processor programming references): what virtual machines tell where they hide the name. Cascade Lake is a Skylake."""

_FAMILY = re.compile(r"family ([0-9]+) model ([0-9]+)")


def matching_sheet(device: Device) -> Sheet | None:
    """The data sheet of a profiled device, by its name and kind; None where no sheet or more than one has it.

    `Tesla T4` is `nvidia-tesla-t4`, and `AMD EPYC 7763 64-Core` is `amd-epyc-7763`. A CPU whose name tells its family
    alone, `AMD EPYC (family 25 model 1)`, has the sheet of its generation.
    """
    words = re.sub(r"[^a-z0-9]+", "-", device.name.lower()).strip("-")
    alike = [sheet for sheet in sheets() if sheet.kind == device.kind]
    if device.kind.threaded:
        found = [sheet for sheet in alike if f"-{sheet.slug}-" in f"-{words}-"] or _of_generation(device.name, alike)
    else:
        found = [sheet for sheet in alike if words in (sheet.slug, sheet.slug.partition("-")[2])]
    return found[0] if len(found) == 1 else None


def _of_generation(name: str, alike: list[Sheet]) -> list[Sheet]:
    """The first sheet of the generation of a CPU, whose cores are those of all others."""
    vendor, family = name.lower().partition(" ")[0], _FAMILY.search(name)
    generation = _GENERATIONS.get((vendor, int(family[1]), int(family[2]))) if family else None
    return [sheet for sheet in alike if sheet.generation == generation][:1]
