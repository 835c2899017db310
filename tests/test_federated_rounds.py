"""A federation in this process: the four steps, and devices that answer badly."""

import json
from dataclasses import replace
from math import inf

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Error, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from safetensors.numpy import load_file

from latte_cli.allocator import Deadline, Round, SubModel, allocate, catalogue, largest, plan_document, shared_out
from latte_cli.errors import LatteError
from latte_cli.federated import client, device, messages, models, server
from latte_cli.federated.aggregation import AggregationRule, aggregate, indices_of
from latte_cli.federated.grid import LocalGrid, run_federation
from latte_cli.federated.messages import RoundTask
from latte_cli.federated.recipe import Recipe
from latte_cli.federated.settings import settings
from latte_cli.federated.strategy import Overlap
from latte_cli.federated.training import TrainingWork, initial
from latte_cli.fleet import Fleet, FleetClass, Method

CPU, GPU = "reference-amd-epyc-family-26-model-2-2c-2t", "nvidia-h200-reference"
CONFIG = {"model": "custom_cnn", "image-size": 8, "round-duration": "1s", "rounds": 2, "learning-rate": 0.02}
CONFIG |= {"partition": "iid"}  # the other partitions take Flower longer than a round
CONFIG |= {"deadline": "drop", "learn-times": False}  # no clock has a say, so that every run gives the same
UNEVEN = {**CONFIG, "partition": "dirichlet"}
NODES = (
    {"partition-id": 0, "num-partitions": 2, "device": CPU, "up": "4Mbit"},
    {"partition-id": 1, "num-partitions": 2, "device": GPU, "name": "workstation"},
)


pytestmark = pytest.mark.usefixtures("one_thread", "flower_log")


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory):
    """Two rounds of two devices, once."""
    folder = tmp_path_factory.mktemp("run") / "out"
    run_federation(server.app, client.app, NODES, {**UNEVEN, "output": str(folder)})
    return folder


def test_devices_train_what_fits_them_and_the_network_learns(whole_run):
    found = json.loads((whole_run / "rounds.json").read_text())
    assert [each["name"] for each in found["devices"]] == ["device-0", "workstation"]
    assert [each["device"] for each in found["devices"]] == [CPU, GPU]
    for each in found["rounds"]:
        slow, fast = each["trained"]
        assert (fast["name"], fast["sub_model"]) == ("workstation", "w1")
        assert slow["sub_model"] in ("w0.5", "w0.25")
        assert each["left_out"] == []
    assert found["rounds"][1]["evaluation"]["accuracy"] > 0.5
    assert found["refused"] == []


def test_the_frequency_table_counts_the_examples_of_each_channel(whole_run):
    found = json.loads((whole_run / "rounds.json").read_text())
    narrow, wide = (each["examples"] for each in found["devices"])
    network = models.network_from(models.content("custom_cnn", image_size=8), batch=32)
    widths = {each.id: dict(each.widths) for each in catalogue(network, (1, 0.75, 0.5, 0.25))}
    for name, counts in found["frequencies"].items():
        width = widths[found["rounds"][0]["trained"][0]["sub_model"]][name]
        assert sum(counts) == 2 * (wide * len(counts) + narrow * width)
        assert {count - 2 * wide for count in counts} <= {0, narrow, 2 * narrow}
        assert len(set(counts)) > 1


def test_the_same_run_gives_the_same_network(whole_run, tmp_path):
    run_federation(server.app, client.app, NODES, {**UNEVEN, "output": str(tmp_path / "again")})
    first, second = (load_file(str(folder / "model.safetensors")) for folder in (whole_run, tmp_path / "again"))
    assert first.keys() == second.keys()
    assert all(np.array_equal(first[name], second[name]) for name in first)
    assert (whole_run / "rounds.json").read_text() == (tmp_path / "again" / "rounds.json").read_text()


def test_a_result_is_not_overwritten(whole_run):
    with pytest.raises(LatteError, match="holds a federation's result already"):
        run_federation(server.app, client.app, NODES, {**CONFIG, "output": str(whole_run)})


# One priced pair of devices, whose second one answers as each test says


class Federation:
    """Two devices that were priced once; `tamper` changes what the second one sends back after training."""

    def __init__(self):
        self.tamper = None
        self._answers = {}
        app = ClientApp()
        app.query()(lambda message, context: client.app(message, context))
        app.train()(self._train)
        app.evaluate()(lambda message, context: client.app(message, context))
        self.app = app
        self.grid = LocalGrid(app, list(NODES), UNEVEN)
        self.settings = settings(UNEVEN)
        self.model = models.content("custom_cnn", image_size=8)
        self.network = models.network_from(self.model, batch=32)
        self.sub_models = catalogue(self.network, self.settings.widths)
        self.whole = initial(self.network, seed=0)
        priced = self.strategy()
        priced.price(self.grid)
        self.devices = priced.devices

    def strategy(self, **changes):
        return Overlap(self.network, self.model, self.sub_models, replace(self.settings, **changes))

    def _train(self, message, context):
        asked = context.node_config["partition-id"], message.content.object_id
        if asked not in self._answers:  # the same question has the same answer
            self._answers[asked] = client.app(message, context).content
        reply = Message(self._answers[asked], reply_to=message)
        if self.tamper is None or context.node_config["partition-id"] == 0:
            return reply
        return self.tamper(reply, message)

    def round(self, tamper=None, drop=False, **changes):
        """The strategy after a round, and the parameters it made (None for none)."""
        self.tamper = tamper
        strategy = self.strategy(**changes)
        strategy.devices.update(self.devices)
        asked = strategy.configure_train(1, messages.array_record(self.whole), ConfigRecord(), self.grid)
        replies = list(self.grid.send_and_receive(asked))
        arrays, _ = strategy.aggregate_train(1, replies[:1] if drop else replies)
        return strategy, messages.arrays_in(arrays) if arrays else None


