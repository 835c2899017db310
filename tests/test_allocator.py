from dataclasses import replace

import made_rows
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from latte_cli.allocator import Pricer, SubModel, allocate, catalogue, round_of
from latte_cli.devices import CPU, Device
from latte_cli.errors import ExitCode, LatteError
from latte_cli.estimator import Diagnostic, Estimate, Estimator, Limits, Memory, Step
from latte_cli.estimator.memory import Moment
from latte_cli.fleet import Fleet, FleetClass
from latte_cli.layers import Convolution, Linear, Phase, View
from latte_cli.network import Network, Node
from latte_cli.network.channels import sub_model
from latte_cli.store import open_store
from latte_cli.tasks import Settings

GIB = 1 << 30
DEVICE = Device(slug="arm-a76-4t", kind=CPU, name="Arm A76", memory_bytes=4 * GIB)
PHONE = FleetClass(
    name="phone", device="arm", count=3, samples=100, epochs=2, batch=8, up_bit_per_s=4e6, down_bit_per_s=16e6
)


def network(batch=8):
    convolution = Convolution(batch=batch, in_channels=3, out_channels=16, input=(4, 4), kernel=(3, 3))
    head = Linear(rows=batch, in_features=64, out_features=10)
    nodes = (
        Node(name="conv", layer=convolution, inputs=("x",), output="conv"),
        Node(name="view", layer=View(shape=(batch, 16, 2, 2), output=(batch, 64)), inputs=("conv",), output="view"),
        Node(name="head", layer=head, inputs=("view",), output="head"),
    )
    return Network(name="small", inputs=(("x", (batch, 3, 4, 4)),), nodes=nodes, outputs=("head",))


def recorded(step_s, *, low=0.9, high=1.2, memory_bytes=GIB, device=DEVICE, warnings=()):
    moment = Moment(
        name="conv",
        phase=Phase.FORWARD,
        parameters_bytes=memory_bytes,
        gradients_bytes=0,
        optimizer_bytes=0,
        activations_bytes=0,
        temporary_bytes=0,
    )
    return Estimate(
        device=device,
        network=network(),
        strategy="latte",
        settings=Settings(threads=4),
        step=Step(),
        parts=(),
        forward_s=0.25 * step_s,
        backward_s=0.75 * step_s,
        update_s=0.0,
        other_s=0.0,
        step_low_s=low * step_s,
        step_high_s=high * step_s,
        step_low_80_s=low**0.65 * step_s,
        step_high_80_s=high**0.65 * step_s,
        memory=Memory(timeline=(moment,)),
        warnings=warnings,
    )


def entry(width, parameters):
    return SubModel(id=f"w{width}", width=width, widths=(("conv", int(16 * width)),), parameters=parameters)


WHOLE, HALF, QUARTER = entry(1, 1_000_000), entry(0.5, 250_000), entry(0.25, 62_500)
THREE = (WHOLE, HALF, QUARTER)
STEPS_S = {WHOLE: 1.0, HALF: 0.4, QUARTER: 0.1}


def rounds(price):
    return lambda sub, fleet_class: round_of(sub, fleet_class, price(sub, fleet_class))


def planned(round_duration_s, *, price=lambda sub, _: recorded(STEPS_S[sub]), fleet_class=PHONE, sub_models=THREE):
    plan = allocate(sub_models, Fleet(classes=(fleet_class,)), rounds(price), round_duration_s)
    return plan.devices[0]


def test_a_round_is_its_steps_and_the_way_of_the_parameters():
    found = planned(1e6)
    steps = 2 * 13
    moving_s = 32e6 / 4e6 + 32e6 / 16e6
    assert found.sub_model is WHOLE
    assert found.round_s == pytest.approx(steps * 1.0 + moving_s)
    assert (found.low_s, found.high_s) == pytest.approx((steps * 0.9 + moving_s, steps * 1.2 + moving_s))
    assert (found.device, found.memory_bytes) == ("arm-a76-4t", GIB)


def test_the_upper_end_of_the_interval_has_to_meet_the_round_duration():
    high_s = 26 * 1.2 + 10
    assert planned(high_s + 1e-6).sub_model is WHOLE
    assert planned(high_s - 1e-6).sub_model is HALF


def test_a_class_that_cannot_meet_it_is_told_the_least_round():
    found = planned(1.0)
    assert not found.feasible
    assert (found.sub_model, found.round_s, found.low_s, found.high_s) == (None, None, None, None)
    assert found.least_s == pytest.approx(26 * 0.12 + 2e6 / 4e6 + 2e6 / 16e6)
    assert planned(found.least_s).sub_model is QUARTER


def test_the_least_round_need_not_be_that_of_the_smallest():
    steps_s = {WHOLE: 1.0, HALF: 0.2, QUARTER: 0.9}
    found = planned(1.0, price=lambda sub, _: recorded(steps_s[sub]))
    assert planned(found.least_s, price=lambda sub, _: recorded(steps_s[sub])).sub_model is HALF


