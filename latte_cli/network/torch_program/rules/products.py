"""Operators that multiply matrices, and attention."""

from collections.abc import Sequence
from functools import partial
from typing import Any

from latte_cli.network.torch_program.program import Aten, Lowering, Rules


def _linear(low: Lowering, op: Aten) -> object:
    x, weight, bias = op.tensor("input", "self"), op.tensor("weight"), op.optional("bias")
    if low.rank(x) == 2:
        return low.emit("Gemm", [x, weight, bias], op.outputs[0], transB=1)
    turned = low.emit("Transpose", [weight], perm=[1, 0])
    if not bias:
        return low.emit("MatMul", [x, turned], op.outputs[0])
    return low.emit("Add", [low.emit("MatMul", [x, turned]), bias], op.outputs[0])


def _addmm(low: Lowering, op: Aten) -> object:
    given = [op.tensor("mat1"), op.tensor("mat2"), op.tensor("self", "input")]
    return low.emit("Gemm", given, op.outputs[0], alpha=op.number("alpha", 1.0), beta=op.number("beta", 1.0))


def _matmul(low: Lowering, op: Aten) -> object:
    return low.emit("MatMul", [op.tensor("self", "input"), op.tensor("other", "mat2", "vec", "tensor")], op.outputs[0])


def _baddbmm(low: Lowering, op: Aten) -> object:
    product = low.emit("MatMul", [op.tensor("batch1"), op.tensor("batch2")])
    return low.emit("Add", [product, op.tensor("self", "input")], op.outputs[0])


def _batches_added(low: Lowering, op: Aten) -> object:
    product = low.emit("MatMul", [op.tensor("batch1"), op.tensor("batch2")])
    whole = low.emit("ReduceSum", [product, low.constant([0])], keepdims=0)
    return low.emit("Add", [whole, op.tensor("self", "input")], op.outputs[0])


def _einsum(low: Lowering, op: Aten) -> object:
    return low.emit("Einsum", op.tensors("tensors"), op.outputs[0], equation=op.text("equation"))


def _attention(low: Lowering, op: Aten) -> object:
    """Of four dimensions: those before heads, steps and width are one batch."""
    given = [op.tensor("query"), op.tensor("key"), op.tensor("value")]
    mask = op.optional("attn_mask") or op.optional("attn_bias")
    rank = low.rank(given[0])
    attributes: dict[str, Any] = {"is_causal": int(op.flag("is_causal"))}
    if isinstance(op.arguments.get("scale"), float):
        attributes["scale"] = op.number("scale", 1.0)
    if op.number("dropout_p", 0.0):
        attributes["dropout"] = op.number("dropout_p", 0.0)
    if _is_composed(low, op, given, mask):
        attributes["composed"] = 1
    if rank == 4:
        return low.emit("Attention", [*given, mask], op.outputs[0], **attributes)
    given = [_of_four(low, name) for name in given]
    mask = _of_four(low, mask) if mask and low.rank(mask) == rank and rank > 2 else mask
    y = low.emit("Attention", [*given, mask], **attributes)
    return low.emit("Reshape", [y, low.constant(low.shape_of(op.outputs[0]))], op.outputs[0])


def _is_composed(low: Lowering, op: Aten, given: Sequence[str], mask: str) -> bool:
    """Whether torch computes it in several calls on a CPU, by the form of what it is given.

    Its one call takes four dimensions, as many heads of keys as of queries or groups of them that it was told of, and
    masks of two or four dimensions (`use_flash_attention_cpp` of torch 2.13).
    """
    heads = {low.meta(name).sizes[-3:-2] for name in given}
    grouped = op.flag("enable_gqa")
    return low.rank(given[0]) != 4 or (len(heads) > 1 and not grouped) or (mask != "" and low.rank(mask) not in (2, 4))


def _of_four(low: Lowering, name: str) -> str:
    """With one head where there are three dimensions, so that the batch stays the first."""
    sizes = low.meta(name).sizes
    if len(sizes) < 4:
        return low.emit("Unsqueeze", [name, low.constant([1] if len(sizes) == 3 else [0, 1])])
    return low.emit("Reshape", [name, low.constant([-1, *(size or 0 for size in sizes[-3:])])])


def _added_product(low: Lowering, op: Aten, names: tuple[str, str]) -> object:
    """A product that is added to something."""
    product = low.emit("MatMul", [op.tensor(name) for name in names])
    return low.emit("Add", [product, op.tensor("self", "input")], op.outputs[0])


def _outer(low: Lowering, op: Aten) -> object:
    column = low.emit("Unsqueeze", [op.tensor("self", "input"), low.constant([1])])
    row = low.emit("Unsqueeze", [op.tensor("vec2"), low.constant([0])])
    return low.emit("Mul", [column, row], op.outputs[0])


def _bilinear(low: Lowering, op: Aten) -> object:
    """x W y for each row: W as one product with x, then a product of vectors with y."""
    x, y, weight = op.tensor("input1"), op.tensor("input2"), op.tensor("weight")
    out, first, second = (size or 1 for size in low.meta(weight).sizes)
    turned = low.emit("Transpose", [weight], perm=[1, 0, 2])
    matrix = low.emit("Reshape", [turned, low.constant([first, out * second])])
    lead = [0] * (low.rank(x) - 1)
    wide = low.emit("Reshape", [low.emit("MatMul", [x, matrix]), low.constant([*lead, out, second])])
    product = low.emit("Mul", [wide, low.emit("Unsqueeze", [y, low.constant([-2])])])
    bias = op.optional("bias")
    summed = low.emit("ReduceSum", [product, low.constant([-1])], *(() if bias else op.outputs[:1]), keepdims=0)
    return low.emit("Add", [summed, bias], op.outputs[0]) if bias else summed


def _grouped(low: Lowering, op: Aten) -> object:
    """Rows, sorted by their group, times the matrix of their group; without offsets, a product for each group."""
    x, weight = op.tensor("self", "input"), op.tensor("mat2", "weight")
    offsets, ranks = op.optional("offs"), (low.rank(x), low.rank(weight))
    if not offsets:
        return low.emit("MatMul", [x, weight], op.outputs[0])
    if ranks != (2, 3):
        return low.emit(op.kind, op.read, *op.outputs, domain="aten")
    return low.emit("GroupedMatMul", [x, weight, offsets], op.outputs[0], domain="latte")


RULES: Rules = {
    "linear": _linear,
    "addmm": _addmm,
    **dict.fromkeys(("mm", "bmm", "matmul", "mv", "dot", "vdot"), _matmul),
    "baddbmm": _baddbmm,
    "addmv": partial(_added_product, names=("mat", "vec")),
    "addbmm": _batches_added,
    **dict.fromkeys(("outer", "ger"), _outer),
    "bilinear": _bilinear,
    **dict.fromkeys(("_grouped_mm", "grouped_mm", "torch.ops.transformers.grouped_mm_fallback.default"), _grouped),
    "einsum": _einsum,
    "scaled_dot_product_attention": _attention,
    "_scaled_dot_product_flash_attention": _attention,
    "_scaled_dot_product_attention_math": _attention,
    "_scaled_dot_product_efficient_attention": _attention,
    "_scaled_dot_product_flash_attention_for_cpu": _attention,
}