@pytest.fixture(scope="module")
def federation():
    return Federation()


def test_a_round_is_the_overlap_of_what_devices_return(federation):
    returned = []

    def tapped(reply, _):
        returned.append(messages.returned_in(reply.content))
        return reply

    strategy, found = federation.round(tapped)
    assert [each.name for each in strategy.rounds[0].trained] == ["device-0", "workstation"]
    alone, _ = federation.round(lambda reply, message: Message(RecordDict(), reply_to=message))
    assert alone.frequencies.examples["conv1"].max() < strategy.frequencies.examples["conv1"].max()
    only_second = aggregate(federation.network, federation.whole, [returned[0].update])
    assert any(not np.array_equal(found[name], only_second[name]) for name in found)
    assert set(returned[0].frequencies["conv1"]) == {float(returned[0].update.examples)}


def with_record(key, record):
    def tamper(reply, message):
        content = RecordDict(dict(reply.content))
        content[key] = record(reply.content[key])
        return Message(content, reply_to=message)

    return tamper


def without_record(key):
    def tamper(reply, message):
        return Message(
            RecordDict({name: each for name, each in reply.content.items() if name != key}), reply_to=message
        )

    return tamper


def with_array(name, change, key="arrays"):
    def record(before):
        arrays = messages.arrays_in(before)
        return messages.array_record({**arrays, name: change(arrays[name].copy())})

    return with_record(key, record)


def raw(name, data, dtype="float32", stype="numpy.ndarray", key="arrays", shape=(10,)):
    """The reply with an array whose bytes are `data`."""

    def record(before):
        return ArrayRecord({**before, name: Array(dtype=dtype, shape=shape, stype=stype, data=data)})

    return with_record(key, record)


def with_bytes(name, change):
    """The reply with the bytes of an array changed."""
    return with_record(
        "arrays",
        lambda before: ArrayRecord(
            {**before, name: Array("float32", (10,), "numpy.ndarray", change(before[name].data))}
        ),
    )


def with_values(key, kind=ConfigRecord, **changes):
    """The reply with values of a record changed; None takes one away."""

    def record(before):
        return kind({name: each for name, each in {**before, **changes}.items() if each is not None})

    return with_record(key, record)


def with_metrics(**changes):
    return with_values("metrics", MetricRecord, **changes)


def keeping(group, channels):
    return with_record("kept", lambda _: messages.array_record({group: np.array(channels)}))


def pickled():
    from io import BytesIO

    data = BytesIO()
    np.save(data, np.array([{"a": 1}] * 10, dtype=object), allow_pickle=True)
    return data.getvalue()


def npy_of(descr="'<f4'", shape="(10,)", payload=bytes(40)):
    return header(f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}\n") + payload


def metadata(**changes):
    """The reply with other metadata."""

    def tamper(reply, _):
        for name, value in changes.items():
            reply.metadata.__dict__[f"_{name}"] = value
        return reply

    return tamper


def header(text):
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode()


HUGE = header("{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000,), }\n")


def spoil(array):
    array.flat[0] = np.nan
    return array


def failing(reply, message):
    return Message(Error(code=2, reason="<class 'ZeroDivisionError'>:<'division by zero'>"), reply_to=message)


def twice_the_examples(reply, message):
    """The reply with twice the examples, in the frequency table as well."""
    content, metrics = RecordDict(dict(reply.content)), reply.content["metrics"]
    counts = messages.arrays_in(reply.content["frequencies"])
    content["frequencies"] = messages.array_record({name: 2 * each for name, each in counts.items()})
    content["metrics"] = MetricRecord({**metrics, "examples": 2 * metrics["examples"]})
    return Message(content, reply_to=message)