def test_a_step_has_to_fit_the_memory():
    need = {WHOLE: 6 * GIB, HALF: 3 * GIB, QUARTER: GIB}

    def price(sub, _):
        return recorded(STEPS_S[sub], memory_bytes=need[sub])

    assert planned(1e6, price=price).sub_model is HALF
    assert planned(1e6, price=price, fleet_class=replace(PHONE, memory_bytes=2 * GIB)).sub_model is QUARTER
    assert planned(1e6, price=price, fleet_class=replace(PHONE, memory_bytes=8 * GIB)).sub_model is WHOLE
    none = planned(1e6, price=price, fleet_class=replace(PHONE, memory_bytes=GIB - 1))
    assert not none.feasible
    assert (none.least_s, none.memory_bytes) == (None, GIB)


def test_memory_that_is_not_known_bounds_nothing_and_is_a_doubt():
    unknown = replace(DEVICE, memory_bytes=None)
    found = planned(1e6, price=lambda sub, _: recorded(1.0, memory_bytes=1 << 60, device=unknown))
    assert found.sub_model is WHOLE
    assert [diagnostic.code for diagnostic in found.warnings] == ["unknown_memory"]


def test_the_doubts_are_those_of_the_sub_model_that_was_chosen():
    diagnostics = {sub: (Diagnostic(code=sub.id, message="look again"),) for sub in THREE}
    found = planned(26 * 1.2, price=lambda sub, _: recorded(STEPS_S[sub], warnings=diagnostics[sub]))
    assert [diagnostic.code for diagnostic in found.warnings] == ["w0.5"]


def test_of_equally_large_sub_models_the_faster_then_the_first_is_taken():
    slow, fast, again = (replace(HALF, id=name) for name in ("slow", "fast", "again"))
    steps_s = {slow: 0.5, fast: 0.4, again: 0.4}
    assert planned(1e6, sub_models=(slow, fast, again), price=lambda sub, _: recorded(steps_s[sub])).sub_model is fast


def test_a_plan_is_feasible_when_every_class_is():
    slow = replace(PHONE, name="slow")

    def price(sub, fleet_class):
        return recorded(STEPS_S[sub] * (100 if fleet_class is slow else 1))

    plan = allocate(THREE, Fleet(classes=(PHONE, slow)), rounds(price), 30)
    assert [device.feasible for device in plan.devices] == [True, False]
    assert not plan.feasible
    assert plan.least_s == pytest.approx(26 * 12 + 0.625)
    assert allocate(THREE, Fleet(classes=(PHONE, slow)), rounds(price), plan.least_s).feasible


def test_without_sub_models_there_is_nothing_to_allocate():
    with pytest.raises(LatteError, match="no sub-model"):
        planned(30, sub_models=())


quantities = st.sampled_from((0.01, 0.3, 1.0, 1.0, 2.5, 40.0))


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_no_other_choice_is_better_than_the_plan(data):
    sizes = data.draw(st.lists(st.sampled_from((10, 10, 500, 4000, 10**6)), min_size=1, max_size=6))
    subs = tuple(SubModel(id=f"s{n}", width=1.0, widths=(), parameters=size) for n, size in enumerate(sizes))
    classes = tuple(
        FleetClass(
            name=f"c{n}",
            device="arm",
            samples=data.draw(st.integers(1, 40)),
            epochs=data.draw(st.integers(1, 3)),
            batch=data.draw(st.integers(1, 16)),
            up_bit_per_s=data.draw(st.sampled_from((1e4, 1e6))),
            down_bit_per_s=data.draw(st.sampled_from((1e4, 1e6))),
            memory_bytes=data.draw(st.sampled_from((None, 100, 1000))),
        )
        for n in range(data.draw(st.integers(1, 3)))
    )
    prices = {
        (sub.id, each.name): recorded(
            data.draw(quantities),
            high=data.draw(st.sampled_from((1.1, 1.5))),
            memory_bytes=data.draw(st.sampled_from((50, 100, 101, 2000))),
            device=replace(DEVICE, memory_bytes=data.draw(st.sampled_from((None, 150)))),
        )
        for sub in subs
        for each in classes
    }
    round_duration_s = data.draw(st.sampled_from((0.5, 5.0, 60.0, 5000.0)))
    price = rounds(lambda sub, each: prices[sub.id, each.name])
    plan = allocate(subs, Fleet(classes=classes), price, round_duration_s)
    for each, found in zip(classes, plan.devices, strict=True):
        possible, least = [], []
        for sub in subs:
            price = prices[sub.id, each.name]
            limit = each.memory_bytes or price.device.memory_bytes
            bits = 32 * sub.parameters
            steps = each.epochs * len(range(0, each.samples, each.batch))
            high_s = steps * price.step_high_s + (bits / each.up_bit_per_s + bits / each.down_bit_per_s)
            if limit is None or price.memory_bytes <= limit:
                least.append(high_s)
                if high_s <= round_duration_s:
                    possible.append((sub, high_s))
        assert found.least_s == (min(least) if least else None)
        assert found.feasible == bool(possible)
        if found.sub_model:
            best = max(sub.parameters for sub, _ in possible)
            assert found.sub_model.parameters == best
            assert found.high_s == min(high_s for sub, high_s in possible if sub.parameters == best)
            assert found.low_s <= found.round_s <= found.high_s <= round_duration_s


