"""Trains small networks on several devices, in a process of its own.

    python -m tests.helpers.parallel KIND DEVICES FOLDER NETWORK...

It writes losses and weights to `FOLDER/NETWORK.npz`.
"""

import contextlib
import os
import pathlib
import subprocess
import sys

REPOSITORY = pathlib.Path(__file__).parents[2]
BATCH = 12  # a multiple of 2, 3 and 4
# Networks that have capsules to share out among two and three devices.
OPTIONS = {
    "CapsNet": {},
    "DeepCaps": {},
    "EfficientCapsNet": {"num_primary_capsules": 4},
    "InvertedAttentionCapsNet": {},
    "MatrixCapsNet": {},
}
# The mesh of batch and model, and what is shared out.
MODEL = {
    "outputs": ((2, 3), {"layers": "class_capsules(/classes)?"}),
    "inputs": ((2, 2), {}),
}
# Depthwise convolutions need a mesh with one axis.
LINES = {"outputs": (1, 3), "inputs": (1, 4)}


def train(kind, devices, folder, names):
    """Calls `main` in a process of its own.

    Args:
        kind: `"data"`, `"outputs"` or `"inputs"`. On one device, all are the
            same.
        devices: Integer.
        folder: A `pathlib.Path`, where the results go.
        names: Of networks.

    Returns:
        Dictionary of arrays for each network.
    """
    import numpy as np

    folder.mkdir()
    finished = subprocess.run(
        [
            *(sys.executable, "-m", __name__),
            *(kind, str(devices), str(folder), *names),
        ],
        cwd=REPOSITORY,
        env={**os.environ, "XLA_FLAGS": flags(devices)},
        capture_output=True,
        text=True,
    )
    assert finished.returncode == 0, finished.stderr
    return {name: dict(np.load(folder / f"{name}.npz")) for name in names}


def flags(devices):
    """LLVM need not optimize XLA's code."""
    return (
        f"--xla_force_host_platform_device_count={devices} "
        "--xla_backend_optimization_level=0"
    )


def main(kind, devices, folder, *names):
    import keras
    import numpy as np

    from tests.helpers.networks import NAMES

    assert set(OPTIONS) < set(NAMES)
    scope = scope_of_all(int(devices))
    for name in names:
        results = fit(name, kind, int(devices), scope)
        np.savez(pathlib.Path(folder, f"{name}.npz"), **results)
        keras.distribution.set_distribution(None)


def scope_of_all(devices):
    """A scope in which TensorFlow's variables lie on all devices."""
    import keras

    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        tf.config.set_logical_device_configuration(
            tf.config.list_physical_devices("CPU")[0],
            [tf.config.LogicalDeviceConfiguration() for _ in range(devices)],
        )
        strategy = tf.distribute.MirroredStrategy(
            [f"CPU:{index}" for index in range(devices)]
        )
        assert strategy.num_replicas_in_sync == devices
        return strategy.scope
    import jax

    assert len(jax.devices()) == devices
    return contextlib.nullcontext


def fit(name, kind, devices, scope):
    import keras
    import numpy as np

    from keras_capsules import MarginLoss
    from keras_capsules.models import saving
    from tests.helpers.networks import images
    from tests.helpers.networks import labels

    with scope():
        model = make(name, kind, devices)
        for _, layer in saving.walk(model):
            # Statistics of the whole batch, as on one device.
            if isinstance(layer, keras.layers.BatchNormalization):
                layer.synchronized = keras.backend.backend() == "tensorflow"
            # Devices would drop other inputs.
            assert not getattr(layer, "rate", 0)
        # Plain descent, so that a gradient that is too large shows: optimizers
        # such as Adam would hide it.
        model.compile(keras.optimizers.SGD(0.1), MarginLoss())
    before = model.get_weights()
    first = {}

    def keep(epoch, logs):
        if epoch == 0:
            first.update({str(i): x for i, x in enumerate(model.get_weights())})

    weights = np.random.default_rng(9).choice([0.0, 0.5, 1.0, 2.0], BATCH)
    history = model.fit(
        images(BATCH),
        labels(BATCH),
        sample_weight=weights.astype("float32"),
        batch_size=BATCH,
        epochs=4,
        shuffle=False,
        verbose=0,
        callbacks=[keras.callbacks.LambdaCallback(on_epoch_end=keep)],
    )
    after = first.values()
    assert any(
        np.abs(x - y).max() > 1e-5 for x, y in zip(before, after, strict=True)
    )
    return {**first, "loss": np.array(history.history["loss"])}


def make(name, kind, devices):
    """The network, where it belongs."""
    import keras

    from keras_capsules import distribution
    from tests.helpers import networks

    options = {"reconstruction_weight": 0.05, **OPTIONS.get(name, {})}
    if name in ("ConvNet", "SqueezeExcitationNet"):
        options = {"dropout": 0.0} if name == "ConvNet" else {}
    if keras.backend.backend() == "tensorflow" or devices == 1:
        return networks.make(name, **options)
    if kind == "data":
        parallel = keras.distribution.DataParallel()
        keras.distribution.set_distribution(parallel)
        return networks.make(name, **options)
    shape, chosen = MODEL[kind]
    if name == "EfficientCapsNet":
        shape = LINES[kind]
    found = keras.distribution.list_devices()[: shape[0] * shape[1]]
    mesh = keras.distribution.DeviceMesh(shape, ["batch", "model"], found)
    network = networks.make(name, **options)
    layout = distribution.layout_map(network, mesh, capsules=kind, **chosen)
    assert len(layout) > 0
    keras.distribution.set_distribution(
        keras.distribution.ModelParallel(
            layout_map=layout, batch_dim_name="batch"
        )
    )
    model = distribution.distribute(network, layout)
    for weight in model.weights:
        value = weight.value
        number = shape[1] if weight.path in list(layout) else 1
        for part in value.addressable_shards:
            assert part.data.nbytes * number == value.nbytes, weight.path
    return model


if __name__ == "__main__":
    main(*sys.argv[1:])