BAD = {
    "an error": (failing, "division by zero"),
    "nothing": (lambda reply, message: Message(RecordDict(), reply_to=message), "holds no `task`"),
    "no arrays": (without_record("arrays"), "holds no `arrays`"),
    "no kept channels": (without_record("kept"), "holds no `kept`"),
    "no frequencies": (without_record("frequencies"), "holds no `frequencies`"),
    "no metrics": (without_record("metrics"), "holds no `metrics`"),
    "another kind of record": (with_record("arrays", lambda _: ConfigRecord({"a": 1})), "holds no `arrays`"),
    "a wrong shape": (with_array("fc2.bias", lambda each: each[1:]), "`fc2.bias` has the shape (9,)"),
    "no number": (with_array("fc2.bias", spoil), "`fc2.bias` holds what is no number"),
    "doubles": (with_array("fc2.bias", lambda each: each.astype(float)), "`fc2.bias` is of the type float64"),
    "channels that do not exist": (
        with_record("kept", lambda _: messages.array_record({"conv1": np.array([0, 99])})),
        "channel group `conv1` cannot keep [0, 99]",
    ),
    "other channels than it trained": (
        with_record("kept", lambda _: messages.array_record({"conv1": np.array([0, 1])})),
        "has the shape",
    ),
    "no examples": (with_record("metrics", lambda before: MetricRecord({**before, "examples": 0})), "0 examples"),
    "examples in fractions": (
        with_record("metrics", lambda _: MetricRecord({"examples": 1.5, "loss": 1.0})),
        "how many examples",
    ),
    "a loss that is none": (
        with_record("metrics", lambda before: MetricRecord({**before, "loss": float("nan")})),
        "its loss is no number",
    ),
    "more than it trained in the frequency table": (
        with_array("conv1", lambda each: each + 1e6, key="frequencies"),
        "its frequency table is not that of the channels it kept",
    ),
    "another block": (
        with_record("task", lambda _: ConfigRecord({"sub-model": "w1", "dropped": ["layer9"]})),
        "unknown residual block `layer9`",
    ),
    "a sub-model that does not exist": (
        with_record("task", lambda _: ConfigRecord({"sub-model": "w" * 500, "dropped": [""][:0]})),
        f"it trained the sub-model `{'w' * 40}`",
    ),
    "another sub-model than it says": (
        with_record("task", lambda _: ConfigRecord({"sub-model": "w0.5", "dropped": [""][:0]})),
        "it trained the sub-model `w0.5` (it was sent `w1`)",
    ),
    "a pickle": (raw("fc2.bias", pickled(), "object"), "the array `fc2.bias` cannot be read"),
    "a promise of a terabyte": (raw("fc2.bias", HUGE + b"1234"), "the array `fc2.bias` cannot be read"),
    "half an array": (raw("fc2.bias", HUGE[:40]), "the array `fc2.bias` cannot be read"),
    "a header that is code": (raw("fc2.bias", header("__import__('os').abort()\n")), "cannot be read"),
    "another serialisation": (raw("fc2.bias", pickled(), stype="pickle"), "the array `fc2.bias` cannot be read"),
    "an error that says nothing": (
        lambda _, message: Message(Error(code=2, reason=None), reply_to=message),
        "it failed",
    ),
    "an error that writes to the terminal": (
        lambda _, message: Message(Error(code=2, reason="\x1b[2J" + "gone\n" * 9999), reply_to=message),
        r"\x1b[2Jgone gone",
    ),
    "a header of nine thousand minus signs": (
        raw("fc2.bias", npy_of(shape="(" + "-" * 9000 + "1,)")),
        "the array `fc2.bias` cannot be read",
    ),
    "a header that nests": (raw("fc2.bias", npy_of(shape="(" * 60000)), "the array `fc2.bias` cannot be read"),
    "a header in another key's records": (
        raw("conv1", npy_of(shape="(" + "-" * 9000 + "1,)"), key="kept"),
        "the array `conv1` cannot be read",
    ),
    "a header without its end": (raw("fc2.bias", b"\x93NUMPY\x01\x00\xff\xff{'descr'"), "its header is too long"),
    "a negative dimension": (raw("fc2.bias", npy_of(shape="(-10,)")), "the array `fc2.bias` cannot be read"),
    "a dimension beyond all memory": (
        raw("fc2.bias", npy_of(shape="(" + "9" * 400 + ",)")),
        "the array `fc2.bias` cannot be read",
    ),
    "no numbers of enormous dimensions": (
        raw("fc2.bias", npy_of(shape="(0, 999999999999999999, 999999999999999999)", payload=b"")),
        "the array `fc2.bias` cannot be read",
    ),
    "objects": (raw("fc2.bias", npy_of("'|O'", payload=bytes(80)), "object"), "the array `fc2.bias` cannot be read"),
    "texts": (raw("fc2.bias", npy_of("'<U1'"), "<U1"), "the array `fc2.bias` cannot be read"),
    "fields": (raw("fc2.bias", npy_of("[('a', '<f4')]")), "the array `fc2.bias` cannot be read"),
    "bytes that are missing": (with_bytes("fc2.bias", lambda data: data[:-1]), "its 39 bytes do not hold (10,)"),
    "bytes too many": (with_bytes("fc2.bias", lambda data: data + b"0"), "its 41 bytes do not hold (10,)"),
    "no bytes": (with_bytes("fc2.bias", lambda _: b""), "it is not in the npy format"),
    "another format": (with_bytes("fc2.bias", lambda data: data.replace(b"\x01", b"\x02", 1)), "not in the npy format"),
    "another shape than the record says": (raw("fc2.bias", npy_of(), shape=(5, 2)), "which its record does not say"),
    "another type than the record says": (raw("fc2.bias", npy_of(), "float64"), "which its record does not say"),
    "a name of a megabyte": (
        with_record("arrays", lambda before: ArrayRecord({**before, "a" * 10**6: before["fc2.bias"]})),
        "unknown parameter `aaa",
    ),
    "a name that writes to the terminal": (
        with_record("arrays", lambda before: ArrayRecord({**before, "\x1b[2J": before["fc2.bias"]})),
        r"unknown parameter `\x1b[2J`",
    ),
    "a parameter too few": (
        with_record("arrays", lambda before: ArrayRecord({**before, "fc2.bias": before["fc1.bias"]})),
        "`fc2.bias` has the shape",
    ),
    "more than a reply can hold": (
        with_record("task", lambda before: ConfigRecord({**before, "more": b"0" * 8_000_000})),
        "its reply holds 8",
    ),
    "a number that would overflow a mean": (
        with_array("fc2.bias", lambda each: np.full_like(each, 3e38)),
        "a norm over the bound",
    ),
    "parameters a thousand times as large": (
        with_array("fc1.weight", lambda each: each * 1000),
        "a norm over the bound",
    ),
    "a channel twice": (keeping("conv1", [0, 0]), "do not ascend"),
    "channels out of order": (keeping("conv1", [1, 0]), "do not ascend"),
    "channels below 0": (keeping("conv1", [-1, 0]), "channel group `conv1` cannot keep"),
    "a channel beyond all integers": (
        keeping("conv1", np.array([1, 2**64 - 1], np.uint64)),
        "channel group `conv1` cannot keep",
    ),
    "no channels": (keeping("conv1", np.arange(0)), "channel group `conv1` cannot keep"),
    "channels in a table": (keeping("conv1", np.zeros((2, 2), int)), "keeps no list of channels"),
    "channels in fractions": (keeping("conv1", [0.0, 1.0]), "keeps no list of channels"),
    "a group that does not exist": (keeping("conv9", [0]), "unknown channel group `conv9`"),
    "more examples than any device has": (with_metrics(examples=2**62), f"{2**62} examples"),
    "more examples than it priced": (
        twice_the_examples,
        "examples (by its prices it has",
    ),
    "examples below 0": (with_metrics(examples=-1), "how many examples"),
    "a list of examples": (with_metrics(examples=[1]), "how many examples"),
    "no loss": (with_metrics(loss=None), "with which loss"),
    "a loss whose mean is infinite": (with_metrics(loss=1e308), "its loss is no number"),
    "an infinite loss": (with_metrics(loss=inf), "its loss is no number"),
    "a loss below 0": (with_metrics(loss=-1.0), "its loss is no number"),
    "no steps": (with_metrics(steps=None), "how many steps"),
    "more steps than it has batches": (with_metrics(steps=500), "in 500 steps"),
    "fewer steps than its examples need": (with_metrics(steps=1), "in 1 steps"),
    "steps of no time": (with_metrics(**{"step-s": 0.0, "step-spread-s": 0.0}), "its steps took no time that can be"),
    "steps that take for ever": (with_metrics(**{"step-s": inf, "step-spread-s": 0.0}), "no time that can be"),
    "a step without its spread": (with_metrics(**{"step-s": 1.0}), "its steps spread more than they can"),
    "a spread beyond all steps": (
        with_metrics(**{"step-s": 1.0, "step-spread-s": 1e9}),
        "its steps spread more than they can",
    ),
    "a frequency table with no numbers": (
        with_array("conv1", lambda each: each * np.nan, key="frequencies"),
        "its frequency table is not that",
    ),
    "a frequency table of another shape": (
        with_array("conv1", lambda each: each[:, None], key="frequencies"),
        "its frequency table is not that",
    ),
    "an empty frequency table": (with_record("frequencies", lambda _: ArrayRecord()), "its frequency table is not"),
    "a sub-model in numbers": (with_values("task", **{"sub-model": 1}), "which sub-model it trained"),
    "blocks in numbers": (with_values("task", dropped=[1]), "which sub-model it trained"),
    "what another round brought": (with_values("task", round=7), "of another round"),
    "no round": (with_values("task", round=None), "of another round"),
    "a round in words": (with_values("task", round="0"), "of another round"),
    "a reply to another message": (metadata(reply_to_message_id="7"), "its reply is to another message"),
    "a reply to another kind of message": (metadata(message_type="query"), "its reply is to a `query`"),
    "a reply to an earlier round": (metadata(group_id="0"), "its reply is to a `train` of round 0"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_answer_is_named_and_the_round_goes_on_without_it(federation, caplog, case):
    tamper, reason = BAD[case]
    strategy, found = federation.round(tamper)
    assert [each.name for each in strategy.rounds[0].trained] == ["device-0"]
    (name, said), *more = strategy.rounds[0].left_out
    assert (name, more) == ("workstation", [])
    assert reason in said
    assert len(said) < 400
    assert said.isprintable()
    assert any("goes on without `workstation`" in record.getMessage() for record in caplog.records)
    _, wanted = federation.round(failing)
    assert all(np.array_equal(found[each], wanted[each]) for each in wanted)


def test_a_device_that_does_not_reply_is_named(federation):
    strategy, found = federation.round(drop=True)
    assert strategy.rounds[0].left_out == [("workstation", "it did not reply")]
    _, wanted = federation.round(failing)
    assert all(np.array_equal(found[each], wanted[each]) for each in wanted)


def test_a_round_in_which_nobody_trains_leaves_the_parameters(federation):
    strategy = federation.strategy()
    strategy.devices.update(federation.devices)
    asked = strategy.configure_train(1, messages.array_record(federation.whole), ConfigRecord(), federation.grid)
    assert strategy.aggregate_train(1, [failing(None, each) for each in asked]) == (None, None)
    assert len(strategy.rounds[0].left_out) == 2
    assert not any(each.any() for each in strategy.frequencies.examples.values())


def test_a_device_too_slow_for_the_round_is_told_and_not_asked(federation):
    least = {each.name: min(entry.high_s for entry in each.rounds) for each in federation.devices.values()}
    between = (least["device-0"] + least["workstation"]) / 2
    strategy, _ = federation.round(round_duration_s=between)
    assert [each.name for each in strategy.rounds[0].trained] == ["workstation"]
    ((name, reason),) = strategy.rounds[0].left_out
    assert name == "device-0"
    assert f"the shortest takes up to {least['device-0']:.3g} s" in reason


def test_rounds_are_as_long_as_the_wanted_capacity_needs(federation):
    strategies = [federation.strategy(round_duration_s=None, capacity=share) for share in (0.2, 1.0)]
    for strategy in strategies:
        strategy.devices.update(federation.devices)
    short_s, long_s = (strategy.duration_s() for strategy in strategies)
    everything = [each.rounds[0].high_s for each in federation.devices.values()]
    assert long_s == max(everything)
    shares = [
        best.sub_model.parameters / federation.network.parameters if best else 0.0
        for each in federation.devices.values()
        for best in [largest(each.rounds, short_s)]
    ]
    assert short_s < long_s
    assert np.mean(shares) >= 0.2


def test_the_rule_and_the_method_are_those_of_the_settings(federation):
    _, examples = federation.round()
    _, holders = federation.round(rule=AggregationRule.HOLDERS)
    assert any(not np.array_equal(examples[name], holders[name]) for name in examples)


def test_a_plan_brings_its_sub_models_and_its_round_duration(federation, tmp_path):
    own = SubModel(id="fine", widths=(("conv1", 20), ("fc1", 100)), parameters=150_000)
    fleet = Fleet(
        classes=(FleetClass(name="a", device=CPU, samples=1, batch=32, up_bit_per_s=1e6, down_bit_per_s=1e6),)
    )
    rounds = {own.id: Round(sub_model=own, device=CPU, memory_bytes=1, round_s=1.0, low_s=0.9, high_s=1.1)}
    plan = allocate([own], fleet, lambda entry, _: rounds[entry.id], 7.0)
    file = shared_out(plan, federation.network, objective="parameters", method=Method.ROLLING)
    path = tmp_path / "plan.json"
    path.write_text(json.dumps(plan_document(file)))
    config = {**CONFIG, "round-duration": "", "rounds": 1, "plan": str(path)}
    strategy, result = server.federation(LocalGrid(client.app, list(NODES), config), settings(config))
    assert strategy.round_duration_s == 7.0
    assert [each.sub_model for each in strategy.rounds[0].trained] == ["fine", "fine"]
    changed = messages.arrays_in(result.arrays)["conv1.weight"] != federation.whole["conv1.weight"]
    assert 20 <= changed.any((1, 2, 3)).sum() <= 32
    assert strategy.coverage().share < 1
    with pytest.raises(LatteError, match="the plan is for another model"):
        other = {**config, "image-size": 16}
        server.federation(LocalGrid(client.app, list(NODES), other), settings(other))


def test_blocks_that_are_left_out_are_not_counted_as_trained():
    config = {**CONFIG, "model": "resnet20", "rounds": 1, "widths": "0.5", "depths": "0.34", "round-duration": "1h"}
    config |= {"partition": "iid"}
    strategy, result = server.federation(LocalGrid(client.app, list(NODES), config), settings(config))
    assert strategy.rounds[0].left_out == []
    counts, examples = strategy.frequencies.examples, [each.examples for each in strategy.rounds[0].trained]
    assert not counts["layer1.2.conv1"].any()
    assert counts["layer1.0.conv1"].sum() == 8 * sum(examples)
    network = models.network_from(models.content("resnet20", image_size=8), batch=32)
    first, found = initial(network, seed=0), messages.arrays_in(result.arrays)
    assert np.array_equal(first["layer1.2.conv1.weight"], found["layer1.2.conv1.weight"])
    assert not np.array_equal(first["layer1.0.conv1.weight"], found["layer1.0.conv1.weight"])


def test_a_part_of_the_devices_takes_part_in_turn(federation):
    names = []
    for number in range(1, 9):
        strategy = federation.strategy(per_round=1)
        strategy.devices.update(federation.devices)
        asked = strategy.configure_train(
            number, messages.array_record(federation.whole), ConfigRecord(), federation.grid
        )
        names.append([federation.devices[each.metadata.dst_node_id].name for each in asked])
    assert {len(each) for each in names} == {1}
    assert {each[0] for each in names} == {"device-0", "workstation"}


def test_rounds_are_drawn_among_the_devices_that_can_take_part_and_the_others_are_named_once(federation):
    least = {each.name: min(entry.high_s for entry in each.rounds) for each in federation.devices.values()}
    between = (least["device-0"] + least["workstation"]) / 2
    strategy = federation.strategy(per_round=1, round_duration_s=between)
    strategy.devices.update(federation.devices)
    whole, drawn = messages.array_record(federation.whole), []
    for number in range(1, 9):
        asked = strategy.configure_train(number, whole, ConfigRecord(), federation.grid)
        drawn.append([federation.devices[each.metadata.dst_node_id].name for each in asked])
    assert drawn == [["workstation"]] * 8
    assert [[name for name, _ in each.left_out] for each in strategy.rounds] == [["device-0"], *[[]] * 7]


# A single device, asked directly


def asked(context, content, kind="train"):
    return client.app(Message(content, dst_node_id=2, message_type=kind), context)


def a_context(node, config=CONFIG):
    return Context(run_id=1, node_id=2, node_config=dict(node), state=RecordDict(), run_config=dict(config))


def content(federation, **changes):
    task = RoundTask(model=federation.model, sub_models=federation.sub_models, round_duration_s=1.0)
    return RecordDict(
        {
            "task": messages.task_record(replace(task, **changes)),
            "arrays": messages.array_record(federation.whole),
        }
    )


def work(federation, server_round=1, seen=None, **changes):
    """What the server sends the first device in a round, where channels were `seen` so often."""
    strategy = federation.strategy(**changes)
    strategy.devices.update(federation.devices)
    strategy.frequencies = seen or strategy.frequencies
    arrays = messages.array_record(federation.whole)
    first, _ = strategy.configure_train(server_round, arrays, ConfigRecord(), federation.grid)
    return RecordDict(dict(first.content))


def test_a_device_remembers_its_prices(federation):
    context = a_context(NODES[1])
    first = asked(context, content(federation), "query")
    context.node_config["device"] = "gone"
    again = asked(context, content(federation), "query")
    assert dict(first.content["table"]) == dict(again.content["table"])
    other = asked(context, content(federation, sub_models=federation.sub_models[:2]), "query")
    assert "unknown device `gone`" in other.error.reason


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"device": "nowhere"}, "`device-1`: unknown device `nowhere`"),
        ({"partition-id": 2}, "there is no part 2 of 2"),
        ({"partition-id": "one"}, "the node has no number"),
        ({"up": "fast"}, "`fast` is not a bandwidth"),
        ({"memory": "1kB"}, None),
        ({"data": "/nowhere"}, "unknown data set `/nowhere`"),
        ({"devise": GPU}, "unknown node setting `devise`"),
    ],
)
def test_a_node_that_cannot_take_part_says_why(federation, change, reason):
    node = {key: value for key, value in NODES[1].items() if key != "name"} | change
    reply = asked(a_context(node), content(federation), "query")
    if reason:
        assert reason in reply.error.reason
        return
    prices = messages.prices_in(reply.content["table"], federation.sub_models)
    assert all(each.high_s is None and not each.meets(inf) for each in prices.rounds)


