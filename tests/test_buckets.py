"""Gradient buckets, compared with those that torch makes in two real processes."""

import json
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
from gradient_buckets import MODULES, example
from hypothesis import given
from hypothesis import strategies as st

from latte_cli import load
from latte_cli.estimator.buckets import CAP_BYTES, FIRST_BYTES, gradient_buckets, gradient_order
from latte_cli.network import Network
from latte_cli.network.graph import JOINED

PROCESSES = 2


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[list[str]]]:
    """The names of the parameters in each bucket, by module, of two processes that trained together."""
    meeting = tmp_path_factory.mktemp("group") / "meeting"
    script = str(Path(__file__).with_name("gradient_buckets.py"))
    running = [
        subprocess.Popen(
            [sys.executable, script, str(rank), str(PROCESSES), str(meeting), *MODULES], stdout=subprocess.PIPE
        )
        for rank in range(PROCESSES)
    ]
    outputs = [process.communicate(timeout=300)[0] for process in running]
    assert [process.returncode for process in running] == [0] * PROCESSES
    found: dict[str, list[list[str]]] = json.loads(outputs[0])
    return found


@cache
def network(name: str) -> Network:
    make, kind, _ = MODULES[name]
    return load(make(), example(kind))


@pytest.mark.parametrize("name", MODULES)
def test_the_buckets_are_those_that_torch_makes(name: str, real: dict[str, list[list[str]]]) -> None:
    cap_mb = MODULES[name][2]
    caps = {} if cap_mb is None else {"first_bytes": cap_mb * 2**20, "cap_bytes": cap_mb * 2**20}
    assert [list(bucket.parameters) for bucket in gradient_buckets(network(name), 4, **caps)] == real[name]


def test_several_modules_fill_several_buckets(real: dict[str, list[list[str]]]) -> None:
    assert sum(len(buckets) > 2 for buckets in real.values()) >= 3


@pytest.mark.parametrize("name", MODULES)
def test_each_trained_parameter_is_in_one_bucket(name: str) -> None:
    read = network(name)
    names = [one for bucket in gradient_buckets(read, 4) for one in bucket.parameters]
    assert sorted(names) == sorted(part for name in read.trained_sizes for part in name.split(JOINED))
    assert [one.name for one in gradient_order(read)] == names


@given(st.sampled_from(sorted(MODULES)), st.sampled_from((2, 4)), st.integers(1, 2**22), st.integers(1, 2**24))
def test_a_bucket_is_closed_by_the_gradient_that_fills_it(name: str, each: int, first: int, cap: int) -> None:
    read = network(name)
    sizes = {one.name: one.numbers for one in gradient_order(read)}
    buckets = gradient_buckets(read, each, first_bytes=first, cap_bytes=cap)
    assert sum(bucket.size_bytes for bucket in buckets) == each * read.trained_parameters
    for index, bucket in enumerate(buckets):
        full, last = cap if index else first, each * sizes[bucket.parameters[-1]]
        assert bucket.size_bytes - last < full
        assert bucket.size_bytes >= full or bucket is buckets[-1]


def test_the_sizes_are_torchs_own() -> None:
    import torch

    assert torch.distributed._DEFAULT_FIRST_BUCKET_BYTES == FIRST_BYTES
    assert torch.nn.parallel.distributed._DEFAULT_BUCKET_CAP_MB * 2**20 == CAP_BYTES
