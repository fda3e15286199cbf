"""What feature maps of more than one experiment cannot see."""

from collections.abc import Iterable

import mfjax as mf
from _lab.jax_settings import double_precision
from mfjax.problems import CircleTeacher, gaussian_quadrature
from mfjax.theory.certificates import Identifiability


def relu_on_circle(biases: Iterable[float], gamma: float) -> dict[str, Identifiability]:
    """What ReLU with these biases and Gaussian inputs cannot see of the teacher of `gamma` on the circle."""
    with double_precision():
        x, p = gaussian_quadrature(16, 64)
        options = {"data_weights": p, "teacher": CircleTeacher(gamma), "n": 64}
        circle, find = mf.domains.Sphere(1), mf.certificates.identifiability
        relu = lambda bias: mf.features.ReLU(bias, circle=True)
        return {
            f"ReLU(bias={bias:g}), gamma = {gamma:g}": find(relu(bias), x, circle, **options)
            for bias in biases
        }
