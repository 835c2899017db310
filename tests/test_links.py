"""Links: what is fitted to measured exchanges, and the command that measures them among real processes."""

import csv
import io
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from running import ended
from schemas import valid

from latte_cli import child
from latte_cli.backends.torch.exchange import SIZES_BYTES, measure_exchanges
from latte_cli.devices import CPU
from latte_cli.errors import ExitCode
from latte_cli.estimator.links import Link, fit_link, parse_link


@given(st.floats(1e6, 1e12), st.floats(0, 1e-3), st.integers(2, 16))
def test_a_link_is_found_again_in_its_own_times(rate: float, latency_s: float, gpus: int) -> None:
    link = Link(bandwidth_bytes_per_s=rate, latency_s=latency_s)
    found = fit_link([(size, link.all_reduce_s(size, gpus)) for size in SIZES_BYTES], gpus)
    for size in SIZES_BYTES:
        assert found.all_reduce_s(size, gpus) == pytest.approx(link.all_reduce_s(size, gpus), rel=1e-6)


@given(st.lists(st.floats(1e-6, 1), min_size=len(SIZES_BYTES), max_size=len(SIZES_BYTES)), st.integers(2, 16))
def test_no_times_make_a_link_that_is_none(times: list[float], gpus: int) -> None:
    try:
        found = fit_link(list(zip(SIZES_BYTES, times, strict=True)), gpus)
    except ValueError:
        return
    assert found.bandwidth_bytes_per_s > 0
    assert found.latency_s >= 0


@given(st.floats(1e6, 9e14), st.floats(1e-7, 1))
def test_a_link_is_read_as_it_is_written(rate: float, latency_s: float) -> None:
    link = Link(bandwidth_bytes_per_s=rate, latency_s=latency_s)
    again = parse_link(str(link))
    assert again.bandwidth_bytes_per_s == pytest.approx(rate, rel=1e-3)
    assert again.latency_s == pytest.approx(latency_s, rel=1e-3)


def test_the_command_measures_two_processes_of_a_cpu() -> None:
    code, out, _ = ended("profile", "--links", "--device", "cpu", "--format", "json")
    assert code == 0
    body = valid(out)
    [link] = body["links"]
    assert (body["kind"], link["processes"]) == ("cpu", 2)
    assert [one["size_bytes"] for one in link["exchanges"]] == list(SIZES_BYTES)


def test_tables_and_lines_say_what_estimates_take() -> None:
    from latte_cli.report import Format
    from latte_cli.report.links import MeasuredLink, write_links

    link = Link(bandwidth_bytes_per_s=2.5e10, latency_s=1e-5)
    found = [MeasuredLink(processes=4, link=link, exchanges=())]
    out = io.StringIO()
    write_links(CPU, found, Format.TABLE, out)
    assert "--link 25GB/s,10us" in out.getvalue()
    out = io.StringIO()
    write_links(CPU, found, Format.CSV, out)
    assert list(csv.reader(io.StringIO(out.getvalue())))[1] == ["4", "25000000000.0", "1e-05"]


def test_without_several_gpus_there_is_no_link() -> None:
    code, out, err = ended("profile", "--links", "--device", "cuda")
    assert (code, out) == (1, "")
    assert "there is no link to measure" in err


@pytest.mark.parametrize("more", [("--budget", "2m"), ("--suite", "quick"), ("model.onnx",)])
def test_links_are_measured_alone(more: tuple[str, ...]) -> None:
    code, _, err = ended("profile", "--links", *more)
    assert code == ExitCode.USAGE
    assert "--links" in err


def test_a_process_that_fails_ends_the_others() -> None:
    with pytest.raises(child.Ended):
        measure_exchanges(replace(CPU, torch_type="nothing"), 2)
