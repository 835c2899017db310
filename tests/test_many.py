"""Many devices at once, against each of them by itself."""

import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_allocator import PHONE, recorded

from latte_cli.allocator import Devices, SubModel, assign, catalogue, largest, round_of
from latte_cli.allocator.files import read_devices, write_assignment
from latte_cli.allocator.plan_file import left_out_widths
from latte_cli.errors import LatteError
from latte_cli.network import zoo
from latte_cli.network.channels import channel_groups
from latte_cli.store.columns import read_columns, write_columns

OWN = {
    "samples": st.sampled_from((1, 40, 100, 801)),
    "up_bit_per_s": st.sampled_from((1e4, 4e6)),
    "down_bit_per_s": st.sampled_from((1e4, 4e6)),
    "overhead_s": st.sampled_from((0.0, 3.0)),
    "memory_bytes": st.sampled_from((100, 1000, 10**12)),
}


@given(st.data())
def test_a_device_is_given_what_it_would_be_given_by_itself(data):
    sizes = data.draw(st.lists(st.sampled_from((10, 500, 4000, 10**6)), min_size=1, max_size=5))
    subs = [SubModel(id=f"s{n}", widths=(), parameters=size) for n, size in enumerate(sizes)]
    fleet = [replace(PHONE, name=f"c{n}", batch=4 + 3 * n, epochs=1 + n) for n in range(2)]
    estimates = [
        [
            recorded(data.draw(st.sampled_from((0.01, 0.3, 1.0))), memory_bytes=data.draw(st.sampled_from((50, 500))))
            for _ in subs
        ]
        for _ in fleet
    ]
    classes = np.array(data.draw(st.lists(st.integers(0, 1), min_size=1, max_size=12)))
    own = {
        name: np.array([data.draw(st.one_of(st.just(np.nan), values)) for _ in classes], dtype=float)
        for name, values in OWN.items()
        if data.draw(st.booleans())
    }
    duration_s = data.draw(st.sampled_from((0.5, 5.0, 60.0, 5000.0)))
    rounds = [
        [round_of(sub, each, e) for sub, e in zip(subs, its, strict=True)]
        for each, its in zip(fleet, estimates, strict=True)
    ]
    found = assign(fleet, rounds, Devices(classes=classes, own=own), duration_s)
    for device, index in enumerate(classes):
        mine = {name: values[device] for name, values in own.items() if not np.isnan(values[device])}
        whole = {name: int(value) if name in ("samples", "memory_bytes") else value for name, value in mine.items()}
        each = replace(fleet[index], **whole)
        alone = [round_of(sub, each, e) for sub, e in zip(subs, estimates[index], strict=True)]
        best = largest(alone, duration_s)
        assert (found.chosen[device] >= 0) == (best is not None)
        if best:
            chosen = alone[found.chosen[device]]
            assert chosen.sub_model.parameters == best.sub_model.parameters
            assert found.high_s[device] == pytest.approx(chosen.high_s)
            assert found.round_s[device] == pytest.approx(chosen.round_s)
            assert found.low_s[device] == pytest.approx(chosen.low_s)
            assert found.memory_bytes[device] == chosen.memory_bytes
        timed = [one.high_s for one in alone if one.high_s is not None]
        assert found.least_s[device] == pytest.approx(min(timed)) if timed else np.isnan(found.least_s[device])


def large(devices, sub_models=512, classes=200):
    generator = np.random.default_rng(0)
    subs = [SubModel(id=f"s{n}", widths=(), parameters=10_000 * (n + 1)) for n in range(sub_models)]
    fleet = [replace(PHONE, name=f"c{n}") for n in range(classes)]
    one = recorded(1.0)
    times = generator.uniform(0.5, 1.5, (classes, sub_models)) * np.linspace(0.01, 1, sub_models)
    rounds = [
        [
            round_of(sub, each, replace(one, forward_s=step, backward_s=0.0, step_low_s=step, step_high_s=1.2 * step))
            for sub, step in zip(subs, its, strict=True)
        ]
        for each, its in zip(fleet, times.tolist(), strict=True)
    ]
    own = {"samples": generator.integers(50, 500, devices).astype(float)}
    return fleet, rounds, Devices(classes=generator.integers(0, classes, devices), own=own)


