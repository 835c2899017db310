"""The networks that `reading_accuracy.py` reads: their names, and how each is built with random weights.

The rules of choosing were written before the first run and look at no result:

- torchvision: all of classification, segmentation and video, and the backbone of each detector
- timm: of each family (a file of its registry) the name with the first word of SMALL, else the registry's first
- transformers and diffusers: those of `reading_networks.json`, in the sizes given there
- segmentation-models-pytorch: all decoders, on the encoder resnet18

Images have the first of SIDES (videos of CLIPS) that the network runs with.

    python benchmarks/reading_networks.py
"""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

SIDES = (64, 128, 224, 256, 384, 518)
CLIPS = ((8, 64), (16, 64), (16, 112), (16, 224))
SMALL = ("zepto", "atto", "femto", "pico", "nano", "xxs", "xs", "xtiny", "tiny", "ti", "t", "small", "s", "s0", "mini")
TOKENS = 16


def configured(library: str) -> dict[str, Any]:
    """By name: the class, what it is called with, and its configuration."""
    tables: dict[str, dict[str, Any]] = json.loads(Path(__file__).with_suffix(".json").read_text())
    return tables[library]


def names(_: object = None) -> list[str]:
    """All networks, those that come first in a library's own order of size or name first."""
    import segmentation_models_pytorch as smp
    import timm
    from torchvision import models

    def size(name: str) -> int:
        weights = [*models.get_model_weights(name)]
        return min((int(each.meta["num_params"]) for each in weights), default=0)

    found = [f"transformers/{name}" for name in configured("transformers")]
    kinds = {"classification": models, "segmentation": models.segmentation, "detection": models.detection}
    for kind, module in {**kinds, "video": models.video}.items():
        found += [f"torchvision-{kind}/{name}" for name in sorted(models.list_models(module=module), key=size)]
    for family in timm.list_modules():
        known = [name for name in timm.list_models(module=family) if not name.startswith("test_")]
        found += [f"timm/{min(known, key=_smallness)}"] if known else []
    found += [f"diffusers/{name}" for name in configured("diffusers")]
    return [*found, *(f"smp/{name}" for name in sorted(smp.MODEL_ARCHITECTURES_MAPPING))]


def _smallness(name: str) -> int:
    words = name.split("_")
    return next((at for at, word in enumerate(SMALL) if word in words), len(SMALL))


def build(name: str, batch: int) -> tuple[Any, tuple[Any, ...], dict[str, Any]]:
    """A network with random weights, and what it is called with."""
    import torch

    torch.manual_seed(0)
    library, _, own = name.partition("/")
    if library == "transformers":
        return _transformer(own, batch)
    if library == "diffusers":
        return _diffusion(own, batch)
    module = _MADE[library](own)
    if library == "torchvision-video":
        shapes = [(batch, 3, frames, side, side) for frames, side in CLIPS]
    else:
        shapes = [(batch, 3, side, side) for side in SIDES]
    return module, (_first_accepted(module, shapes),), {}


def _torchvision(name: str) -> Any:
    from torchvision import models

    return models.get_model(name, weights=None)


def _with_backbone(name: str) -> Any:
    from torchvision import models

    return models.get_model(name, weights=None, weights_backbone=None)


def _timm(name: str) -> Any:
    import timm

    return timm.create_model(name, pretrained=False)


def _smp(name: str) -> Any:
    import segmentation_models_pytorch as smp

    encoder = "tu-vit_tiny_patch16_224" if name == "dpt" else "resnet18"  # DPT takes no other kind
    return smp.create_model(name, encoder, encoder_weights=None, classes=5)


_MADE: Mapping[str, Callable[[str], Any]] = {
    "torchvision-classification": _torchvision,
    "torchvision-video": _torchvision,
    "torchvision-segmentation": _with_backbone,
    "torchvision-detection": lambda name: _with_backbone(name).backbone,
    "timm": _timm,
    "smp": _smp,
}


def _first_accepted(module: Any, shapes: Sequence[tuple[int, ...]]) -> Any:
    import torch

    module.train()
    for shape in shapes[:-1]:
        inputs = torch.randn(shape)
        try:
            with torch.no_grad():
                module(inputs)
        except (RuntimeError, AssertionError, ValueError, IndexError, KeyError, TypeError):
            continue
        return inputs
    return torch.randn(shapes[-1])


def _transformer(name: str, batch: int) -> tuple[Any, tuple[Any, ...], dict[str, Any]]:
    import torch
    import transformers

    given = configured("transformers")[name]
    found = getattr(transformers, given["class"])
    module = found(found.config_class(**given["sizes"]))
    tokens, image = torch.randint(2, 99, (batch, TOKENS)), torch.randn(batch, 3, 64, 64)
    return (
        module,
        (),
        {
            "text": lambda: {"input_ids": tokens},
            "pair": lambda: {"input_ids": tokens, "decoder_input_ids": tokens},
            "image": lambda: {"pixel_values": image},
            "both": lambda: {"input_ids": tokens, "pixel_values": image},
            "wave": lambda: {"input_values": torch.randn(batch, 1000)},
            "sound": lambda: {"input_features": torch.randn(batch, 16, 64), "decoder_input_ids": tokens},
        }[given["inputs"]](),
    )


def _diffusion(name: str, batch: int) -> tuple[Any, tuple[Any, ...], dict[str, Any]]:
    import diffusers
    import torch

    given = configured("diffusers")[name]
    module, steps = getattr(diffusers, given["class"])(**given["sizes"]), torch.arange(batch)
    image = torch.randn(batch, 3, 32, 32)
    latent = torch.randn(batch, 4, 16, 16)
    arguments: dict[str, Any] = {
        "unet-2d": lambda: (image, steps),
        "unet-2d-condition": lambda: (latent, steps, torch.randn(batch, 7, 32)),
        "autoencoder-kl": lambda: (image,),
        "dit": lambda: (latent, steps, torch.arange(batch)),
        "prior": lambda: (torch.randn(batch, 16), steps, torch.randn(batch, 16), torch.randn(batch, 7, 16)),
    }
    return module, arguments[name](), {}


if __name__ == "__main__":
    print(*names(), sep="\n")
