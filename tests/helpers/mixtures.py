"""Helpers for tests of routings that fit a mixture to the votes."""

import keras
import numpy as np
from keras import ops

from keras_capsules.routing import Routed
from keras_capsules.routing import RoutingSpec
from keras_capsules.routing import Windows
from tests.helpers.gradients import KEEPS_FLOAT64
from tests.helpers.gradients import assert_close
from tests.helpers.gradients import evaluate

# Distinct primes, so that no axis can be taken for another. Matrices have 2
# rows.
BATCH, INPUTS, DIM, OUTPUTS, OUT_DIM = 3, 11, 13, 5, 7
# Of the largest entry, after three iterations.
TOLERANCE = 1e-9 if KEEPS_FLOAT64 else 3e-4


def make_arrays(rows=1, batch=BATCH, inputs=INPUTS, outputs=OUTPUTS):
    """Poses, kernel and activations, in float64. Votes have a variance of 1."""
    random = np.random.default_rng(0)
    return [
        random.normal(size=(batch, inputs, rows, DIM)),
        random.normal(size=(inputs, DIM, outputs, OUT_DIM)) / DIM**0.5,
        random.uniform(0.1, 1, size=(batch, inputs)),
    ]


def evaluate_all(route, *arrays):
    """All results of `route(*arrays)`, as arrays, from one run."""
    shapes = []

    def joined(*tensors):
        routed = route(*tensors)
        shapes.extend(tuple(each.shape) for each in routed)
        return ops.concatenate([ops.reshape(each, (-1,)) for each in routed])

    values = evaluate(joined, *arrays)
    ends = np.cumsum([np.prod(shape) for shape in shapes])
    parts = np.split(values, ends[:-1])
    return Routed(
        *(
            part.reshape(shape)
            for part, shape in zip(parts, shapes, strict=True)
        )
    )


class Convolution:
    """A grid of capsules, its windows, and the identities of its capsules."""

    def __init__(self, size, kernel_size, strides, padding="valid", types=2):
        self.size, self.types = size, types
        self.kernel_size, self.strides = kernel_size, strides
        self.windows = Windows(size, kernel_size, strides, padding)
        self.inputs = kernel_size[0] * kernel_size[1] * types
        self.margins = [(0, 0), (0, 0)]
        if padding == "same":
            for axis in range(2):
                stride = strides[axis]
                number = -(-size[axis] // stride)
                missing = (number - 1) * stride + kernel_size[axis] - size[axis]
                before = max(missing, 0) // 2
                self.margins[axis] = before, max(missing, 0) - before

    def make_arrays(self, images=2):
        random = np.random.default_rng(0)
        grid = images, *self.size, self.types
        return [
            random.normal(size=(*grid, 1, DIM)),
            random.normal(size=(self.inputs, DIM, OUTPUTS, OUT_DIM)) / DIM**0.5,
            random.uniform(0.1, 1, size=grid),
        ]

    def unfold(self, grid):
        """The input capsules of all windows, one after the other."""
        rest = [(0, 0)] * (grid.ndim - 3)
        return self._unfold(np.pad(grid, [(0, 0), *self.margins, *rest]))

    def _unfold(self, padded):
        found = []
        (height, width), (down, right) = self.kernel_size, self.strides
        for image in padded:
            for y in range(0, len(image) - height + 1, down):
                for x in range(0, len(image[0]) - width + 1, right):
                    window = image[y : y + height, x : x + width]
                    found.append(window.reshape(-1, *window.shape[3:]))
        return np.stack(found)

    def identities(self, images=2):
        """A number for each input capsule of the grid, `[b P, i]`."""
        size = np.add(self.size, np.sum(self.margins, axis=1))
        shape = images, *size, self.types
        return self._unfold(np.arange(np.prod(shape)).reshape(shape))

    def route(self, routing, poses, kernel, activations, **kwargs):
        """Routes a grid, which the windows unfold themselves."""
        poses = self.windows.unfold(poses)
        activations = self.windows.unfold(activations)
        return routing(
            ops.reshape(poses, (-1, self.inputs, 1, DIM)),
            kernel,
            activations=ops.reshape(activations, (-1, self.inputs)),
            windows=self.windows,
            **kwargs,
        )


def one_window_each(poses):
    """Identities of input capsules that are in one window each."""
    return np.arange(poses.shape[0] * poses.shape[1]).reshape(poses.shape[:2])


def shares_of_inputs(scores, identities):
    """Shares of each input capsule, among outputs of all types and positions.

    Args:
        scores: Logarithms of numbers proportional to shares, `[b, j, i]`.
        identities: `[b, i]`, equal for the same input capsule.
    """
    scores = np.moveaxis(scores, 1, 0)
    shares = np.empty_like(scores)
    for capsule in np.unique(identities):
        here = identities == capsule
        logits = scores[:, here]
        powers = np.exp(logits - logits.max())
        shares[:, here] = powers / powers.sum()
    return np.moveaxis(shares, 0, 1)


def check_that_inactive_inputs_count_for_nothing(route, dtype):
    """A layer with inactive input capsules is the layer of the others.

    Args:
        route: Function that routes poses, kernel and activations.
        dtype: Of the arrays.
    """
    poses, kernel, activations = [each.astype(dtype) for each in make_arrays(2)]
    some = np.arange(INPUTS) % 3 == 0
    activations[:, ~some] = 0
    values = evaluate_all(route, poses, kernel, activations)
    others = evaluate_all(
        route, poses[:, some], kernel[some], activations[:, some]
    )
    tolerance = 2e-3 if dtype == "float16" else 1e-5
    assert_close(values.poses, others.poses, tolerance)
    assert_close(values.activations, others.activations, tolerance)
    assert_close(values.coupling[:, :, some], others.coupling, tolerance)


class Host(keras.layers.Layer):
    """A minimal layer with a routing. It returns poses and activations."""

    def __init__(self, routing, outputs=OUTPUTS, **kwargs):
        super().__init__(**kwargs)
        self.routing = routing
        self.outputs = outputs

    def build(self, shape):
        poses, _ = shape
        self.kernel = self.add_weight(
            name="kernel",
            shape=(poses[1], poses[3], self.outputs, OUT_DIM),
            initializer="random_normal",
        )
        self.pose_shape = poses[2], OUT_DIM
        spec = RoutingSpec(
            poses[1], self.outputs, self.pose_shape, tuple(poses[2:])
        )
        self.routing_weights = self.routing.build(self, spec)

    def call(self, inputs, training=False):
        poses, activations = inputs
        routed = self.routing(
            poses,
            ops.convert_to_tensor(self.kernel),
            activations=activations,
            weights=self.routing_weights,
            training=bool(training),
        )
        shape = -1, self.outputs, *self.pose_shape
        return ops.reshape(routed.poses, shape), routed.activations


def host_model(routing, rows=1, **kwargs):
    """A model of one such layer, for batches of any size."""
    inputs = keras.Input((INPUTS, rows, DIM)), keras.Input((INPUTS,))
    return keras.Model(inputs, Host(routing, **kwargs)(inputs))
