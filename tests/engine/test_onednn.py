"""No product of matrices is written in two ways that oneDNN confuses.

Its cache of programs ignores how far entries are apart along an axis of size 1.
If two threads make two such programs at the same time, one gets the scratch
memory of the other. Seen as "corrupted size vs. prev_size" or a segmentation
fault in the first step of one training in fifteen, and in every run of

    @tf.function(reduce_retracing=True)
    def outer(a, b, c, d):
        return (
            tf.matmul(a, b, transpose_a=True), tf.matmul(c, d, transpose_b=True)
        )

with a: [n, 10, 1, m], b: [n, 10, 1, 16], c: [n, 10, m, 1], d: [n, 10, 16, 1],
for many n and m.
"""

import os
import re
import subprocess
import sys

import keras
import pytest

pytestmark = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow",
    reason="TensorFlow calls oneDNN",
)

SCRIPT = """
import tensorflow as tf

from keras_capsules import CapsuleLayer
from tests.helpers.routings import all_routings

for routing in all_routings().values():
    layer = CapsuleLayer(5, 11, routing=routing)
    inputs = [tf.ones((3, 19, 7)), tf.ones((3, 19))]
    inputs = inputs[: 1 + routing.takes("activations")]

    def call(*inputs):
        return layer(inputs if len(inputs) > 1 else inputs[0], training=True)

    # Batches of unknown size, whose last examples are no whole block.
    @tf.function(
        input_signature=[
            tf.TensorSpec((None, *x.shape[1:]), x.dtype) for x in inputs
        ]
    )
    def slopes(*inputs):
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            outputs = tf.nest.flatten(call(*inputs))
            loss = sum(tf.reduce_sum(x**2) for x in outputs)
        return tape.gradient(loss, [layer.trainable_variables, inputs])

    call(*inputs)
    slopes(*inputs)
"""

# A problem's description, "3x5x19x1:3x5x1x11", is behind its layouts.
CREATED = re.compile(
    r"^onednn_verbose,.*,create:.*,matmul,.*src:(\S+) wei:(\S+) dst:\S+,"
    r".*?,([0-9x]+:[0-9x]+),",
    re.MULTILINE,
)


def test_products_of_vectors_are_all_of_one_form():
    run = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        env={
            **os.environ,
            "ONEDNN_VERBOSE": "profile_create",
            "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "0",
        },
        check=False,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    layouts = {}
    for *layout, problem in CREATED.findall(run.stdout):
        layouts.setdefault(problem, set()).add(tuple(layout))
    if not layouts:
        pytest.skip("this TensorFlow does not multiply with oneDNN")
    of_vectors = {
        problem: found
        for problem, found in layouts.items()
        if re.search(r"x1(:|$)|x1x\d+(:|$)", problem)
    }
    assert "3x5x19x1:3x5x1x11" in of_vectors  # the gradient to the votes
    assert {k: found for k, found in of_vectors.items() if len(found) > 1} == {}