@pytest.mark.parametrize(
    ("method", "widths", "said"), [("nested", "0.5", True), ("nested", "1", False), ("rolling", "0.5", False)]
)
def test_channels_that_no_device_ever_trains_are_named(caplog, method, widths, said):
    config = {**CONFIG, "method": method, "widths": widths, "rounds": 1, "round-duration": "1h", "held-out": 0.0}
    run_federation(server.app, client.app, NODES[:1], config | {"devices": 1})
    found = any("no device trains more than `w0.5`" in each.getMessage() for each in caplog.records)
    assert found == said


def test_a_device_that_cannot_take_part_does_not_stop_the_others(caplog):
    nodes = ({**NODES[0], "device": "nowhere"}, NODES[1])
    strategy, _ = server.federation(LocalGrid(client.app, list(nodes), CONFIG), settings({**CONFIG, "rounds": 1}))
    assert [each.name for each in strategy.rounds[0].trained] == ["workstation"]
    assert any("`device-0`: unknown device `nowhere`" in record.getMessage() for record in caplog.records)
    with pytest.raises(LatteError, match="no device can take part"):
        server.federation(LocalGrid(client.app, [nodes[0]], CONFIG), settings({**CONFIG, "devices": 1}))


def test_a_device_evaluates_on_what_it_holds_out(federation):
    config = {**CONFIG, "held-out-locally": 0.25}
    found = asked(a_context(NODES[0], config), content(federation), "evaluate").content["metrics"]
    prices = asked(a_context(NODES[0], config), content(federation), "query").content["table"]
    assert 0 <= found["accuracy"] <= 1
    assert found["examples"] == pytest.approx(0.25 * (found["examples"] + prices["examples"]), rel=0.1)
    assert "nothing is held out" in asked(a_context(NODES[0]), content(federation), "evaluate").error.reason


