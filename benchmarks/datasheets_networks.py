"""Reads the networks of the public step times through LATTE, once: a file of their calls for `datasheets.py`.

pytorch-gpu-benchmark times networks of torchvision; cnn-benchmarks those of Caffe's and Torch's zoos, which are built
here. Needs torchvision.

    python benchmarks/datasheets_networks.py --output build/networks.json
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from torch import Tensor, cat, nn, zeros

from latte_cli.estimator import Step, step_calls
from latte_cli.layers import layer_text
from latte_cli.network import load

BATCH, CNN_BATCH, PIXELS = 12, 16, 224  # of the two data sets

TORCHVISION = (
    *("densenet121", "densenet161", "densenet169", "densenet201"),
    *("mnasnet0_5", "mnasnet0_75", "mnasnet1_0", "mnasnet1_3", "mobilenet_v2"),
    *("resnet18", "resnet34", "resnet50", "resnet101", "resnet152"),
    *("resnext50_32x4d", "resnext101_32x8d", "wide_resnet50_2", "wide_resnet101_2"),
    *("shufflenet_v2_x0_5", "shufflenet_v2_x1_0", "shufflenet_v2_x1_5", "shufflenet_v2_x2_0"),
    *("squeezenet1_0", "squeezenet1_1"),
    *("vgg11", "vgg11_bn", "vgg13", "vgg13_bn", "vgg16", "vgg16_bn", "vgg19", "vgg19_bn"),
)
RESNET_200 = [3, 24, 36, 3]


def alexnet() -> nn.Module:
    """Caffe's, with two groups."""
    return nn.Sequential(
        *(nn.Conv2d(3, 96, 11, 4), nn.ReLU(True), nn.LocalResponseNorm(5), nn.MaxPool2d(3, 2)),
        *(nn.Conv2d(96, 256, 5, padding=2, groups=2), nn.ReLU(True), nn.LocalResponseNorm(5), nn.MaxPool2d(3, 2)),
        *(nn.Conv2d(256, 384, 3, padding=1), nn.ReLU(True), nn.Conv2d(384, 384, 3, padding=1, groups=2), nn.ReLU(True)),
        *(nn.Conv2d(384, 256, 3, padding=1, groups=2), nn.ReLU(True), nn.MaxPool2d(3, 2), nn.Flatten()),
        *(nn.Linear(6400, 4096), nn.ReLU(True), nn.Dropout(), nn.Linear(4096, 4096), nn.ReLU(True), nn.Dropout()),
        nn.Linear(4096, 1000),
    )


class Inception(nn.Module):
    """A module of GoogLeNet: four branches side by side."""

    def __init__(self, channels: int, *widths: int) -> None:
        super().__init__()
        one, three_in, three, five_in, five, pooled = widths
        self.branches = nn.ModuleList(
            [
                nn.Sequential(nn.Conv2d(channels, one, 1), nn.ReLU(True)),
                nn.Sequential(
                    *(nn.Conv2d(channels, three_in, 1), nn.ReLU(True)),
                    *(nn.Conv2d(three_in, three, 3, padding=1), nn.ReLU(True)),
                ),
                nn.Sequential(
                    *(nn.Conv2d(channels, five_in, 1), nn.ReLU(True)),
                    *(nn.Conv2d(five_in, five, 5, padding=2), nn.ReLU(True)),
                ),
                nn.Sequential(nn.MaxPool2d(3, 1, 1), nn.Conv2d(channels, pooled, 1), nn.ReLU(True)),
            ]
        )

    def forward(self, x: Tensor) -> Tensor:
        return cat([branch(x) for branch in self.branches], 1)


def googlenet() -> nn.Module:
    """The first, without its auxiliary outputs."""

    def halved() -> nn.Module:
        return nn.MaxPool2d(3, 2, ceil_mode=True)

    return nn.Sequential(
        *(nn.Conv2d(3, 64, 7, 2, 3), nn.ReLU(True), halved(), nn.LocalResponseNorm(5)),
        *(nn.Conv2d(64, 64, 1), nn.ReLU(True), nn.Conv2d(64, 192, 3, padding=1), nn.ReLU(True)),
        *(nn.LocalResponseNorm(5), halved()),
        *(Inception(192, 64, 96, 128, 16, 32, 32), Inception(256, 128, 128, 192, 32, 96, 64), halved()),
        *(Inception(480, 192, 96, 208, 16, 48, 64), Inception(512, 160, 112, 224, 24, 64, 64)),
        *(Inception(512, 128, 128, 256, 24, 64, 64), Inception(512, 112, 144, 288, 32, 64, 64)),
        *(Inception(528, 256, 160, 320, 32, 128, 128), halved()),
        *(Inception(832, 256, 160, 320, 32, 128, 128), Inception(832, 384, 192, 384, 48, 128, 128)),
        *(nn.AvgPool2d(7), nn.Flatten(), nn.Dropout(0.4), nn.Linear(1024, 1000)),
    )


def entry(module: nn.Module, batch: int, loss: str) -> dict[str, Any]:
    """The calls of a step without its update, and what there is to add gradients to."""
    network = load(module.train(), zeros(batch, 3, PIXELS, PIXELS))
    calls = step_calls(network, Step(optimizer="none", loss=loss), fused=True)
    return {
        "calls": [[layer_text(work.layer), work.phase, work.count] for work in calls if not work.layer.free],
        "parameters": network.parameters,
        "tensors": len(network.parameter_sizes),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("build/networks.json"))
    given = parser.parse_args()
    try:
        from torchvision import models
    except ImportError:
        sys.exit("skipped: torchvision is not installed")
    found = {name: entry(models.get_model(name, weights=None), BATCH, "cross-entropy") for name in TORCHVISION}
    theirs = {"alexnet": alexnet(), "googlenet-v1": googlenet()}
    theirs |= {f"resnet-{depth}": models.get_model(f"resnet{depth}") for depth in (18, 34, 50, 101, 152)}
    theirs |= {f"vgg{depth}": models.get_model(f"vgg{depth}") for depth in (16, 19)}
    theirs["resnet-200"] = models.ResNet(models.resnet.Bottleneck, RESNET_200)
    found |= {f"cnn/{name}": entry(module, CNN_BATCH, "none") for name, module in theirs.items()}
    given.output.parent.mkdir(parents=True, exist_ok=True)
    given.output.write_text(json.dumps(found))
    print(f"wrote {len(found)} networks into {given.output}")


if __name__ == "__main__":
    main()
