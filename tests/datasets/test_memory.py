"""How often images are in memory when data sets are made of them."""

import os
import subprocess
import sys

import pytest

from tests.helpers.testing import on_one_backend

# It is all TensorFlow's, and measured in a process of its own.
pytestmark = [
    on_one_backend,
    pytest.mark.skipif(sys.platform != "linux", reason="reads /proc"),
]
SCRIPT = """
import re
import numpy as np
import tensorflow as tf
from keras_capsules import datasets
from keras_capsules.datasets import loading, overlapping, viewpoints
from keras_capsules.training import orders


def peak():
    text = open("/proc/self/status").read()
    return int(re.search(r"VmHWM:\\s+(\\d+)", text)[1]) / 1024


def load(*_, **__):
    data = tf.data.Dataset.range(12_300).map(
        lambda i: (tf.fill((64, 64, 1), tf.cast(i, "float32")), i)
    )
    return data.apply(tf.data.experimental.assert_cardinality(12_300))


loading.load = load
before = peak()
images, labels = datasets.load_arrays("mnist")  # 192 MiB
assert (images[:, 5, 7, 0] == labels).all()
print(peak() - before)
overlapping.load_arrays = viewpoints.load_arrays = lambda *_, **__: (
    images,
    labels % 10,
)
for data in (
    orders.in_random_order(images, labels, 0)(0, 100),
    datasets.multi_mnist(),
    datasets.affine_mnist(size=70),
):
    assert len(list(data.take(10))) == 10
print(peak() - before)
"""


def test_images_are_not_copied_again_and_again():
    """As parts of a graph, which is copied often, they took 19 to 28 times."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        env={**os.environ, "KERAS_BACKEND": "tensorflow"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert not done.returncode, done.stderr
    loaded, used = map(float, done.stdout.split())
    assert loaded < 2.5 * 192  # more than three times before
    assert used < 10 * 192
