"""The standard networks, written as ONNX graphs without torch."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from math import prod, sqrt
from typing import Any, TypeAlias

import numpy as np

from latte_cli import __version__
from latte_cli.errors import ExitCode, LatteError, unknown
from latte_cli.network.graph import Network

_OPSET = 13
_IR_VERSION = 8
_LARGEST_IMAGE = 4096


@dataclass(frozen=True, kw_only=True)
class _Value:
    """An activation: `channels` of `size` · `size` (`size` 0 once it is flat)."""

    name: str
    channels: int
    size: int = 0


@dataclass(kw_only=True)
class _Builder:
    """Collects nodes and weights; each method adds an operator to `x` and returns what it writes.

    Without a `generator` a weight is a ConstantOfShape node, which says its shape and nothing more.
    """

    classes: int
    generator: np.random.Generator | None
    nodes: list[Any] = field(default_factory=list)
    weights: dict[str, Any] = field(default_factory=dict)

    def conv(
        self,
        name: str,
        x: _Value,
        channels: int,
        kernel: int,
        *,
        stride: int = 1,
        pad: int = 0,
        groups: int = 1,
        bias: bool = False,
    ) -> _Value:
        shape = (channels, x.channels // groups, kernel, kernel)
        inputs = [self._random(f"{name}.weight", shape)] + ([self._fill(f"{name}.bias", channels, 0.0)] * bias)
        y = self._window("Conv", name, x, kernel, stride, pad, inputs, group=groups)
        return replace(y, channels=channels)

    def batch_norm(self, name: str, x: _Value) -> _Value:
        values = {"weight": 1.0, "bias": 0.0, "running_mean": 0.0, "running_var": 1.0}
        return self._add(
            "BatchNormalization", name, x, [self._fill(f"{name}.{k}", x.channels, v) for k, v in values.items()]
        )

    def relu(self, name: str, x: _Value) -> _Value:
        return self._add("Relu", name, x)

    def relu6(self, name: str, x: _Value) -> _Value:
        return self._add("Clip", name, x, [self._scalar("relu6.min", 0.0), self._scalar("relu6.max", 6.0)])

    def max_pool(self, name: str, x: _Value, kernel: int, *, stride: int, pad: int = 0) -> _Value:
        return self._window("MaxPool", name, x, kernel, stride, pad)

    def average_pool(self, name: str, x: _Value, size: int) -> _Value:
        """Average to `size` · `size` by equal windows; an image that is already smaller stays as it is."""
        if x.size <= size:
            return x
        stride = x.size // size
        return self._window("AveragePool", name, x, x.size - stride * (size - 1), stride, 0)

    def global_pool(self, name: str, x: _Value) -> _Value:
        return replace(self._add("GlobalAveragePool", name, x), size=1)

    def flatten(self, name: str, x: _Value) -> _Value:
        return _Value(name=self._add("Flatten", name, x, axis=1).name, channels=x.channels * x.size**2)

    def linear(self, name: str, x: _Value, features: int) -> _Value:
        weights = [self._random(f"{name}.weight", (features, x.channels)), self._fill(f"{name}.bias", features, 0.0)]
        return replace(self._add("Gemm", name, x, weights, transB=1), channels=features)

    def dropout(self, name: str, x: _Value, ratio: float = 0.5) -> _Value:
        return self._add("Dropout", name, x, [self._scalar(f"ratio_{ratio}", ratio)])

    def add(self, name: str, x: _Value, other: _Value) -> _Value:
        return self._add("Add", name, x, [other.name])

    def _window(
        self,
        kind: str,
        name: str,
        x: _Value,
        kernel: int,
        stride: int,
        pad: int,
        inputs: Sequence[str] = (),
        **attributes: Any,
    ) -> _Value:
        size = (x.size + 2 * pad - kernel) // stride + 1
        if size < 1:
            raise LatteError(f"the image is too small: {x.size} pixels are left before `{name}`")
        sizes = {"kernel_shape": [kernel] * 2, "strides": [stride] * 2, "pads": [pad] * 4}
        return replace(self._add(kind, name, x, inputs, **sizes, **attributes), size=size)

    def _add(self, kind: str, name: str, x: _Value, inputs: Sequence[str] = (), **attributes: Any) -> _Value:
        from onnx import helper

        self.nodes.append(helper.make_node(kind, [x.name, *inputs], [name], name=name, **attributes))
        return replace(x, name=name)

    def _random(self, name: str, shape: tuple[int, ...]) -> str:
        """Kaiming-normal weights: variance 2 / fan-in (He et al., 2015)."""
        if self.generator is None:
            return self._constant(name, shape, 0.0)
        scale = np.float32(sqrt(2 / prod(shape[1:])))
        return self._initializer(name, self.generator.standard_normal(shape, np.float32) * scale)

    def _fill(self, name: str, size: int, value: float) -> str:
        if self.generator is None:
            return self._constant(name, (size,), value)
        return self._initializer(name, np.full(size, value, np.float32))

    def _scalar(self, name: str, value: float) -> str:
        return self._initializer(name, np.asarray(value, np.float32))

    def _constant(self, name: str, shape: tuple[int, ...], value: float) -> str:
        from onnx import helper, numpy_helper

        sizes = self._initializer(f"shape_{'x'.join(map(str, shape))}", np.asarray(shape, np.int64))
        fill = numpy_helper.from_array(np.full(1, value, np.float32))
        self.nodes.append(helper.make_node("ConstantOfShape", [sizes], [name], name=f"{name}.fill", value=fill))
        return name

    def _initializer(self, name: str, values: Any) -> str:
        from onnx import numpy_helper

        if name not in self.weights:
            self.weights[name] = numpy_helper.from_array(values, name)
        return name


_Build: TypeAlias = Callable[[_Builder, _Value], _Value]


def _alexnet(net: _Builder, x: _Value) -> _Value:
    layers = ((64, 11, 4, 2, True), (192, 5, 1, 2, True), (384, 3, 1, 1, False), (256, 3, 1, 1, False))
    for at, (channels, kernel, stride, pad, pooled) in enumerate((*layers, (256, 3, 1, 1, True)), start=1):
        x = net.relu(f"relu{at}", net.conv(f"conv{at}", x, channels, kernel, stride=stride, pad=pad, bias=True))
        if pooled:
            x = net.max_pool(f"pool{at}", x, 3, stride=2)
    x = net.flatten("flatten", net.average_pool("average", x, 6))
    for at in (1, 2):
        x = net.relu(f"fc{at}.relu", net.linear(f"fc{at}", net.dropout(f"dropout{at}", x), 4096))
    return net.linear("fc3", x, net.classes)


def _custom_cnn(net: _Builder, x: _Value) -> _Value:
    for at, channels in enumerate((32, 64, 128), start=1):
        x = net.relu(f"relu{at}", net.conv(f"conv{at}", x, channels, 3, pad=1, bias=True))
        if at < 3:
            x = net.max_pool(f"pool{at}", x, 2, stride=2)
    x = net.relu("fc1.relu", net.linear("fc1", net.flatten("flatten", x), 256))
    return net.linear("fc2", x, net.classes)


def _lenet(net: _Builder, x: _Value) -> _Value:
    x = net.max_pool("pool1", net.relu("relu1", net.conv("conv1", x, 6, 5, pad=2, bias=True)), 2, stride=2)
    x = net.max_pool("pool2", net.relu("relu2", net.conv("conv2", x, 16, 5, bias=True)), 2, stride=2)
    x = net.flatten("flatten", x)
    for at, features in enumerate((120, 84), start=1):
        x = net.relu(f"fc{at}.relu", net.linear(f"fc{at}", x, features))
    return net.linear("fc3", x, net.classes)


def _conv_bn_relu6(
    net: _Builder, name: str, x: _Value, channels: int, kernel: int, *, stride: int = 1, groups: int = 1
) -> _Value:
    x = net.conv(f"{name}.conv", x, channels, kernel, stride=stride, pad=kernel // 2, groups=groups)
    return net.relu6(f"{name}.relu6", net.batch_norm(f"{name}.bn", x))


def _inverted_residual(net: _Builder, name: str, x: _Value, channels: int, stride: int, widening: int) -> _Value:
    y, hidden = x, x.channels * widening
    if widening > 1:
        y = _conv_bn_relu6(net, f"{name}.expand", y, hidden, 1)
    y = _conv_bn_relu6(net, f"{name}.depthwise", y, hidden, 3, stride=stride, groups=hidden)
    y = net.batch_norm(f"{name}.project.bn", net.conv(f"{name}.project.conv", y, channels, 1))
    return net.add(f"{name}.add", x, y) if stride == 1 and x.channels == channels else y


def _mobilenet_v2(net: _Builder, x: _Value) -> _Value:
    stages = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
    x, block = _conv_bn_relu6(net, "features.0", x, 32, 3, stride=2), 0
    for widening, channels, repeats, stride in stages:
        for repeat in range(repeats):
            block += 1
            step = stride if repeat == 0 else 1
            x = _inverted_residual(net, f"features.{block}", x, channels, step, widening)
    x = _conv_bn_relu6(net, f"features.{block + 1}", x, 1280, 1)
    x = net.flatten("flatten", net.global_pool("average", x))
    return net.linear("classifier", net.dropout("dropout", x, 0.2), net.classes)


def _mobilenet_v1(net: _Builder, x: _Value) -> _Value:
    stages = ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *((512, 1),) * 5, (1024, 2), (1024, 1))
    x = _conv_bn_relu6(net, "features.0", x, 32, 3, stride=2)
    for block, (channels, stride) in enumerate(stages, start=1):
        x = _conv_bn_relu6(net, f"features.{block}.depthwise", x, x.channels, 3, stride=stride, groups=x.channels)
        x = _conv_bn_relu6(net, f"features.{block}.pointwise", x, channels, 1)
    return net.linear("classifier", net.flatten("flatten", net.global_pool("average", x)), net.classes)


def _basic_block(net: _Builder, name: str, x: _Value, width: int, stride: int) -> _Value:
    y = net.batch_norm(f"{name}.bn1", net.conv(f"{name}.conv1", x, width, 3, stride=stride, pad=1))
    y = net.conv(f"{name}.conv2", net.relu(f"{name}.relu1", y), width, 3, pad=1)
    return _join(net, name, x, net.batch_norm(f"{name}.bn2", y), stride)


def _bottleneck(net: _Builder, name: str, x: _Value, width: int, stride: int) -> _Value:
    y = net.relu(f"{name}.relu1", net.batch_norm(f"{name}.bn1", net.conv(f"{name}.conv1", x, width, 1)))
    y = net.conv(f"{name}.conv2", y, width, 3, stride=stride, pad=1)
    y = net.relu(f"{name}.relu2", net.batch_norm(f"{name}.bn2", y))
    y = net.batch_norm(f"{name}.bn3", net.conv(f"{name}.conv3", y, 4 * width, 1))
    return _join(net, name, x, y, stride)


def _join(net: _Builder, name: str, x: _Value, y: _Value, stride: int) -> _Value:
    """The block's output plus its input, which a 1x1 convolution brings to the same shape."""
    if stride > 1 or x.channels != y.channels:
        x = net.conv(f"{name}.downsample.0", x, y.channels, 1, stride=stride)
        x = net.batch_norm(f"{name}.downsample.1", x)
    return net.relu(f"{name}.relu", net.add(f"{name}.add", y, x))


