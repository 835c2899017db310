"""ONNX operators that go over a sequence step by step: LSTM, GRU and RNN."""

from functools import partial

from latte_cli.errors import LatteError
from latte_cli.layers import Copy, Other, Recurrent, Shape, View
from latte_cli.network.onnx.operation import Operation, Reader, Tensor

_Y, _LAST, _CELL = range(3)


def _recurrent(op: Operation, function: str) -> object:
    x, weight, hidden_weight = op.input(), op.weight(1), op.weight(2)
    if len(x.shape) != 3 or len(weight.shape) != 3 or len(hidden_weight.shape) != 3:
        raise LatteError(f"`{x.name}` of shape {x.shape} with weights of {weight.shape} is no sequence")
    batch_first = bool(op.integer("layout"))
    if batch_first:
        x = _swapped(op, x, (1, 0, 2), "steps_first")
    steps, batch, inputs = x.shape
    bias = () if op.optional(3) is None else (op.weight(3),)
    peepholes = () if op.optional(7) is None else (op.weight(7),)
    states = _initial(op, weight.shape[0], batch, hidden_weight.shape[2], batch_first=batch_first)
    layer = Recurrent(
        function=function,
        steps=steps,
        batch=batch,
        inputs=inputs,
        hidden=hidden_weight.shape[2],
        directions=weight.shape[0],
        bias=bool(bias),
        initial=bool(states),
        peepholes=bool(peepholes),
    )
    parameters = (weight, hidden_weight, *bias, *peepholes)
    _check(layer.parameter_shapes, parameters)
    numbers = op.numbers
    if function == "gru":
        numbers += (("linear_before_reset", op.integer("linear_before_reset")),)
    if op.optional(4) is not None:
        numbers += (("activations", "of sequences of different lengths"),)
    lengths = op.optional(4)
    masked = lengths is not None and not lengths.constant
    plain = bool(op.outputs[_Y]) and not batch_first and not masked
    if plain:
        y = op.result(layer, x, *states, parameters=parameters, attributes=numbers)
    else:
        y = op.step("states", layer, x, *states, parameters=parameters, attributes=numbers)
    if masked and lengths is not None:
        mask = Other(operation="mask_steps", shapes=(y.shape, lengths.shape), output=y.shape)
        whole = bool(op.outputs[_Y]) and not batch_first
        y = op.result(mask, y, lengths) if whole else op.step("masked", mask, y, lengths)
    if op.outputs[_Y] and batch_first:
        op.result(_copy(y.shape, (2, 0, 1, 3)), y)
    _last(op, y, batch_first=batch_first)
    return None


def _initial(op: Operation, directions: int, batch: int, hidden: int, *, batch_first: bool) -> tuple[Tensor, ...]:
    """The states before the first step, where they vary or are trained; others are zeros."""
    given = [op.optional(index) for index in ((5, 6) if op.kind == "LSTM" else (5,))]
    if not any(tensor is not None and (not tensor.constant or _learnt(tensor)) for tensor in given) or op.folds:
        return ()
    shape = (batch, directions, hidden) if batch_first else (directions, batch, hidden)
    found = []
    for at, tensor in enumerate(given):
        zeros = Tensor(name=f"{op.name}/zeros", shape=shape, constant=True)
        state = op.activation(tensor if tensor is not None else zeros)
        if state.shape != shape:
            raise LatteError(f"its first state `{state.name}` has the shape {state.shape} where {shape} is wanted")
        found.append(_swapped(op, state, (1, 0, 2), f"state_{at}") if batch_first else state)
    return tuple(found)


def _learnt(tensor: Tensor) -> bool:
    return tensor.trained and (tensor.values is None or bool(tensor.values.any()))


def _check(shapes: tuple[Shape, ...], parameters: tuple[Tensor, ...]) -> None:
    for shape, parameter in zip(shapes, parameters, strict=True):
        if parameter.shape != shape:
            raise LatteError(f"`{parameter.name}` has the shape {parameter.shape} where {shape} is wanted")


def _last(op: Operation, y: Tensor, *, batch_first: bool) -> None:
    """The hidden state after the last step, and an LSTM's cell state."""
    directions, batch, hidden = y.shape[1:]
    output = (batch, directions, hidden) if batch_first else (directions, batch, hidden)
    for index, output_name in enumerate(op.outputs[_LAST:], start=_LAST):
        if not output_name:
            continue
        if index == _CELL:
            op.result(Other(operation="cell_state", shapes=(y.shape,), output=output), y, index=index)
            continue
        layer = Copy(operation="slice", shape=y.shape, output=(1, *y.shape[1:]))
        ends = (("starts", (-1,)), ("ends", (2**31,)), ("axes", (0,)))
        last = op.step("last", layer, y, attributes=ends)
        if batch_first:
            last = op.step(
                "last_flat", View(shape=last.shape, output=y.shape[1:]), last, attributes=(("squeezed", (0,)),)
            )
            op.result(_copy(last.shape, (1, 0, 2)), last, index=index)
        else:
            op.result(View(shape=last.shape, output=output), last, index=index, attributes=(("squeezed", (0,)),))


def _copy(shape: Shape, order: tuple[int, ...]) -> Copy:
    return Copy(operation="transpose", shape=shape, output=tuple(shape[axis] for axis in order), order=order)


def _swapped(op: Operation, x: Tensor, order: tuple[int, ...], label: str) -> Tensor:
    return op.step(label, _copy(x.shape, order), x)


READERS: dict[str, Reader] = {name.upper(): partial(_recurrent, function=name) for name in ("lstm", "gru", "rnn")}
"""Operators by name, each with what turns it into layers."""
