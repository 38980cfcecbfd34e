"""Settings that must be made before a backend is imported."""

import importlib.metadata
import os

import pytest


def pytest_configure(config):
    del config
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
