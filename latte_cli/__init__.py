"""LATTE: how long a training step takes on a device, which algorithms to run, which sub-model to train."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("latte-cli")
except PackageNotFoundError:
    __version__ = "0+unknown"
