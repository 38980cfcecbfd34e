"""Settings that must be made before a backend is imported."""

import importlib.metadata
import os

import hypothesis
import pytest

from tests.helpers.slow import is_slow


def pytest_configure(config):
    del config
    # `make test` has the same few cases every time, `make fuzz` new ones.
    common = {
        "deadline": None,
        "suppress_health_check": list(hypothesis.HealthCheck),
    }
    profiles = hypothesis.settings
    profiles.register_profile(
        "quick", max_examples=20, derandomize=True, **common
    )
    profiles.register_profile(
        "fuzz", max_examples=2000, print_blob=True, **common
    )
    profiles.load_profile("quick")
    if os.environ.get("KERAS_BACKEND") != "jax":
        return
    # Nearly all of the tests' time on JAX goes into compiling small programs,
    # each run once: compile them quickly rather than well.
    os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
    # XLA aborts at flags that it does not know, so only where this is one.
    if importlib.metadata.version("jaxlib").startswith("0.10."):
        flags = os.environ.get("XLA_FLAGS", "")
        os.environ["XLA_FLAGS"] = (
            f"{flags} --xla_cpu_use_fusion_emitters=false".strip()
        )


@pytest.hookimpl(tryfirst=True)  # before tests are chosen by their marks
def pytest_collection_modifyitems(items):
    backend = os.environ.get("KERAS_BACKEND", "tensorflow")
    for item in items:
        if is_slow(item.nodeid, backend):
            item.add_marker(pytest.mark.slow)


@pytest.fixture(autouse=True)
def seed():
    import keras

    keras.utils.set_random_seed(3)


@pytest.fixture(scope="module")
def optimized():
    """For tests that train: with the optimizations left out above."""
    name = "JAX_DISABLE_MOST_OPTIMIZATIONS"
    if name not in os.environ:
        yield
        return
    import jax

    before = os.environ.pop(name)
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", True)
    os.environ[name] = before