def test_a_hundred_thousand_devices_take_little_memory():
    fleet, rounds, devices = large(100_000, sub_models=128, classes=20)
    tracemalloc.start()
    found = assign(fleet, rounds, devices, 30.0)
    assert tracemalloc.get_traced_memory()[1] < 200e6
    tracemalloc.stop()
    assert len(found.chosen) == 100_000
    assert (found.chosen >= 0).mean() > 0.5
    assert np.nanmax(found.high_s) <= 30


@pytest.mark.parametrize("suffix", [".parquet", ".csv"])
def test_devices_and_what_they_are_given_are_files_of_columns(tmp_path, suffix):
    path, out = tmp_path / f"devices{suffix}", tmp_path / f"out{suffix}"
    write_columns(path, {"device": ["a", "b", "c"], "class": ["c1", "c0", "c1"], "samples": [10.0, np.nan, 500.0]})
    fleet, rounds, _ = large(1, 4, 2)
    names, devices = read_devices(path, fleet)
    assert list(names) == ["a", "b", "c"]
    assert devices.classes.tolist() == [1, 0, 1]
    found = assign(fleet, rounds, devices, 30.0)
    write_assignment(out, fleet, names, devices, found)
    back = read_columns(
        out, ("device", "class", "sub_model"), ("round_s", "low_s", "high_s", "memory_bytes", "least_s")
    )
    assert list(back["device"]) == ["a", "b", "c"]
    assert list(back["class"]) == ["c1", "c0", "c1"]
    assert list(back["sub_model"]) == [found.sub_models[at].id for at in found.chosen]
    assert back["high_s"] == pytest.approx(found.high_s)


@given(
    groups=st.lists(st.lists(st.integers(0, 5), min_size=1), min_size=1),
    words=st.lists(st.text(max_size=3), min_size=6, max_size=6),
)
def test_texts_come_in_the_order_in_which_they_first_stand_however_a_file_keeps_them(groups, words, columns_file):
    import pyarrow as pa
    import pyarrow.parquet as pq

    column = pa.chunked_array([pa.DictionaryArray.from_arrays(pa.array(group), pa.array(words)) for group in groups])
    plain = [words[at] for group in groups for at in group]
    for table in (pa.table({"device": column}), pa.table({"device": plain})):
        pq.write_table(table, columns_file, row_group_size=3)
        found = read_columns(columns_file, ("device",), ())["device"]
        assert list(found) == plain
        assert found.distinct == list(dict.fromkeys(plain))
        repeated = [at for at, word in enumerate(plain) if word in plain[:at]]
        assert found.first_repeated == (repeated[0] if repeated else None)


@pytest.fixture(scope="module")
def columns_file(tmp_path_factory):
    return tmp_path_factory.mktemp("columns") / "columns.parquet"


