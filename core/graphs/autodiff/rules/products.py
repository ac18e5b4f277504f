"""Matrix products: Gemm, MatMul, Einsum.

For Y = A B the gradients are dA = dY B' and dB = A' dY, where ' transposes.
"""

from collections.abc import Sequence
from string import ascii_letters

from cnnkit.graphs.autodiff.rules.table import Gradients, Node, Operators, Tensor, rule


@rule("Gemm")
def gemm(op: Operators, node: Node, dy: Tensor, a: Tensor, b: Tensor, c: Tensor | None = None) -> Gradients:
    """Y = alpha A B + beta C, where A and B may be given transposed; then so is what is sought for them."""
    alpha, beta = node.attribute("alpha", 1.0), node.attribute("beta", 1.0)
    turned_a, turned_b = node.attribute("transA", 0), node.attribute("transB", 0)
    if turned_a:
        da = op.Gemm(b, dy, alpha=alpha, transA=turned_b, transB=1)
    else:
        da = op.Gemm(dy, b, alpha=alpha, transB=1 - turned_b)
    if turned_b:
        db = op.Gemm(dy, a, alpha=alpha, transA=1, transB=turned_a)
    else:
        db = op.Gemm(a, dy, alpha=alpha, transA=1 - turned_a)
    return da, db, dy if beta == 1 else op.Mul(dy, beta)


@rule("MatMul")
def matmul(op: Operators, node: Node, dy: Tensor, a: Tensor, b: Tensor) -> Gradients:
    """A vector on the left is a row, one on the right a column."""
    columns = dy if b.rank > 1 else op.Unsqueeze(dy, [-1])
    rows, left = (columns, a) if a.rank > 1 else (op.Unsqueeze(columns, [-2]), op.Unsqueeze(a, [0]))
    right = b if b.rank > 1 else op.Unsqueeze(b, [1])
    da = op.MatMul(rows, _transposed(op, right))
    db = _product_of_batches(op, left, rows) if right.rank == 2 else op.MatMul(_transposed(op, left), rows)
    return (
        da if a.rank > 1 else op.Squeeze(da, [-2]),
        db if b.rank > 1 else op.Squeeze(db, [-1]),
    )


def _product_of_batches(op: Operators, a: Tensor, dy: Tensor) -> Tensor:
    """A' dY, summed over the batches at once."""
    a, dy = (tensor if tensor.rank == 2 else _as_rows(op, tensor) for tensor in (a, dy))
    return op.Gemm(a, dy, transA=1)  # type: ignore[no-any-return]


def _as_rows(op: Operators, tensor: Tensor) -> Tensor:
    columns = tensor.shape[-1]
    sizes = op.Concat([-1], op.Shape(tensor, start=-1), axis=0) if columns is None else [-1, columns]
    return op.Reshape(tensor, sizes)  # type: ignore[no-any-return]


def _transposed(op: Operators, tensor: Tensor) -> Tensor:
    rank = tensor.rank
    return op.Transpose(tensor, perm=[*range(rank - 2), rank - 1, rank - 2])  # type: ignore[no-any-return]


@rule("Einsum")
def einsum(op: Operators, node: Node, dy: Tensor, *operands: Tensor) -> Gradients:
    """The gradient of an operand is again an Einsum: that of dY with the other operands, for its own indices.

    An index that nothing else has was summed over; all its places get the same gradient.
    """
    *terms, made = _terms(node, operands)
    gradients: list[Tensor] = []
    for place, (term, operand) in enumerate(zip(terms, operands, strict=True)):
        others = [dy, *operands[:place], *operands[place + 1 :]]
        read = [made, *terms[:place], *terms[place + 1 :]]
        known = "".join(index for index in term if index in "".join(read))
        gradient = op.Einsum(*others, equation=f"{','.join(read)}->{known}")
        if known != term:
            summed = [axis for axis, index in enumerate(term) if index not in known]
            gradient = op.Expand(op.Unsqueeze(gradient, summed), op.shape(operand))
        gradients.append(gradient)
    return tuple(gradients)


def _terms(node: Node, operands: Sequence[Tensor]) -> list[str]:
    """The indices of each operand and then of the output, a letter each; three dots are spelled out."""
    equation = node.attribute("equation").replace(" ", "")
    inputs, arrow, made = equation.partition("->")
    if not arrow:  # then it makes what occurs once, in the order of the alphabet
        letters = inputs.replace(".", "").replace(",", "")
        made = "..." * ("..." in inputs) + "".join(sorted(i for i in letters if letters.count(i) == 1))
    terms = inputs.split(",")
    hidden = [
        tensor.rank - len(term) + 3 for term, tensor in zip(terms, operands, strict=True) if "..." in term
    ]
    spare = "".join(letter for letter in ascii_letters if letter not in equation)
    terms = [term.replace("...", spare[: max(hidden, default=0)]) for term in [*terms, made]]
    if any(len(set(term)) < len(term) for term in terms):
        raise node.refusal(
            f"is not known for '{equation}', where one term has an index twice; take the diagonal beforehand"
        )
    return terms
