"""Which data sheet a device has by the name that a driver or a kernel tells."""

import pytest

from latte_cli.datasheets.matching import matching_sheet
from latte_cli.devices import CPU, CUDA, ROCM, Device, Kind


@pytest.mark.parametrize(
    ("name", "kind", "slug"),
    [
        ("NVIDIA H200", CUDA, "nvidia-h200"),
        ("NVIDIA A100-SXM4-40GB", CUDA, "nvidia-a100-sxm4-40gb"),
        ("NVIDIA H100 80GB HBM3", CUDA, "nvidia-h100-80gb-hbm3"),
        ("Tesla V100-SXM2-16GB", CUDA, "nvidia-tesla-v100-sxm2-16gb"),
        ("GeForce RTX 2080 Ti", CUDA, "nvidia-geforce-rtx-2080-ti"),
        ("NVIDIA GeForce RTX 2080", CUDA, "nvidia-geforce-rtx-2080"),
        ("AMD Instinct MI300X", ROCM, "amd-instinct-mi300x"),
        ("AMD EPYC 7763 64-Core", CPU, "amd-epyc-7763"),
        ("Intel Xeon E5-2630 v3", CPU, "intel-xeon-e5-2630-v3"),
        ("Raspberry Pi 4 Model B Rev 1.4", CPU, "raspberry-pi-4"),
        ("AMD EPYC (family 25 model 1)", CPU, "amd-epyc-7763"),
        ("AMD EPYC (family 26 model 2)", CPU, "amd-epyc-9755"),
        ("Intel Xeon (family 6 model 143)", CPU, "intel-xeon-platinum-8480"),
    ],
)
def test_a_name_has_its_sheet(name: str, kind: Kind, slug: str) -> None:
    found = matching_sheet(Device(slug="any", kind=kind, name=name))
    assert found
    assert found.slug == slug


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("made up", CPU),
        ("", CPU),
        ("", CUDA),
        ("A100", CUDA),  # four sheets have the word, and none is it
        ("NVIDIA H200 NVL", CUDA),
        ("NVIDIA H200", CPU),
        ("AMD Ryzen 7 5800X", CPU),
        ("AMD EPYC (family 99 model 1)", CPU),
        ("Intel EPYC (family 25 model 1)", CPU),
    ],
)
def test_other_names_have_none(name: str, kind: Kind) -> None:
    assert matching_sheet(Device(slug="nvidia-h200", kind=kind, name=name)) is None
