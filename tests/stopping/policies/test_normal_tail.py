"""The normal tail of policies against SciPy."""

import numpy as np
import pytest
from scipy.special import log_ndtr

from stopping.policies.namespace import namespace
from stopping.policies.normal_tail import MOST, normal_tail
from tests.helpers import TORCH


@pytest.mark.parametrize(("dtype", "error"), [(np.float64, 1.1e-6), (np.float32, 7e-6)])
def test_relative_error(dtype, error):
    score = np.linspace(0, MOST, 20_001).astype(dtype)
    tail = normal_tail(namespace("numpy"), score)
    assert tail.dtype == dtype
    assert np.abs(np.log(tail.astype(float)) - log_ndtr(-score.astype(float))).max() < error


@pytest.mark.parametrize("backend", ["python", "jax", TORCH])
def test_the_same_everywhere(backend):
    for score in (0.0, 0.3, 2.5, 8.0):
        given = score
        if backend == "torch":
            import torch

            given = torch.tensor(score)
        np.testing.assert_allclose(float(normal_tail(namespace(backend), given)), np.exp(log_ndtr(-score)), rtol=8e-6)
