"""Matrix products: Gemm, MatMul, Einsum."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from multilinear import assert_multilinear
from rulecheck import assert_as_torch, assert_slopes, run_gradients

from cnnkit.errors import ModelError
from cnnkit.graphs.autodiff.backward import gradients
from cnnkit.graphs.builder import Builder


def random(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def operator(kind: str, **attributes: Any) -> Callable[..., Any]:
    return lambda op, *inputs: getattr(op, kind)(*inputs, **attributes)


def test_matmul_by_hand() -> None:
    a, b, seed = (np.array(numbers, np.float32) for numbers in ([[1, 2]], [[3], [5]], [[10]]))
    y, (da, db) = run_gradients(operator("MatMul"), a, b, seed=seed)
    assert (y.tolist(), da.tolist(), db.tolist()) == ([[13]], [[30, 50]], [[10], [20]])


def test_gemm_by_hand() -> None:
    """y = 2 (1 * 3 + 2 * 5) + 4 * 7, weighted with 10."""
    a, b, c, seed = (np.array(numbers, np.float32) for numbers in ([[1], [2]], [[3, 5]], [7], [[10]]))
    write = operator("Gemm", alpha=2.0, beta=4.0, transA=1, transB=1)
    y, (da, db, dc) = run_gradients(write, a, b, c, seed=seed)
    assert (y.tolist(), da.tolist(), db.tolist()) == ([[54]], [[60], [100]], [[20, 40]])
    assert dc.tolist() == [40]


BIASES = [None, (), (1,), (4,), (1, 4), (3, 1), (1, 1), (3, 4)]


def factors(turned_a: int, turned_b: int) -> list[np.ndarray]:
    return [random(*((2, 3) if turned_a else (3, 2))), random(*((4, 2) if turned_b else (2, 4)), seed=1)]


@pytest.mark.parametrize("bias", BIASES)
@pytest.mark.parametrize("turned_a", [0, 1])
@pytest.mark.parametrize("turned_b", [0, 1])
@pytest.mark.parametrize(("alpha", "beta"), [(1.0, 1.0), (0.5, -2.0), (3.0, 0.0)])
def test_gemm(turned_a: int, turned_b: int, bias: Any, alpha: float, beta: float) -> None:
    inputs = factors(turned_a, turned_b) + ([] if bias is None else [random(*bias, seed=2)])
    assert_slopes(operator("Gemm", alpha=alpha, beta=beta, transA=turned_a, transB=turned_b), *inputs)


SHAPES = [
    ((2,), (2,)),
    ((2,), (2, 3)),
    ((3, 2), (2,)),
    ((3, 2), (2, 4)),
    ((2,), (5, 2, 3)),
    ((5, 3, 2), (2,)),
    ((5, 3, 2), (2, 4)),
    ((3, 2), (5, 2, 4)),
    ((5, 1, 3, 2), (6, 2, 4)),
    ((1, 6, 3, 2), (5, 1, 2, 4)),
    ((5, 6, 3, 2), (5, 6, 2, 4)),
]


@pytest.mark.parametrize(("a", "b"), SHAPES)
def test_matmul(a: tuple[int, ...], b: tuple[int, ...]) -> None:
    assert_multilinear(operator("MatMul"), np.empty(a), np.empty(b))
    assert_slopes(operator("MatMul"), random(*a), random(*b, seed=1))


@pytest.mark.parametrize("b", [(3,), (3, 4), (1, 3, 4)])
def test_matmul_of_an_open_batch(b: tuple[int, ...]) -> None:
    assert_multilinear(operator("MatMul"), np.empty((5, 2, 3)), np.empty(b), open_batch=True)


def test_gemm_of_an_open_batch() -> None:
    assert_multilinear(operator("Gemm", transB=1), np.empty((5, 3)), np.empty((4, 3)), open_batch=True)


EQUATIONS = {
    "ij,jk->ik": "bij,bjk->bik bik,bjk->bij bhwc,hkc->bhwk i,j->ij i,i-> ij,ij-> ij,ij->ij ij,jk->ki",
    "one operand": "ij->ji ij->i ij-> ijk->j",
    "an index that only one operand has": "ij,jk->k ijk,k->i ij,k-> ij,kl->jl",
    "more operands": "ij,jk,kl->il i,j,k->kij b,bij,bj->bi ij,j,jk->",
    "letters of both cases": "aB,Bc->ac",
    "three dots": "...ij,...jk->...ik ...ij,jk->...ik i...,i->... ...,...->... ...i,...i->...",
    "no arrow": "ij,jk ba ...ij,...jk i,i ij,j",
}


@pytest.mark.parametrize("equation", sorted({e for line in EQUATIONS.values() for e in line.split()}))
def test_einsum(equation: str) -> None:
    inputs = equation.split("->")[0].split(",")
    shapes = [[{"i": 2, "b": 2, "k": 4}.get(index, 3) for index in term if index != "."] for term in inputs]
    dotted = [
        [5, 2, *shape] if term.startswith("...") else [*shape, 5, 2] if "..." in term else shape
        for term, shape in zip(inputs, shapes, strict=True)
    ]
    assert_multilinear(operator("Einsum", equation=equation), *(np.empty(shape) for shape in dotted))


def test_einsum_broadcasts_what_the_dots_stand_for() -> None:
    write = operator("Einsum", equation="...ij,...jk->...ik")
    assert_multilinear(write, np.empty((5, 1, 2, 3)), np.empty((1, 6, 3, 4)))
    assert_multilinear(write, np.empty((5, 1, 2, 3)), np.empty((1, 6, 3, 4)), open_batch=True)


@given(st.data())
@settings(max_examples=25, deadline=None)
def test_any_einsum_without_a_diagonal(data: Any) -> None:
    sizes = {"a": 1, "b": 2, "c": 3, "d": 2, "e": 3}
    term = st.lists(st.sampled_from(sorted(sizes)), min_size=0, max_size=3, unique=True).map("".join)
    terms = data.draw(st.lists(term, min_size=1, max_size=3))
    known = sorted(set("".join(terms)))
    made = data.draw(st.permutations(known).flatmap(lambda p: st.integers(0, len(p)).map(lambda n: p[:n])))
    shapes = [[sizes[index] for index in term] for term in terms]
    write = operator("Einsum", equation=f"{','.join(terms)}->{''.join(made)}")
    assert_multilinear(write, *(np.empty(shape) for shape in shapes))


@pytest.mark.parametrize("equation", ["ii->i", "ii,ij->j", "ii"])
def test_einsum_of_a_diagonal_is_refused(equation: str) -> None:
    builder = Builder()
    inputs = [builder.input(f"x{index}", (3, 3)) for index in range(equation.count(",") + 1)]
    y = builder.op.Einsum(*inputs, equation=equation)
    with pytest.raises(ModelError, match="take the diagonal beforehand"):
        gradients(builder, y, ["x0"])


@pytest.mark.parametrize("opset", [18, 22, 26])
def test_every_opset(opset: int) -> None:
    a, b = np.empty((2, 3)), np.empty((3, 4))
    for write in (operator("Gemm"), operator("MatMul"), operator("Einsum", equation="ij,jk->k")):
        assert_multilinear(write, a, b, opset=opset)


def test_half_precision_stays() -> None:
    for kind, attributes in (("Gemm", {"beta": 2.0}), ("MatMul", {}), ("Einsum", {"equation": "ij,kl->il"})):
        builder = Builder()
        a, b = builder.input("a", (3, 3), np.float16), builder.input("b", (3, 3), np.float16)
        c = [builder.input("c", (3,), np.float16)] if kind == "Gemm" else []
        y = getattr(builder.op, kind)(a, b, *c, **attributes)
        assert all(t.dtype == np.float16 for t in gradients(builder, y, ["a", "b", *c]).values())


@pytest.mark.oracle
@pytest.mark.parametrize(("a", "b"), SHAPES)
def test_matmul_as_torch(a: tuple[int, ...], b: tuple[int, ...]) -> None:
    assert_as_torch(operator("MatMul"), lambda a, b: a @ b, random(*a), random(*b, seed=1))


@pytest.mark.oracle
@pytest.mark.parametrize("bias", BIASES[1:])
@pytest.mark.parametrize(("turned_a", "turned_b"), [(0, 0), (0, 1), (1, 0), (1, 1)])
def test_gemm_as_torch(turned_a: int, turned_b: int, bias: tuple[int, ...]) -> None:
    def in_torch(a: Any, b: Any, c: Any) -> Any:
        return 0.5 * (a.T if turned_a else a) @ (b.T if turned_b else b) + 2 * c

    write = operator("Gemm", alpha=0.5, beta=2.0, transA=turned_a, transB=turned_b)
    assert_as_torch(write, in_torch, *factors(turned_a, turned_b), random(*bias, seed=2))


@pytest.mark.oracle
@pytest.mark.parametrize(
    ("equation", "shapes"),
    [
        ("bij,bjk->bik", [(2, 3, 4), (2, 4, 5)]),
        ("ij,kl->jl", [(2, 3), (4, 5)]),
        ("i,i->", [(3,), (3,)]),
        ("ij->i", [(2, 3)]),
        ("ij,jk,kl->il", [(2, 3), (3, 4), (4, 5)]),
        ("...ij,...jk->...ik", [(5, 1, 2, 3), (1, 6, 3, 4)]),
    ],
)
def test_einsum_as_torch(equation: str, shapes: list[tuple[int, ...]]) -> None:
    torch = pytest.importorskip("torch")
    arrays = [random(*shape, seed=index) for index, shape in enumerate(shapes)]
    assert_as_torch(operator("Einsum", equation=equation), lambda *t: torch.einsum(equation, *t), *arrays)


def test_rows_that_are_the_batch() -> None:
    def write(op: Any, x: Any) -> Any:
        return op.MatMul(op.Transpose(x, perm=[1, 2, 0]), op.ReduceSum(x, [1], keepdims=0))

    assert_slopes(write, np.random.default_rng(0).standard_normal((5, 3, 4)), batch=True)