_Block: TypeAlias = Callable[[_Builder, str, _Value, int, int], _Value]


def _resnet(net: _Builder, x: _Value, *, block: _Block, blocks: tuple[int, ...], cifar: bool = False) -> _Value:
    width = 16 if cifar else 64
    x = net.conv("conv1", x, width, 3, pad=1) if cifar else net.conv("conv1", x, width, 7, stride=2, pad=3)
    x = net.relu("relu", net.batch_norm("bn1", x))
    if not cifar:
        x = net.max_pool("maxpool", x, 3, stride=2, pad=1)
    for stage, count in enumerate(blocks):
        for at in range(count):
            x = block(net, f"layer{stage + 1}.{at}", x, width << stage, 2 if stage and not at else 1)
    return net.linear("fc", net.flatten("flatten", net.global_pool("avgpool", x)), net.classes)


def _vgg(net: _Builder, x: _Value, *, stages: tuple[int, ...]) -> _Value:
    for stage, count in enumerate(stages, start=1):
        for at in range(1, count + 1):
            conv = net.conv(f"conv{stage}_{at}", x, min(512, 32 << stage), 3, pad=1, bias=True)
            x = net.relu(f"relu{stage}_{at}", conv)
        x = net.max_pool(f"pool{stage}", x, 2, stride=2)
    x = net.flatten("flatten", net.average_pool("average", x, 7))
    for at in (1, 2):
        x = net.dropout(f"dropout{at}", net.relu(f"fc{at}.relu", net.linear(f"fc{at}", x, 4096)))
    return net.linear("fc3", x, net.classes)


