"""The default devices of a simulation."""

import jax
import pytest

import sims
from sims import engine
from stopping.models import LengthCorrectness
from stopping.policies import Margin
from stopping.problems import Sampling


@pytest.fixture
def with_accelerator(monkeypatch):
    """As if JAX had found an accelerator: its devices come first, and CPU devices have to be requested by name."""
    cpu, accelerator = jax.local_devices()[:1], [object()]
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(jax, "devices", lambda: accelerator)
    monkeypatch.setattr(jax, "local_devices", lambda backend=None: cpu if backend == "cpu" else accelerator)
    return cpu, accelerator


def test_few_worlds_stay_on_the_cpu_and_many_go_to_the_accelerator(with_accelerator):
    cpu, accelerator = with_accelerator
    assert engine.default_devices(engine.FEW_WORLDS) == cpu
    assert engine.default_devices(engine.FEW_WORLDS + 1) == accelerator


def test_a_run_of_few_worlds_beside_an_accelerator_says_where_it_was(with_accelerator):
    problem = Sampling(4, model=LengthCorrectness(2.0, 1.0, 8.0, 0.3))
    result = sims.simulate(jax.random.key(0), problem, Margin(1), num_replicas=100)
    assert result.platform == "cpu"
    assert sims.draw(jax.random.key(0), problem, 100).length_tokens.shape == (100, 4)
