"""The settings of the N x N operations. Without torch, so that the recipe's settings can be read quickly."""

from dataclasses import dataclass

from plca_dist.errors import UserError, nearest

#: How the operations are computed. "auto" is "streaming", or "dense" where that is faster and small.
BACKENDS = ("auto", "dense", "streaming")
#: How the operands of matrix products may be rounded, from exact to fast. A setting is a permission: a device without
#: the lower precision computes in float32, and float64 inputs stay float64.
#: "tf32": CUDA rounds operands to 10 bits of mantissa.
#: "bf16": operands have 7 bits of mantissa. On the CPU the products go to oneDNN, which may round them so; on a
#:         processor where that gains nothing it computes in float32.
PRODUCTS = ("float32", "tf32", "bf16")


@dataclass(frozen=True)
class Pairwise:
    """How the N x N operations are computed: one of `PRODUCTS` and one of `BACKENDS`.

    Raises UserError for an unknown name, and for two names that do not go together.
    """

    products: str = "float32"
    backend: str = "auto"

    def __post_init__(self) -> None:
        if self.backend not in BACKENDS:
            raise UserError(
                f"association backend {self.backend!r} is unknown; known: {', '.join(BACKENDS)}."
                f"{nearest(self.backend, BACKENDS)}"
            )
        if self.products not in PRODUCTS:
            raise UserError(
                f"products {self.products!r} is unknown; known: {', '.join(PRODUCTS)}."
                f"{nearest(self.products, PRODUCTS)}"
            )
        if self.products != "float32" and self.backend == "dense":
            raise UserError(
                f"backend 'dense' multiplies in float32 only, not in {self.products}: use 'auto' or 'streaming'."
            )
