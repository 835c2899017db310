import pytest

from latte_cli.fleet import parse_fleet, read_fleet
from latte_cli.precisions import Layout, Precision

FLEET = """
round_duration: 30s
classes:
  - class: phone
    device: arm-a76-4t
    count: 10
    samples: 500
    epochs: 2
    batch: 8
    bandwidth: {up: 5Mbit, down: 20Mbit}
    memory: 2GiB
    threads: 4
    precision: bf16
    layout: channels_last
    strategy: pytorch
    optimizer: adam
  - class: server
    device: epyc
    samples: 1
    batch: 64
    bandwidth: {up: 1000kbit, down: 2.5 Mbit/s}
"""


def test_a_fleet_file_says_who_takes_part_and_how(tmp_path):
    path = tmp_path / "fleet.yaml"
    path.write_text(FLEET, "utf-8")
    fleet = read_fleet(path)
    phone, server = fleet.classes
    assert fleet.round_duration_s == 30
    assert (phone.name, phone.device, phone.count, phone.samples, phone.batch) == ("phone", "arm-a76-4t", 10, 500, 8)
    assert (phone.up_bit_per_s, phone.down_bit_per_s, phone.memory_bytes) == (5e6, 20e6, 2 << 30)
    assert (phone.threads, phone.precision, phone.layout) == (4, Precision.BF16, Layout.CHANNELS_LAST)
    assert (phone.strategy, phone.optimizer) == ("pytorch", "adam")
    assert (server.count, server.epochs, server.up_bit_per_s, server.down_bit_per_s) == (1, 1, 1e6, 2.5e6)
    assert (server.memory_bytes, server.threads, server.precision) == (None, None, Precision.FP32)
    assert (server.layout, server.strategy, server.optimizer) == (Layout.NCHW, None, None)


def test_the_last_smaller_batch_is_a_step_too():
    phone, server = parse_fleet(FLEET.encode(), source="fleet").classes
    assert phone.schedule.steps(phone.batch) == 2 * 63
    assert server.schedule.steps(server.batch) == 1


def test_an_alias_stands_for_the_value_it_names():
    text = """
classes:
  - {class: a, device: d, samples: 5, batch: 1, bandwidth: &wifi {up: 1Mbit, down: 2Mbit}}
  - {class: b, device: d, samples: 5, batch: 1, bandwidth: *wifi}
"""
    a, b = parse_fleet(text.encode(), source="fleet").classes
    assert (a.up_bit_per_s, a.down_bit_per_s) == (b.up_bit_per_s, b.down_bit_per_s) == (1e6, 2e6)


@pytest.mark.parametrize(("overhead", "seconds"), [("0", 0), ("0.0", 0), ("0 s", 0), ("~", 0), ("2s", 2)])
def test_a_round_may_take_nothing_besides(overhead, seconds):
    entry = f"class: a, device: d, samples: 5, batch: 1, bandwidth: {{up: 1bit, down: 1bit}}, overhead: {overhead}"
    (found,) = parse_fleet(f"classes: [{{{entry}}}]".encode(), source="fleet").classes
    assert found.overhead_s == seconds


def test_values_are_read_as_they_are_written():
    text = (
        "classes: [{class: no, device: 1e3, samples: 010, batch: 1, bandwidth: {up: 1bit, down: 1bit}, memory: null}]"
    )
    (found,) = parse_fleet(text.encode(), source="fleet").classes
    assert (found.name, found.device, found.samples, found.memory_bytes) == ("no", "1e3", 10, None)