def test_a_catalogue_lists_uniform_widths_largest_first():
    found = catalogue(network(), (0.25, 1, 0.5, 0.5))
    assert [(sub.id, sub.widths) for sub in found] == [
        ("w1", (("conv", 16),)),
        ("w0.5", (("conv", 8),)),
        ("w0.25", (("conv", 4),)),
    ]
    assert [sub.parameters for sub in found] == [27 * k + 40 * k + 10 for k in (16, 8, 4)]


def test_widths_that_leave_the_same_channels_are_one_sub_model():
    assert [sub.id for sub in catalogue(network(), (0.5, 0.49, 0.48, 0.43))] == ["w0.5", "w0.43"]


@pytest.fixture
def store(tmp_path):
    """Made-up rows of every layer of two sub-models at two batch sizes, with two and with one thread."""
    store = open_store(str(tmp_path), shipped=False)
    parts = [sub_model(made_rows.network(batch), width) for batch in (8, 4) for width in (1, 0.5)]
    layers = [layer for part in parts for layer in made_rows.step_layers(part)]
    made_rows.profile(store, layers)
    made_rows.profile(store, layers, replace(made_rows.SETTINGS, threads=1))
    return store


def test_the_model_is_read_at_each_batch_size_once_and_an_estimator_serves_equal_settings(store):
    read, opened = [], []

    def read_at(batch):
        read.append(batch)
        return made_rows.network(batch)

    def estimator(each):
        opened.append(each.name)
        return Estimator(store, made_rows.DEVICE.slug, threads=each.threads)

    other, third = replace(PHONE, name="other", batch=4), replace(PHONE, name="third", threads=1)
    sub_models = catalogue(made_rows.network(), (1, 0.5))
    plan = allocate(sub_models, Fleet(classes=(PHONE, other, third)), Pricer(read_at, estimator), 60)
    assert plan.feasible
    assert read == [8, 4]
    assert opened == ["phone", "third"]


def test_a_price_is_the_estimate_of_the_sub_model_at_the_batch_of_the_class(store):
    estimator = Estimator(store, made_rows.DEVICE.slug)
    price = Pricer(made_rows.network, lambda _: estimator, optimizer="none")
    half = catalogue(made_rows.network(), (1, 0.5))[1]
    fours = replace(PHONE, batch=4, overhead_s=2.0)
    step_s = estimator.estimate(half.of(made_rows.network(4)), "none").step_s
    assert price(half, fours).round_s == fours.round_s(step_s, half.parameters)
    assert fours.round_s(step_s, half.parameters) == pytest.approx(50 * step_s + 32 * half.parameters / 3.2e6 + 2)
    assert price(half, replace(fours, optimizer="sgd")).round_s > price(half, fours).round_s


def test_a_sub_model_that_does_not_fit_has_the_least_memory_and_no_time(store):
    def estimator(each):
        return Estimator(store, made_rows.DEVICE.slug, limits=Limits(memory_bytes=each.memory_bytes))

    price = Pricer(made_rows.network, estimator)
    whole, half = catalogue(made_rows.network(), (1, 0.5))
    needed = price(whole, PHONE).memory_bytes
    tight = replace(PHONE, memory_bytes=needed // 2)
    found = price(whole, tight)
    assert (found.round_s, found.high_s, found.meets(1e9)) == (None, None, False)
    assert needed // 2 < found.memory_bytes <= needed
    plan = allocate((whole, half), Fleet(classes=(replace(PHONE, memory_bytes=needed - 1),)), price, 1e6)
    assert plan.devices[0].sub_model in (whole, half)


def test_what_cannot_be_priced_names_class_and_sub_model(store):
    price = Pricer(made_rows.network, lambda _: Estimator(store, made_rows.DEVICE.slug))
    with pytest.raises(LatteError, match="class `phone`, sub-model `w1`: unknown optimizer `sdg`") as caught:
        price(catalogue(made_rows.network(), (1,))[0], replace(PHONE, optimizer="sdg"))
    assert (caught.value.hint, caught.value.exit_code) == ("did you mean `sgd`?", ExitCode.USAGE)
