"""Every function of the namespace does the same on the four backends."""

import ast
import inspect

import numpy as np
import pytest

import stopping.policies
from stopping.policies.namespace import NAMES, namespace
from tests.helpers import TORCH

BACKENDS = ("python", "numpy", "jax", TORCH)

TABLE = [3.0, 1.5, -2.0, 3.0]
FLOATS, INTS, MASK = [0.25, 1.0, 2.5], [3, 1, 2], [True, False, True]

# name, arguments (lists become arrays; plain Python sees their elements one by one), expected
CASES = [
    ("where", (MASK, FLOATS, INTS), [0.25, 1, 2.5]),
    ("where", (MASK, 1, 0), [1, 0, 1]),
    ("log", (FLOATS,), np.log(FLOATS)),
    ("log", (2.0,), np.log(2.0)),
    ("log", (INTS,), np.log(INTS)),
    ("exp", (FLOATS,), np.exp(FLOATS)),
    ("log1p", (FLOATS,), np.log1p(FLOATS)),
    ("expm1", (FLOATS,), np.expm1(FLOATS)),
    ("sqrt", (FLOATS,), np.sqrt(FLOATS)),
    ("sqrt", (4.0,), 2.0),
    ("floor", ([-1.5, 2.0, 2.5],), [-2, 2, 2]),
    ("minimum", (FLOATS, 1.5), [0.25, 1, 1.5]),
    ("minimum", (INTS, 2), [2, 1, 2]),
    ("maximum", (FLOATS, INTS), [3, 1, 2.5]),
    ("logical_and", (MASK, [True, True, False]), [True, False, False]),
    ("logical_and", (MASK, True), MASK),
    ("logical_or", (MASK, [False, False, True]), [True, False, True]),
    ("logical_not", (MASK,), [False, True, False]),
    ("logical_not", ([3, 0, 2],), [False, True, False]),
]


def to_array(backend, value):
    if not isinstance(value, list):
        return value
    if backend == "torch":
        import torch

        return torch.tensor(value)
    array = np.array(value)
    array = array.astype({"f": np.float32, "i": np.int32, "b": bool}[array.dtype.kind])
    if backend == "jax":
        import jax.numpy as jnp

        return jnp.asarray(array)
    return array


def to_tuples(value):
    return tuple(map(to_tuples, value)) if isinstance(value, list) else value


def test_the_list_of_names_is_the_namespace():
    for backend in ("python", "numpy", "jax", "torch"):
        try:
            functions = namespace(backend)
        except ImportError:
            continue
        assert set(vars(functions)) == set(NAMES)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("name", "arguments", "expected"), CASES)
def test_elementwise(backend, name, arguments, expected):
    function = getattr(namespace(backend), name)
    if backend == "python":
        rows = range(len(expected)) if np.ndim(expected) else [None]
        got = [function(*(a[i] if isinstance(a, list) else a for a in arguments)) for i in rows]
        got = got if np.ndim(expected) else got[0]
    else:
        got = np.asarray(function(*(to_array(backend, argument) for argument in arguments)))
    np.testing.assert_allclose(got, expected, rtol=1e-6)
    assert (np.asarray(got).dtype == bool) == (np.asarray(expected).dtype == bool)


@pytest.mark.parametrize("backend", BACKENDS)
def test_last_axis(backend):
    xp = namespace(backend)
    table = to_tuples(TABLE) if backend == "python" else to_array(backend, TABLE)
    assert float(xp.sum(table)) == 5.5
    assert float(xp.max(table)) == 3.0
    assert int(xp.argmax(table)) == 0  # of equals, the first
    product = xp.matmul(table, _matrix(backend))
    np.testing.assert_allclose(np.asarray(product), [4.5, 5.0], rtol=1e-6)


@pytest.mark.parametrize("backend", BACKENDS[1:])
def test_last_axis_of_a_batch(backend):
    xp = namespace(backend)
    rows = to_array(backend, [TABLE, [0.0, 0.0, 1.0, 1.0]])
    np.testing.assert_array_equal(xp.sum(rows), [5.5, 2.0])
    np.testing.assert_array_equal(xp.max(rows), [3.0, 1.0])
    np.testing.assert_array_equal(xp.argmax(rows), [0, 2])
    assert "int32" in str(xp.argmax(rows).dtype)
    np.testing.assert_allclose(xp.matmul(rows, _matrix(backend)), [[4.5, 5.0], [0.0, 2.0]], rtol=1e-6)


def _matrix(backend):
    matrix = [[1.0, 0.0], [1.0, 1.0], [0.0, 0.5], [0.0, 1.5]]
    return to_tuples(matrix) if backend == "python" else to_array(backend, matrix)


@pytest.mark.parametrize("backend", BACKENDS)
def test_take_and_put_on_one_table(backend):
    xp = namespace(backend)
    if backend == "python":
        assert xp.take((3, 1, 2), 2) == 2
        assert xp.put((3, 1, 2), 1, 9) == (3, 9, 2)
        return
    table = to_array(backend, [3, 1, 2])
    np.testing.assert_array_equal(xp.take(table, to_array(backend, [2, 0, 2, 1])), [2, 3, 2, 1])
    np.testing.assert_array_equal(xp.take(table, to_array(backend, [[2], [0]])), [[2], [3]])
    one = to_array(backend, [1])[0]
    assert int(xp.take(table, one)) == 1
    after = xp.put(table, one, 9)
    np.testing.assert_array_equal(after, [3, 9, 2])
    np.testing.assert_array_equal(table, [3, 1, 2])
    assert after.dtype == table.dtype


@pytest.mark.parametrize("backend", BACKENDS[1:])
def test_take_and_put_on_a_batch(backend):
    xp = namespace(backend)
    tables = to_array(backend, [[3, 1, 2], [6, 4, 5]])
    index = to_array(backend, [2, 0])
    np.testing.assert_array_equal(xp.take(tables, index), [2, 6])
    np.testing.assert_array_equal(xp.put(tables, index, to_array(backend, [8, 9])), [[3, 1, 8], [9, 4, 5]])
    after = xp.put(tables, index, 0)
    np.testing.assert_array_equal(after, [[3, 1, 0], [0, 4, 5]])
    assert after.dtype == tables.dtype


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("value", "dtype"), [(3, "int32"), (0.5, "float32"), (True, "bool")])
def test_full(backend, value, dtype):
    full = namespace(backend).full
    if backend == "python":
        assert full((), value) is value
        assert full((2,), value) == (value, value)
        assert full((2, 1), value) == ((value,), (value,))
        return
    for shape in [(), (2,), (2, 3)]:
        for number in (value, to_array(backend, [value])[0]):  # as written, and as a parameter that was bound
            array = full(shape, number)
            assert tuple(array.shape) == shape
            assert dtype in str(array.dtype)
            assert bool((array == value).all())


def test_policies_use_only_the_names_in_the_list():
    """What a run with one observation cannot show, the source does: `xp.` is followed by a name of the list."""
    for policy in vars(stopping.policies).values():
        if hasattr(policy, "signals") and inspect.isclass(policy) and policy.__module__.startswith("stopping."):
            tree = ast.parse(inspect.getsource(inspect.getmodule(policy)))
            nodes = [node for node in ast.walk(tree) if isinstance(node, ast.Attribute)]
            used = {node.attr for node in nodes if isinstance(node.value, ast.Name) and node.value.id == "xp"}
            assert used <= set(NAMES), policy
