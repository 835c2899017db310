"""What all tests share: separate directories, LeNet as a file, torch with one thread."""

import os
import sys
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import forking
import pytest
from hypothesis import HealthCheck, settings

if "PYTEST_XDIST_WORKER" in os.environ:  # the tests beside this one have the other cores
    os.environ["OMP_NUM_THREADS"] = "1"

# Machines that run tests are busy: an example that takes long is no failure.
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")


SLOWEST = ("federated_flower", "bad_corpus", "package", "docs", "readme", "streams", "child")
"""Files that take a worker longest, of which the last to begin would leave the other workers waiting."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    names = [f"test_{name}.py" for name in SLOWEST]
    items.sort(key=lambda item: names.index(item.path.name) if item.path.name in names else len(names))


@pytest.fixture(scope="session", autouse=True)
def _zygote() -> Iterator[None]:
    yield
    if forking.zygote.cache_info().currsize:
        forking.zygote().end()


@pytest.fixture(scope="session")
def _homes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder for each test; pytest's own looks through all that it has made before."""
    root = tmp_path_factory.mktemp("homes")
    return (root / str(number) for number in count())


@pytest.fixture(autouse=True)
def _own_directories(_homes: Iterator[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    home = next(_homes)
    home.mkdir()
    monkeypatch.setenv("LATTE_STORE", str(home / "store"))
    for name in ("XDG_DATA_HOME", "XDG_STATE_HOME", "XDG_CACHE_HOME"):
        monkeypatch.setenv(name, str(home / name.lower()))


@pytest.fixture(autouse=True)
def _own_threads() -> Iterator[None]:
    """A test that computes on all cores leaves those after it one thread, where other tests have the other cores."""
    yield
    if "PYTEST_XDIST_WORKER" in os.environ and "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """LeNet as a file, which no test changes."""
    from latte_cli.network.zoo import export

    path = tmp_path_factory.mktemp("models") / "lenet.onnx"
    path.write_bytes(export("lenet"))
    return path


@pytest.fixture
def flower_log(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """What Flower logs is among `caplog.records`; its logger passes nothing on."""
    import logging

    logging.getLogger("flwr").addHandler(caplog.handler)
    yield
    logging.getLogger("flwr").removeHandler(caplog.handler)


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Torch computes with one thread, so that its sums are the same on every machine."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
