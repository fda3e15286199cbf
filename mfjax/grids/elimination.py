"""Half of the cells of a ring eliminated: cyclic reduction of the system of an implicit step.

The system of K cells that pass mass to their neighbors is

    (excess_i + right_i + left_i) x_i - right_{i-1} x_{i-1} - left_{i+1} x_{i+1} = b_i,

its columns summing to `excess`. A wall is a face through which nothing passes. Eliminating every second cell
leaves a system of the same form, whose coefficients are sums of products of non-negative numbers: no digit is
lost (Grassmann, Taksar, Heyman 1985).
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float


class Ring(NamedTuple):
    """What stays in each cell and what passes to its right and left, all (K,) and non-negative."""

    excess: Float[Array, " K"]
    right: Float[Array, " K"]
    left: Float[Array, " K"]

    @property
    def diagonal(self) -> Float[Array, " K"]:
        """The diagonal of the matrix."""
        return self.excess + self.right + self.left


class Halving(NamedTuple):
    """The elimination of the cells 1, 3, 5, ...: `inverse` of their diagonal, the parts of what they hold
    that pass `to_next` and `to_last`, the cells after and before, and what they receive of theirs."""

    inverse: Float[Array, " E"]
    to_next: Float[Array, " E"]
    to_last: Float[Array, " E"]
    from_last: Float[Array, " E"]
    from_next: Float[Array, " E"]

    def forward(self, b: Float[Array, " K"]) -> tuple[Array, Array]:
        """(right-hand side of the cells that are left, what the others held)."""
        gone, kept = b[1::2], b[::2]
        after = self.to_next * gone
        after = jnp.roll(after, 1) if len(kept) == len(gone) else jnp.pad(after, (1, 0))
        return kept.at[: len(gone)].add(self.to_last * gone) + after, gone

    def backward(self, x: Array, gone: Array) -> Float[Array, " K"]:
        """The solution in all cells from that in the cells that were left."""
        count = len(gone)
        received = self.from_last * x[:count] + self.from_next * jnp.roll(x, -1)[:count]
        own = self.inverse * (gone + received)
        pairs = jnp.stack([x[:count], own], axis=1).ravel()
        return jnp.concatenate([pairs, x[count:]])


def halved(ring: Ring) -> tuple[Halving, Ring]:
    """The elimination of every second cell and the ring that is left, of (K + 1) // 2 cells."""
    kept, gone = (Ring(*(values[start::2] for values in ring)) for start in (0, 1))
    count, inverse = len(gone.excess), 1 / gone.diagonal
    stay, to_next, to_last = (values * inverse for values in gone)
    step = Halving(inverse, to_next, to_last, kept.right[:count], jnp.roll(kept.left, -1)[:count])
    if count < len(kept.excess):
        # The last and the first cell of an odd number stay neighbors.
        stay, to_next, to_last = jnp.append(stay, 0), jnp.append(to_next, 1), jnp.append(to_last, 1)
    excess = kept.excess + kept.right * stay + kept.left * jnp.roll(stay, 1)
    return step, Ring(excess, kept.right * to_next, kept.left * jnp.roll(to_last, 1))
