"""The gradient rules, a file per family of operators."""

from cnnkit.graphs.autodiff.rules import (  # each enters its rules into the table
    activations,
    arithmetic,
    convolution,
    normalization,
    pooling,
    products,
    reductions,
    resizing,
    shaping,
)
from cnnkit.graphs.autodiff.rules.table import FLAT, RULES, Node, Rule, rule

__all__ = [
    "FLAT",
    "RULES",
    "Node",
    "Rule",
    "activations",
    "arithmetic",
    "convolution",
    "normalization",
    "pooling",
    "products",
    "reductions",
    "resizing",
    "rule",
    "shaping",
]
