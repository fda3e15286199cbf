"""The teacher-student problems of the VarPro paper, sampled or at the population level.

A `Problem` bundles teacher, features and data, so that `problem.risk(lam)` is the energy to minimize.

- Published: `circle`, `circle_population`, `torus`.
- Their parts: `Teacher`, `CircleTeacher`, `TorusTeacher`, `teacher_student`, `network_output`;
  `gaussian_inputs`, `gaussian_quadrature`, `relu_coefficients`.
"""

from mfjax.problems.inputs import gaussian_inputs, gaussian_quadrature
from mfjax.problems.problem import Problem, network_output, teacher_student
from mfjax.problems.published import circle, circle_population, relu_coefficients, torus
from mfjax.problems.teachers import CircleTeacher, Teacher, TorusTeacher

__all__ = [
    "CircleTeacher",
    "Problem",
    "Teacher",
    "TorusTeacher",
    "circle",
    "circle_population",
    "gaussian_inputs",
    "gaussian_quadrature",
    "network_output",
    "relu_coefficients",
    "teacher_student",
    "torus",
]
