"""The benchmark's matrix products in NumPy, that is, in the BLAS library that comes with it."""

import numpy as np

from autotx.models.bench import inputs


def matmul(**sizes):
    a, b = inputs.product(**sizes)
    return lambda: [np.matmul(a, b)]