def test_scores_of_devices_are_averaged_by_their_examples(federation):
    strategy = federation.strategy(held_out_locally=0.2)
    strategy.devices.update(federation.devices)
    first, second = strategy.configure_evaluate(
        1, messages.array_record(federation.whole), ConfigRecord(), federation.grid
    )
    list(strategy.configure_train(1, messages.array_record(federation.whole), ConfigRecord(), federation.grid))
    list(strategy.configure_evaluate(1, messages.array_record(federation.whole), ConfigRecord(), federation.grid))

    def scored(message, examples, accuracy):
        metrics = MetricRecord({"examples": examples, "accuracy": accuracy, "loss": 1.0})
        return Message(RecordDict({"metrics": metrics}), reply_to=message)

    found = strategy.aggregate_evaluate(1, [scored(first, 10, 0.5), scored(second, 30, 0.9)])
    assert found["accuracy"] == pytest.approx(0.8)
    found = strategy.aggregate_evaluate(1, [scored(first, 10, 0.5), scored(second, 30, 7.0)])
    assert found["accuracy"] == 0.5
    assert strategy.rounds[0].left_out[-1] == ("workstation", "its score is no score: 7 of 30 (is its data in order?)")


def test_a_device_returns_the_part_that_it_was_to_train(federation, remembered):
    context = a_context(NODES[0])
    context.state = remembered
    returned = messages.returned_in(asked(context, work(federation)).content)
    wanted = indices_of(federation.network, returned.update.kept)
    assert {name: each.shape for name, each in returned.update.arrays.items()} == {
        name: tuple(map(len, index)) for name, index in wanted.items()
    }
    assert returned.sub_model != "w1"


