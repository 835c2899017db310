"""Suites cover the space, whatever their prefix, and keep the standard networks unseen."""

import math

import pytest

from latte_cli import suites
from latte_cli.layers import LAYERS, Checkpoint, Convolution, Other, Phase, Stored, Transfer, View, Whole
from latte_cli.network import load
from latte_cli.network.zoo import ZOO, export
from latte_cli.suites import LayerLimits, fits_limits
from latte_cli.sweep import Depth

ROOMY = LayerLimits(flops=2e10, tensor_bytes=8e9)


@pytest.fixture(scope="module")
def standard() -> suites.Drawn:
    return suites.standard(0, ROOMY)


def test_standard_covers_every_layer_kind_and_phase(standard: suites.Drawn) -> None:
    found = {(item.layer.kind, phase) for item in standard.wanted for phase in item.layer.phases}
    apart = (View, Other, Stored, Transfer, Whole, Checkpoint)
    assert found == {(kind.kind, phase) for kind in LAYERS if kind not in apart for phase in kind.phases}


def test_standard_shares_no_layer_with_the_zoo(
    standard: suites.Drawn, tmp_path_factory: pytest.TempPathFactory
) -> None:
    def without_batch(layer: object) -> str:
        return repr(layer).partition("batch=")[2].partition(",")[2] or repr(layer)

    drawn = {item.layer for item in standard.wanted} | {item.layer for item in suites.quick(0, ROOMY).wanted}
    shapes = {without_batch(layer) for layer in drawn if isinstance(layer, Convolution)}
    folder = tmp_path_factory.mktemp("zoo")
    for name in ZOO:
        path = folder / f"{name}.onnx"
        path.write_bytes(export(name))
        for batch in (1, 8, 32):
            network = load(path, batch_size=batch)
            assert drawn.isdisjoint({*network.layers, network.loss(), network.optimizer("sgd")}), name
        own = {without_batch(layer) for layer in network.layers if isinstance(layer, Convolution)}
        assert shapes.isdisjoint(own), name


def test_a_prefix_covers_the_kinds_and_sizes(standard: suites.Drawn) -> None:
    prefix, whole = standard.wanted[:200], standard.wanted
    assert len({item.layer.kind for item in prefix}) >= 10
    for share in (prefix, whole):
        sizes = [math.log(item.layer.flops(Phase.FORWARD)) for item in share if isinstance(item.layer, Convolution)]
        assert 16 < sum(sizes) / len(sizes) < 21
    assert {item.depth for item in prefix} == set(Depth)


def test_the_same_seed_draws_the_same_suite_and_another_seed_another() -> None:
    assert suites.quick(3, ROOMY) == suites.quick(3, ROOMY)
    assert set(suites.quick(3, ROOMY).wanted) != set(suites.quick(4, ROOMY).wanted)


def test_the_paper_s_space_is_kept_to_and_rejects_are_counted() -> None:
    drawn = suites.paper(0, ROOMY, configs=300)
    assert len(drawn.wanted) == 300
    assert drawn.rejected > 0
    for item in drawn.wanted:
        layer = item.layer
        assert isinstance(layer, Convolution)
        assert 4 <= layer.batch <= 64
        assert 32 <= layer.input[0] == layer.input[1] <= 512
        assert 16 <= layer.out_channels <= 1024
        assert 3 <= layer.in_channels <= 1024
        assert 1 <= layer.kernel[0] == layer.kernel[1] <= 7
        assert layer.stride[0] in (1, 2)
        assert fits_limits(layer, ROOMY)
    assert any(item.layer.groups > 1 for item in drawn.wanted if isinstance(item.layer, Convolution))


def test_limits_reject_what_is_too_large() -> None:
    layer = Convolution(batch=64, in_channels=64, out_channels=64, input=(725, 725), kernel=(1, 1))
    assert not fits_limits(layer, LayerLimits(flops=1e15, tensor_bytes=1e15))  # 2^31 elements and more
    assert not fits_limits(layer, LayerLimits(flops=1e3, tensor_bytes=1e15))
    small = Convolution(batch=1, in_channels=64, out_channels=64, input=(72, 72), kernel=(1, 1))
    assert fits_limits(small, ROOMY)


def test_deepbench_is_the_whole_benchmark_without_its_four_repeats() -> None:
    drawn = suites.deepbench(LayerLimits(flops=1e15, tensor_bytes=1e15))
    assert (len(drawn.wanted), drawn.rejected) == (90, 0)


def test_a_network_is_measured_with_its_loss_and_updates(tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("model") / "lenet.onnx"
    path.write_bytes(export("lenet"))
    network = load(path, batch_size=4)
    layers = [item.layer for item in suites.networks([network, network]).wanted]
    assert len(layers) == len(set(layers))
    assert network.loss() in layers
    assert network.optimizer("adam") in layers
    assert not any(layer.free for layer in layers)


def test_convolutions_are_all_with_their_alternatives_and_any_number_is_the_beginning_of_more() -> None:
    more, fewer = (suites.convolutions(0, ROOMY, configs=count).wanted for count in (300, 120))
    assert more[:120] == fewer
    assert {item.depth for item in more} == {Depth.USUAL}
    assert {item.layer.kind for item in more} == {"convolution"}
    assert len({item.layer for item in more}) == 300
