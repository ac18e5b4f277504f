"""Matrix products: Gemm, MatMul, Einsum."""
