"""Tests that need an NVIDIA GPU; where torch can use none, all of them are skipped."""

import warnings
from collections.abc import Iterator

import pytest
import torch
from tally import Tally
from trying_cases import Trial

from latte_cli.backends.cuda.backend import CudaBackend
from latte_cli.backends.native import cudnn

_TALLY = pytest.StashKey[Tally]()


def _missing() -> str:
    """Why no GPU can be used here, "" where one can."""
    if torch.version.cuda is None:
        return f"torch {torch.__version__} is built without CUDA"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch tells of a driver that is missing
        return "" if torch.cuda.is_available() else "torch finds no NVIDIA GPU that it can use"


@pytest.fixture(scope="session", autouse=True)
def _gpu() -> None:
    reason = _missing()
    if reason:
        pytest.skip(reason)


@pytest.fixture(scope="session")
def library(_gpu: None) -> cudnn.Library:
    """The cuDNN that torch brings."""
    torch.cuda.init()
    return cudnn.open_library()


@pytest.fixture
def handle(library: cudnn.Library) -> int:
    """This thread's handle, on the default stream."""
    made = library.handle(0)
    library.set_stream(made, torch.cuda.default_stream().cuda_stream)
    return made


@pytest.fixture(scope="session")
def backend(_gpu: None) -> CudaBackend:
    """The first GPU."""
    return CudaBackend()


@pytest.fixture(scope="session")
def trial(_gpu: None) -> Iterator[Trial]:
    """A process that tries cases."""
    with Trial() as made:
        yield made


@pytest.fixture(scope="session")
def tally(request: pytest.FixtureRequest) -> Tally:
    """What came of the cases so far; the table is printed at the end of the run."""
    return request.config.stash.setdefault(_TALLY, Tally())


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    lines = list(config.stash[_TALLY].lines()) if _TALLY in config.stash else []
    if lines:
        terminalreporter.section("cuDNN's algorithms: layers checked, largest error")
        for line in lines:
            terminalreporter.write_line(line)
