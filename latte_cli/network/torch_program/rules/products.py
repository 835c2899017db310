"""Operators that multiply matrices, and attention."""

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
    return low.emit("MatMul", [op.tensor("self", "input"), op.tensor("other", "mat2", "vec")], op.outputs[0])


def _baddbmm(low: Lowering, op: Aten) -> object:
    product = low.emit("MatMul", [op.tensor("batch1"), op.tensor("batch2")])
    return low.emit("Add", [product, op.tensor("self", "input")], op.outputs[0])


def _einsum(low: Lowering, op: Aten) -> object:
    return low.emit("Einsum", op.tensors("tensors"), op.outputs[0], equation=op.text("equation"))


def _attention(low: Lowering, op: Aten) -> object:
    given = [op.tensor("query"), op.tensor("key"), op.tensor("value")]
    mask = op.optional("attn_mask") or op.optional("attn_bias")
    return low.emit("Attention", [*given, mask], op.outputs[0], is_causal=int(op.flag("is_causal")))


RULES: Rules = {
    "linear": _linear,
    "addmm": _addmm,
    **dict.fromkeys(("mm", "bmm", "matmul", "mv", "dot"), _matmul),
    "baddbmm": _baddbmm,
    "einsum": _einsum,
    "scaled_dot_product_attention": _attention,
    "_scaled_dot_product_flash_attention": _attention,
    "_scaled_dot_product_efficient_attention": _attention,
    "_scaled_dot_product_flash_attention_for_cpu": _attention,
}
