"""A domain that answers as another one, of which a subclass changes some answers."""

from typing import Any

from mfjax.domains.axis import Axis
from mfjax.domains.base import Domain, require_domain
from mfjax.domains.cells import Cells


class Wrapped(Domain):
    """The points of `domain` with other ways to move: a subclass overrides what differs.

    **Raises** `ValueError` unless `domain` is a `Domain`.
    """

    domain: Domain

    def __init__(self, domain: Domain):
        require_domain(domain)
        self.domain = domain

    @property
    def dim(self) -> int:
        return self.domain.dim

    @property
    def ambient(self) -> int:
        return self.domain.ambient

    @property
    def tangent_dim(self) -> int:
        return self.domain.tangent_dim

    def sample_point(self, key, dtype: Any = float):
        return self.domain.sample_point(key, dtype)

    def contains(self, x):
        return self.domain.contains(x)

    def validate(self, points, name="points"):
        self.domain.validate(points, name)

    def displacement(self, x, y):
        return self.domain.displacement(x, y)

    def distance(self, x, y):
        return self.domain.distance(x, y)

    def project(self, x, v):
        return self.domain.project(x, v)

    def velocity(self, x, v):
        return self.domain.velocity(x, v)

    def noise(self, x, v):
        return self.domain.noise(x, v)

    @property
    def noiseless(self) -> bool:
        return self.domain.noiseless

    @property
    def connected(self) -> bool:
        return self.domain.connected

    def tangent_basis(self, x):
        return self.domain.tangent_basis(x)

    def retract(self, x, v):
        return self.domain.retract(x, v)

    def diffuse(self, x, v):
        return self.domain.diffuse(x, v)

    def embed(self, x):
        return self.domain.embed(x)

    def chord(self, x, y):
        return self.domain.chord(x, y)

    @property
    def flat(self) -> bool:
        return self.domain.flat

    @property
    def axes(self) -> tuple[Axis, ...]:
        return self.domain.axes

    @property
    def walls(self) -> tuple[bool, ...]:
        return self.domain.walls

    def coordinates(self, x):
        return self.domain.coordinates(x)

    def point(self, q):
        return self.domain.point(q)

    @property
    def isometric(self) -> bool:
        return self.domain.isometric

    @property
    def orbits(self) -> bool:
        return self.domain.orbits

    @property
    def volume_powers(self) -> tuple[int, ...]:
        return self.domain.volume_powers

    @property
    def product_of_circles(self) -> bool:
        return self.domain.product_of_circles

    @property
    def log_sobolev(self):
        return self.domain.log_sobolev

    def gaussian(self, x, y, width):
        return self.domain.gaussian(x, y, width)

    def harmonics(self, x, degree):
        return self.domain.harmonics(x, degree)

    def drawn(self, q):
        return self.domain.drawn(q)

    def cells(self, n: int | tuple[int, ...]) -> Cells:
        return self.domain.cells(n)