def test_a_round_counts_the_parameters_of_the_sub_model_down_and_up(federation):
    def priced(**node):
        narrow = federation.sub_models[-1:]
        (found,) = device.rounds({**NODES[0], **node}, federation.settings, federation.model, narrow, 100)
        return found

    quick, slow_down, slow_up = priced(), priced(down="1Mbit"), priced(up="1Mbit")
    part = federation.sub_models[-1].parameters
    assert slow_down.round_s - quick.round_s == pytest.approx(32 * part * (1 / 1e6 - 1 / 100e6))
    assert slow_up.high_s - quick.high_s == pytest.approx(32 * part * (1 / 1e6 - 1 / 4e6))


@pytest.fixture(scope="module")
def remembered(federation):
    """What the first device remembers once it has priced."""
    context = a_context(NODES[0])
    asked(context, content(federation), "query")
    return context.state


@pytest.mark.parametrize("method", Method)
def test_a_device_trains_the_channels_of_the_method(federation, remembered, method):
    config = {**CONFIG, "method": str(method), "masked": True, "scaled": True}
    context = a_context(NODES[0], config)
    context.state = remembered
    seen = federation.strategy().frequencies.after({"conv1": np.arange(20)}, 9)
    sent = work(federation, 6, seen, method=method)
    found = messages.returned_in(asked(context, sent).content).update
    channels = found.kept["conv1"].tolist()
    width = len(channels)
    assert width in (8, 16)
    assert np.isfinite(found.arrays["conv1.weight"]).all()
    norms = np.linalg.norm(federation.whole["conv1.weight"].reshape(32, -1), axis=1)
    wanted = {
        Method.NESTED: list(range(width)),
        Method.LOCK_STEP: list(range(5, 5 + width)),
        Method.IMPORTANCE: sorted(np.argsort(-norms)[:width].tolist()),
    }
    assert channels == wanted.get(method, channels)
    if method is Method.LEAST_TRAINED:
        assert set(channels) >= set(range(20, 32)) or set(channels) <= set(range(20, 32))