def test_each_device_gets_windows_that_train_all_channels_alike(tmp_path):
    import pyarrow.parquet as pq

    network = zoo.network("resnet8", batch_size=8)
    subs = catalogue(network, (1, 0.5, 0.25))
    rounds = [[round_of(sub, PHONE, recorded(1.0 if sub.width == 1 else 0.01)) for sub in subs]]
    devices = Devices(classes=np.zeros(50, dtype=int), own={})
    found = assign([PHONE], rounds, devices, 30.0)
    write_assignment(tmp_path / "out.parquet", [PHONE], [f"d{n}" for n in range(50)], devices, found, network)
    starts = np.array(pq.read_table(tmp_path / "out.parquet").column("window").to_pylist())
    assert {found.sub_models[at].id for at in found.chosen} == {"w0.5"}
    for column, (_, channels) in enumerate(subs[0].widths):
        covered = np.zeros(channels)
        for start in starts[:, column]:
            covered[(start + np.arange(channels // 2)) % channels] += 1
        assert covered.max() - covered.min() <= 1


def test_devices_without_a_block_take_no_turn_in_its_windows(tmp_path):
    import pyarrow.parquet as pq

    network = zoo.network("resnet20", batch_size=8)
    subs = catalogue(network, (0.5,), (1, 0.5))
    fleet = [replace(PHONE, name="deep", memory_bytes=150), replace(PHONE, name="flat", memory_bytes=100)]
    rounds = [
        [round_of(sub, each, recorded(0.01, memory_bytes=50 if sub.dropped else 150)) for sub in subs] for each in fleet
    ]
    devices = Devices(classes=np.array([0, 1, 0]), own={})
    found = assign(fleet, rounds, devices, 1e9)
    assert [bool(found.sub_models[at].dropped) for at in found.chosen] == [False, True, False]
    write_assignment(tmp_path / "out.parquet", fleet, list("abc"), devices, found, network)
    starts = np.array(pq.read_table(tmp_path / "out.parquet").column("window").to_pylist())
    groups = channel_groups(network)
    gone = left_out_widths(network, groups, found.sub_models[found.chosen[1]])
    assert gone
    assert starts[2].tolist() == [group.channels // 2 if group.name in gone else 0 for group in groups]


@pytest.mark.parametrize("name", ["samples", "up_bit_per_s", "down_bit_per_s"])
def test_a_device_without_data_or_network_gets_nothing_and_others_what_they_would(tmp_path, name):
    fleet, rounds, _ = large(1, 4, 2)
    columns = {"device": ["a", "b", "c"], "class": ["c1", "c0", "c1"]}
    write_columns(tmp_path / "all.csv", columns)
    write_columns(tmp_path / "some.csv", columns | {name: [np.nan, 0.0, np.nan]})
    everyone, some = (
        assign(fleet, rounds, read_devices(tmp_path / each, fleet)[1], 1e6) for each in ("all.csv", "some.csv")
    )
    assert some.chosen.tolist() == [everyone.chosen[0], -1, everyone.chosen[2]]
    assert some.unable.tolist() == [False, True, False]
    assert (some.left_out, some.too_small) == (0, 0)


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"device": ["a"]}, "the column `class` is missing"),
        ({"device": ["a"], "class": ["c9"]}, "the class `c9` is not in the fleet"),
        ({"device": ["a"], "class": ["c0"], "speed": [1.0]}, "unknown column `speed`"),
        ({"device": ["a"], "class": ["c0"], "samples": [-3.0]}, "row 1: `samples` cannot be -3"),
        ({"device": ["a"], "class": ["c0"], "samples": ["many"]}, "`samples` does not hold numbers"),
        ({"device": ["a", "b", "a"], "class": ["c0"] * 3}, "row 3: `a` is the name of another device too"),
        ({"device": ["a"], "class": ["c0"], "memory_bytes": [0.0]}, "row 1: `memory_bytes` cannot be 0"),
        ({"device": ["a", None], "class": ["c0", "c0"]}, "`device` does not hold a name in every row"),
        ({"device": ["a", "b"], "class": ["c0", "c0"], "up_bit_per_s": [1.0, float("inf")]}, "row 2"),
    ],
)
def test_a_bad_file_of_devices_is_named(tmp_path, columns, said):
    write_columns(tmp_path / "devices.parquet", columns)
    with pytest.raises(LatteError, match=said):
        read_devices(tmp_path / "devices.parquet", large(1, 1, 2)[0])


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("devices.parquet", b"PAR1 no", "cannot read"),
        ("devices.csv", b"", "cannot read"),
        ("devices.csv", b"dev\xffice,class\na,c0\n", "cannot read"),
        ("devices.txt", b"", "neither Parquet nor CSV"),
    ],
)
def test_a_file_that_is_none_of_columns_is_named(tmp_path, name, content, said):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(LatteError, match=said):
        read_devices(tmp_path / name, large(1, 1, 2)[0])
    with pytest.raises(LatteError, match="cannot read"):
        read_devices(tmp_path / "none.csv", large(1, 1, 2)[0])


def test_a_small_file_of_very_many_devices_is_refused_by_its_footer(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = (1 << 24) + 1
    same = pa.DictionaryArray.from_arrays(pa.array(np.zeros(rows, np.int8)), pa.array(["a"]))
    pq.write_table(pa.table({"device": same, "class": same}), tmp_path / "d.parquet")
    assert (tmp_path / "d.parquet").stat().st_size < 1e5
    with pytest.raises(LatteError, match="states 16,777,217 rows"):
        read_devices(tmp_path / "d.parquet", large(1, 1, 2)[0])
