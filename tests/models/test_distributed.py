"""Devices that share a batch train as one device does with the whole batch.

With `MirroredStrategy` in TensorFlow, and with `keras.distribution` in JAX.
"""

import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from tests.helpers.networks import NAMES
from tests.helpers.testing import BACKEND

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        BACKEND == "torch", reason="Keras leaves it to PyTorch's own tools"
    ),
]

# One step of stochastic gradient descent, so that a gradient that is too large
# shows: optimizers such as Adam would hide it.
STEP = """
import contextlib
import sys

import keras
import numpy as np

name, number, path = sys.argv[1], int(sys.argv[2]), sys.argv[3]
if keras.backend.backend() == "tensorflow":
    import tensorflow as tf

    tf.config.set_logical_device_configuration(
        tf.config.list_physical_devices("CPU")[0],
        [tf.config.LogicalDeviceConfiguration() for _ in range(number)],
    )
    strategy = tf.distribute.MirroredStrategy(
        [f"CPU:{index}" for index in range(number)]
    )
    assert strategy.num_replicas_in_sync == number
    scope = strategy.scope
else:
    import jax

    assert len(jax.devices()) == number
    keras.distribution.set_distribution(keras.distribution.DataParallel())
    scope = contextlib.nullcontext

from tests.helpers.networks import images, labels, make
from keras_capsules import MarginLoss

options = {"reconstruction_weight": 0.05}
if name in ("ConvNet", "SqueezeExcitationNet"):
    options = {"dropout": 0.0} if name == "ConvNet" else {}
elif name in ("InvertedAttentionCapsNet", "MatrixCapsNet"):
    options["decoder_units"] = (7,)
with scope():
    model = make(name, **options)
    for layer in model._flatten_layers():
        # Statistics of the whole batch, as on one device.
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.synchronized = keras.backend.backend() == "tensorflow"
        # Devices would drop other inputs.
        assert not getattr(layer, "rate", 0)
    model.compile(keras.optimizers.SGD(0.1), MarginLoss())
before = model.get_weights()
weights = np.array([1.0, 0.5, 2.0, 1.5, 0.0, 1.0, 0.25, 1.0], "float32")
history = model.fit(
    images(8),
    labels(8),
    sample_weight=weights,
    batch_size=8,
    shuffle=False,
    verbose=0,
)
after = model.get_weights()
assert any(np.abs(x - y).max() > 1e-5 for x, y in zip(before, after))
logs = {name: float(values[0]) for name, values in history.history.items()}
np.savez(path, *after, **logs)
"""


@pytest.mark.parametrize("name", NAMES)
def test_one_step(name, tmp_path):
    results = []
    for number in (1, 2, 4):
        path = tmp_path / f"{number}.npz"
        flags = f"--xla_force_host_platform_device_count={number}"
        subprocess.run(
            [sys.executable, "-c", STEP, name, str(number), str(path)],
            check=True,
            cwd=pathlib.Path(__file__).parents[2],
            env={**os.environ, "KERAS_BACKEND": BACKEND, "XLA_FLAGS": flags},
        )
        results.append(dict(np.load(path)))
    one, *others = results
    for other in others:
        assert one.keys() == other.keys()
        for key, value in one.items():
            np.testing.assert_allclose(
                other[key], value, rtol=1e-5, atol=1e-6, err_msg=key
            )
