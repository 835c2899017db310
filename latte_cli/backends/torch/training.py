"""Training: a network set up for a run, step by step."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from latte_cli.backends.host import LARGE_BLOCK_BYTES
from latte_cli.precisions import Layout, Precision

Mark: TypeAlias = Callable[[], None]


@dataclass(frozen=True, kw_only=True)
class RunRequest:
    """What to run: a model file, or the zoo's network of this name, at a batch size and, for the zoo, an image size.

    Steps follow each other for `seconds`, at least `least` and at most `most` of them, after three that are not timed;
    on a GPU as launches of one by one or, with `cuda_graph`, of all at once. With `calls`, `least` more steps show what
    each node takes. No further step begins after `deadline`, in seconds since the epoch, once one was timed.
    """

    model: str
    batch_size: int | None = None
    image_size: int | None = None
    sizes: Mapping[str, int] = field(default_factory=dict)
    batch_axis: int | None = None
    device: str = "cpu"
    threads: int = 0
    precision: str = Precision.FP32
    layout: str = Layout.NCHW
    optimizer: str = "sgd"
    seconds: float = 1.0
    least: int = 5
    most: int = 200
    deadline: float | None = None
    cuda_graph: bool = False
    calls: bool = False


class NetworkTraining:
    """A network in training, set up for a run; `module` is what is trained."""

    def __init__(self, run: RunRequest) -> None:
        import torch

        from latte_cli.backends.torch.layers import activations_type, weights_type
        from latte_cli.network.module import NetworkModule, optimizer, random_inputs, random_targets

        precision = Precision(run.precision)

        if run.threads:
            torch.set_num_threads(run.threads)
        torch.empty(LARGE_BLOCK_BYTES - 2**16, dtype=torch.uint8)  # freed at once: see LARGE_BLOCK_BYTES
        self.network = network_to_run(run)
        torch.backends.cuda.matmul.allow_tf32 = precision.arithmetic.tf32
        torch.backends.cudnn.allow_tf32 = precision.arithmetic.tf32
        kind = weights_type(precision)
        formats = {Layout.NCHW: torch.contiguous_format, Layout.CHANNELS_LAST: torch.channels_last}
        shape = formats[Layout(run.layout)]
        with torch.device(run.device):
            self.module = NetworkModule(self.network).to(run.device, kind)
        given = random_inputs(self.network)
        inputs = [x.to(run.device, kind) if x.is_floating_point() else x.to(run.device) for x in given]
        if shape is not torch.contiguous_format:
            convert: Callable[..., object] = self.module.to
            convert(memory_format=shape)
            inputs = [x.contiguous(memory_format=shape) if x.dim() == 4 else x for x in inputs]
        self.inputs, self._targets = inputs, random_targets(self.network).to(run.device)
        self._update = optimizer(run.optimizer, self.module.parameters())
        self._autocast = run.device.partition(":")[0] if precision.arithmetic.autocast else None
        self._cast_to = activations_type(precision)
        self.call: Callable[..., Any] = self.module
        """What computes the outputs: the module, or what was compiled of it."""

    def _cast(self) -> AbstractContextManager[object]:
        import torch

        return torch.autocast(self._autocast, self._cast_to) if self._autocast else nullcontext()

    def answers(self) -> tuple[list[Any], list[Any]]:
        """The outputs of a pass in evaluation, and the gradients of the parameters in the same; weights stay."""
        import torch

        from latte_cli.network.module import scored

        self.module.eval()
        with self._cast():
            result = self.module(*self.inputs)
            loss = scored(self.module, result, self._targets)
        torch.autograd.backward(loss)
        outputs = [one.detach() for one in (result if isinstance(result, tuple) else (result,))]
        gradients = [one.grad for one in self.module.parameters() if one.grad is not None]
        self.module.zero_grad(set_to_none=True)
        self.module.train()
        return outputs, gradients

    def step(self, mark: "Mark", after: Callable[[int, Any], None] | None = None) -> None:
        """One step; `mark` at its start and the ends of clearing, forward, loss, backward and update."""
        import torch

        from latte_cli.network.module import scored

        mark()
        (self._update or self.module).zero_grad(set_to_none=True)
        mark()
        with self._cast():
            result = self.call(*self.inputs, after=after)
            mark()
            loss = scored(self.module, result, self._targets)
        mark()
        torch.autograd.backward(loss)
        mark()
        if self._update:
            self._update.step()
        mark()


def network_to_run(run: RunRequest) -> Any:
    """The network to run."""
    from latte_cli.network import load, zoo

    if Path(run.model).suffix:
        return load(run.model, batch_size=run.batch_size, batch_axis=run.batch_axis, sizes=run.sizes)
    return zoo.network(run.model, batch_size=run.batch_size, image_size=run.image_size)