@dataclass(frozen=True, kw_only=True)
class ZooModel:
    """A network that can be exported; `image_size` and `classes` are its defaults, sizes from `smallest` on work."""

    description: str
    build: _Build
    image_size: int = 224
    classes: int = 1000
    channels: int = 3
    smallest: int = 1


_ALEXNET = "AlexNet as in torchvision: 5 convolutions, 3 linear layers, dropout"
_CUSTOM_CNN = "small CNN of federated-learning papers: conv 32, pool, conv 64, pool, conv 128, fc 256, fc"
_LENET = "LeNet-5 with ReLU and max pooling, for MNIST"

ZOO: Mapping[str, ZooModel] = {
    "alexnet": ZooModel(description=_ALEXNET, build=_alexnet, smallest=63),
    "custom_cnn": ZooModel(description=_CUSTOM_CNN, build=_custom_cnn, image_size=32, classes=10, smallest=4),
    "lenet": ZooModel(description=_LENET, build=_lenet, image_size=28, classes=10, channels=1, smallest=12),
    "mobilenet_v1": ZooModel(description="MobileNet: depthwise and 1x1 convolutions in turn", build=_mobilenet_v1),
    "mobilenet_v2": ZooModel(
        description="MobileNetV2: inverted residuals, depthwise convolutions", build=_mobilenet_v2
    ),
    "resnet8": ZooModel(
        description="ResNet-8 for CIFAR: 3 stages of one basic block, 16 to 64 channels",
        build=partial(_resnet, block=_basic_block, blocks=(1, 1, 1), cifar=True),
        image_size=32,
        classes=10,
    ),
    "resnet20": ZooModel(
        description="ResNet-20 for CIFAR: 3 stages of three basic blocks, 16 to 64 channels",
        build=partial(_resnet, block=_basic_block, blocks=(3, 3, 3), cifar=True),
        image_size=32,
        classes=10,
    ),
    "resnet18": ZooModel(
        description="ResNet-18: 4 stages of two basic blocks",
        build=partial(_resnet, block=_basic_block, blocks=(2, 2, 2, 2)),
    ),
    "resnet34": ZooModel(
        description="ResNet-34: basic blocks 3, 4, 6, 3",
        build=partial(_resnet, block=_basic_block, blocks=(3, 4, 6, 3)),
    ),
    "resnet50": ZooModel(
        description="ResNet-50: bottleneck blocks 3, 4, 6, 3",
        build=partial(_resnet, block=_bottleneck, blocks=(3, 4, 6, 3)),
    ),
    "vgg11": ZooModel(
        description="VGG-11: 8 convolutions, 3 linear layers, dropout",
        build=partial(_vgg, stages=(1, 1, 2, 2, 2)),
        smallest=32,
    ),
    "vgg16": ZooModel(
        description="VGG-16: 13 convolutions, 3 linear layers, dropout",
        build=partial(_vgg, stages=(2, 2, 3, 3, 3)),
        smallest=32,
    ),
}
"""The networks by name."""