@pytest.mark.parametrize("record", ["task", "arrays", "kept"])
def test_a_device_names_what_the_server_did_not_send(federation, remembered, record):
    incomplete, context = work(federation), a_context(NODES[0])
    context.state = remembered
    del incomplete[record]
    assert f"`{record}`" in asked(context, incomplete).error.reason


def array_changed(record, name, change):
    def changed(sent):
        arrays = messages.arrays_in(sent[record])
        sent[record] = messages.array_record({**arrays, name: change(arrays[name])})

    return changed


def array_gone(record, name):
    def changed(sent):
        del sent[record][name]

    return changed


def nested_header(sent):
    data = npy_of(shape="(" + "-" * 9000 + "1,)")
    sent["arrays"]["fc2.bias"] = Array("float32", (10,), "numpy.ndarray", data)


def task_changed(**values):
    def changed(sent):
        sent["task"] = ConfigRecord({**sent["task"], **values})

    return changed


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (nested_header, "the array `fc2.bias` cannot be read"),
        (array_gone("arrays", "fc2.bias"), "the parameter `fc2.bias` is missing"),
        (array_changed("arrays", "fc2.bias", lambda each: each[1:]), "`fc2.bias` has the shape (9,)"),
        (array_changed("arrays", "fc2.bias", lambda each: each * np.nan), "`fc2.bias` holds what is no number"),
        (array_gone("kept", "conv1"), "`conv1.weight` has the shape"),
        (array_changed("kept", "conv1", lambda each: each + 99), "channel group `conv1` cannot keep"),
        (task_changed(**{"sub-model": "w9"}), "names no sub-model of its catalogue"),
        (task_changed(**{"sub-model": 9}), "the server's task is incomplete"),
        (task_changed(round=-1), "the server's task is incomplete"),
        (task_changed(**{"round-duration-s": float("nan")}), "the server's task is incomplete"),
        (task_changed(model="text"), "the server's task is incomplete"),
    ],
)
def test_a_device_names_what_it_cannot_use_of_what_the_server_sent(federation, remembered, change, reason):
    sent, context = work(federation), a_context(NODES[0])
    context.state = remembered
    change(sent)
    assert reason in asked(context, sent).error.reason


def entry(**changes):
    return json.dumps([{"id": "w1", "widths": {"conv1": 8}, "parameters": 9, "dropped": [], **changes}])


@pytest.mark.parametrize(
    "catalogue",
    [
        *("[", "[1]", '[{"id": "w1"}]', '{"a": 1}', "[" * 100000, "1", "null", "9" * 9999),
        *(entry(widths={"conv1": each}) for each in (inf, 1.5, "8", 0, True, None)),
        *(entry(widths=[1]), entry(parameters=inf), entry(parameters=-1), entry(id=1), entry(dropped=[1])),
        *(entry(dropped=1), entry(widths=1)),
    ],
)
def test_a_damaged_catalogue_is_named(federation, catalogue):
    damaged = content(federation)
    damaged["task"] = ConfigRecord({**damaged["task"], "catalogue": catalogue})
    assert "catalogue of sub-models is damaged" in asked(a_context(NODES[1]), damaged).error.reason


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"name": ""}, "what it is called"),
        ({"name": "a\nb"}, "what it is called"),
        ({"number": -1}, "what it is called"),
        ({"examples": 0}, "how many examples"),
        ({"ids": ["w1"]}, "not those of the catalogue"),
        ({"high-s": [1.0, 2.0]}, "no `high-s`"),
        ({"high-s": [1.0, 1.0, 1.0, float("nan")]}, "a `high-s` that is no time"),
        ({"low-s": [-1.0, 1.0, 1.0, 1.0]}, "a `low-s` that is no time"),
        ({"memory-bytes": [1, 2, 3, -4]}, "no sizes in memory"),
    ],
)
def test_prices_that_are_none_are_named(federation, change, reason):
    good = messages.prices_record(next(iter(federation.devices.values())))
    assert messages.prices_in(good, federation.sub_models).rounds
    with pytest.raises(LatteError) as error:
        messages.prices_in(ConfigRecord({**good, **change}), federation.sub_models)
    assert reason in error.value.message