def zoo_entry(name: str) -> ZooModel:
    """The entry of the zoo called `name`; raises LatteError for one that is not there."""
    found = ZOO.get(name)
    if found is None:
        raise unknown("model", name, ZOO, exit_code=ExitCode.BAD_INPUT)
    return found


def network(name: str, *, batch_size: int | None, image_size: int | None = None) -> Network:
    """The network `name` as it is read from its file, at batch 1 for None. Raises LatteError as `export` does."""
    from latte_cli.network import onnx

    content = export(name, image_size=image_size)
    return onnx.read(content, name=name, sha256="", batch_size=batch_size, allow_unknown=False)


def export(
    name: str,
    *,
    weights: bool = False,
    batch_size: int | None = None,
    image_size: int | None = None,
    classes: int | None = None,
    seed: int = 0,
) -> bytes:
    """The network `name` as an ONNX file; its batch size is open (`N`) unless `batch_size` is given.

    Without `weights` each weight is a ConstantOfShape node: a file of some kilobytes that any ONNX runtime accepts (the
    form of the ONNX project's own light models). With them they are Kaiming-normal random numbers drawn from `seed`.
    ONNX has no adaptive pool: AlexNet and VGG average larger images to the size their classifier takes by equal
    windows, and for smaller ones the classifier takes what is left, with fewer weights.
    Raises LatteError for an unknown name and for sizes that make no network.
    """
    entry = zoo_entry(name)
    size = entry.image_size if image_size is None else image_size
    classes = entry.classes if classes is None else classes
    if not entry.smallest <= size <= _LARGEST_IMAGE:
        raise LatteError(
            f"`{name}` cannot read images of {size} pixels", hint=f"from {entry.smallest} to {_LARGEST_IMAGE} will do"
        )
    if min(classes, 1 if batch_size is None else batch_size) < 1:
        raise LatteError("batch size and classes are at least 1")
    net = _Builder(classes=classes, generator=np.random.default_rng(seed) if weights else None)
    output = entry.build(net, _Value(name="input", channels=entry.channels, size=size))
    shapes = {"input": (entry.channels, size, size), output.name: (classes,)}
    return _serialize(name, net, {key: (batch_size or "N", *shape) for key, shape in shapes.items()})


def _serialize(name: str, net: _Builder, shapes: Mapping[str, tuple[int | str, ...]]) -> bytes:
    from onnx import TensorProto, helper

    first, last = (helper.make_tensor_value_info(key, TensorProto.FLOAT, shape) for key, shape in shapes.items())
    graph = helper.make_graph(net.nodes, name, [first], [last], initializer=list(net.weights.values()))
    made = helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", _OPSET)],
        ir_version=_IR_VERSION,
        producer_name="latte",
        producer_version=__version__,
    )
    content: bytes = made.SerializeToString()
    return content