def test_a_device_stops_by_its_own_clock_after_one_step_at_least():
    times = iter([0.0, 1.0, 2.0, 3.5, 5.0])
    countdown = device.Countdown(5.0, clock=lambda: next(times))
    assert [countdown(steps) for steps in (1, 2, 3)] == [True, True, True]
    assert not countdown(4)
    assert not device.Countdown(-1.0)(1)


def test_what_comes_before_the_first_step_is_no_step():
    times = iter([0.0, 6.0, 6.5, 7.0, 9.8])
    countdown = device.Countdown(10.0, clock=lambda: next(times))
    work = TrainingWork(Recipe(), countdown)
    assert not work.is_over()
    for over in (False, False, True):
        work.count(1, 0.5)
        assert work.is_over() is over


def test_devices_that_stop_in_time_train_fewer_examples_and_count_as_all_of_theirs(federation):
    context = a_context(NODES[0], {**UNEVEN, "deadline": "partial"})
    asked(context, content(federation), "query")
    sent = work(federation, deadline=Deadline.PARTIAL, round_duration_s=1e-6)
    returned = messages.returned_in(asked(context, sent).content)
    examples = federation.devices[min(federation.devices)].examples
    assert returned.trained == min(32, examples)
    assert returned.update.examples == examples
    strategy = federation.strategy(deadline=Deadline.PARTIAL, round_duration_s=None)
    strategy.devices.update(federation.devices)
    first_steps = ([each.sending_s + each.step_s for each in device.rounds] for device in federation.devices.values())
    assert strategy.duration_s() == 2 * max(map(min, first_steps))


# Prices of later rounds


def measuring(times):
    """The second device says that its steps took so many times what it priced."""

    def tamper(reply, message):
        prices = next(each for each in measuring.devices if each.name == "workstation")
        task = messages.task_in(message.content)
        step_s = times * next(each.step_s for each in prices.rounds if each.sub_model.id == task.sub_model)
        return with_metrics(**{"step-s": step_s, "step-spread-s": 0.0})(reply, message)

    return tamper


def sent_in_round_2(federation, times):
    measuring.devices = list(federation.devices.values())
    strategy, arrays = federation.round(measuring(times), learn_times=True)
    before = strategy.round_duration_s
    asked = strategy.configure_train(2, messages.array_record(federation.whole), ConfigRecord(), federation.grid)
    assert strategy.round_duration_s == before
    sent = {
        strategy.devices[each.metadata.dst_node_id].name: messages.task_in(each.content).sub_model for each in asked
    }
    return strategy, arrays, sent


def test_a_devices_own_steps_correct_its_prices_and_nobody_elses(federation, caplog):
    first, arrays, as_priced = sent_in_round_2(federation, 1.0)
    strategy, slowed, sent = sent_in_round_2(federation, 1e9)
    assert all(np.array_equal(arrays[name], slowed[name]) for name in arrays)
    assert sent["device-0"] == as_priced["device-0"]
    (narrow, wide), (same, slow) = (each.rounds[0].trained for each in (first, strategy))
    assert (narrow, replace(wide, step_s=slow.step_s)) == (same, slow)
    assert wide.price == wide.in_use
    assert wide.price.low_s < wide.step_s == wide.price.step_s < wide.price.high_s
    assert narrow.step_s is None
    most = np.exp(4 * wide.price.sd)
    assert f"a step of `workstation` took 1e+09 times what its profile says, of which {most:.3g} times count" in (
        caplog.text
    )
    node = next(node for node, each in strategy.devices.items() if each.name == "workstation")
    (now, _), (before, _) = strategy._given[node], first._given[node]
    assert before.sub_model == now.sub_model
    assert 1 < now.step_s / before.step_s <= most


def test_what_a_device_measured_leads_to_another_sub_model(federation):
    measuring.devices = list(federation.devices.values())
    (priced,) = (each for each in measuring.devices if each.name == "workstation")
    whole, *_ = priced.rounds
    strategy, _ = federation.round(measuring(2.0), learn_times=True, round_duration_s=whole.high_s)
    asked = strategy.configure_train(2, messages.array_record(federation.whole), ConfigRecord(), federation.grid)
    (after,) = (
        messages.task_in(each.content).sub_model
        for each in asked
        if strategy.devices[each.metadata.dst_node_id].name == "workstation"
    )
    assert [each.sub_model for each in strategy.rounds[0].trained if each.name == "workstation"] == ["w1"]
    assert after != "w1"


def test_devices_measure_their_steps_unless_they_are_virtual_or_asked_not_to(federation):
    context = a_context(NODES[0], {**UNEVEN, "learn-times": True})
    asked(context, content(federation), "query")
    returned = messages.returned_in(asked(context, work(federation)).content)
    assert 0 < returned.step_s < 60
    assert returned.steps == -(-returned.trained // 32)
    context = a_context(NODES[0])
    asked(context, content(federation), "query")
    assert messages.returned_in(asked(context, work(federation)).content).step_s is None
    assert not settings({"fleet": "fleet.yaml"}).measures_steps


def test_a_step_lasts_from_the_end_of_the_one_before_and_the_first_counts_alone_only():
    times = iter([5.0, 9.0, 10.0, 13.0])
    work = TrainingWork(Recipe(), lambda steps: True, clock=lambda: next(times))
    work.is_over()
    work.count(1, 0.5)
    assert work.step_time_s == (4.0, 0.0)
    for _ in range(2):
        work.is_over()
        work.count(1, 0.5)
    assert work.step_time_s == (2.0, 1.0)
