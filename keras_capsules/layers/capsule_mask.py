"""Keeps the capsules of the classes that count and zeros the others."""

import keras
import numpy as np
from keras import ops

from keras_capsules.activations import safe_norm
from keras_capsules.layers._routed import fits
from keras_capsules.utils.dtypes import at_least_float32
from keras_capsules.utils.labels import to_presences


@keras.saving.register_keras_serializable(package="keras_capsules")
class CapsuleMask(keras.layers.Layer):
    """Sets all poses to zero but those of the labels or the likeliest class.

    Between the class capsules and a decoder, so that the decoder draws from
    the capsule of one class, and that capsule learns to hold all there is to
    draw. With labels in training, without them in use: then the longest
    capsule is kept or, where capsules have activations beside their poses,
    the most active one.

    Notation: the mask in section 4.1 of
    [Sabour et al., 2017](https://arxiv.org/abs/1710.09829).

    Args:
        **kwargs: Arguments of `keras.layers.Layer`, such as `name`, `dtype`.

    Call arguments:
        inputs: Class capsules, see below.
        labels: Optional classes to keep: integer labels of shape `(batch,)`
            or `(batch, 1)`, or one-hot or multi-hot ones of shape
            `(batch, num_capsules)`. Without them, the longest or most active
            capsule of each example is kept, the first one if several are.

    Input shape:
        `(batch, num_capsules, capsule_dim)`; or a pair of poses, of that shape
        or `(batch, num_capsules, rows, capsule_dim)`, and of activations
        `(batch, num_capsules)`.

    Output shape:
        That of the input or, of a pair, of the poses.

    Raises:
        ValueError: If the input is of another shape, or the labels do not
            fit. A label that names no class raises in a NumPy array or list;
            in a tensor, it makes the capsules of its example NaN.

    Example:

    ```python
    import keras
    import numpy as np
    from keras_capsules import CapsuleMask

    capsules = keras.random.normal((2, 10, 16))
    longest = CapsuleMask()(capsules)  # (2, 10, 16), 9 of 10 rows are zero
    chosen = CapsuleMask()(capsules, labels=np.array([3, 7]))

    poses = keras.random.normal((2, 10, 4, 4))
    activations = keras.random.uniform((2, 10))
    most_active = CapsuleMask()((poses, activations))  # (2, 10, 4, 4)
    ```
    """

    def __init__(self, **kwargs):
        # Keras would round labels to 16 bits, too: label 257 becomes 256.
        super().__init__(autocast=False, **kwargs)

    def __call__(self, inputs, labels=None, **kwargs):
        if isinstance(labels, np.ndarray):
            # Before Keras makes a tensor of it, whose values nobody looks at.
            poses, _ = _split(inputs)
            labels = to_presences(labels, np.shape(poses)[:2], "labels")
        return super().__call__(inputs, labels=labels, **kwargs)

    def build(self, inputs_shape, labels_shape=None):
        self.compute_output_shape(inputs_shape, labels_shape)  # for its check

    def call(self, inputs, labels=None):
        poses, activations = _split(inputs)
        _check_shapes(
            poses.shape, None if activations is None else activations.shape
        )
        if labels is not None:
            presences = to_presences(labels, poses.shape[:2], "labels")
        else:
            # In 16 bits, lengths would be rounded to the same few values.
            if activations is None:
                exact = ops.cast(poses, at_least_float32(poses.dtype))
                activations = safe_norm(exact)
            presences = ops.one_hot(
                ops.argmax(activations, axis=-1), poses.shape[1]
            )
        poses = ops.cast(poses, self.compute_dtype)
        presences = ops.cast(presences, poses.dtype)
        axes = tuple(range(2, len(poses.shape)))
        return poses * ops.expand_dims(presences, axes)

    def compute_output_shape(self, inputs_shape, labels_shape=None):
        del labels_shape
        poses_shape, activations_shape = inputs_shape, None
        if inputs_shape and isinstance(inputs_shape[0], (list, tuple)):
            _check_pair(inputs_shape)
            poses_shape, activations_shape = inputs_shape
        _check_shapes(poses_shape, activations_shape)
        return tuple(poses_shape)


def _split(inputs):
    """Poses, and activations if there are some."""
    if isinstance(inputs, (list, tuple)):
        _check_pair([np.shape(each) for each in inputs])
        return inputs
    return inputs, None


def _check_pair(shapes):
    if len(shapes) != 2:
        raise ValueError(
            "CapsuleMask takes class capsules as one tensor, or as a pair of "
            "poses and activations. Received: "
            f"inputs_shape={tuple(map(tuple, shapes))}"
        )


def _check_shapes(poses_shape, activations_shape):
    if activations_shape is None:
        if len(poses_shape) != 3:
            raise ValueError(
                "CapsuleMask takes class capsules of shape (batch, "
                "num_capsules, capsule_dim). Received: "
                f"inputs_shape={tuple(poses_shape)}"
            )
        return
    if (
        len(poses_shape) not in (3, 4)
        or len(activations_shape) != 2
        or poses_shape[1] != activations_shape[1]
        or not fits(poses_shape[:1], activations_shape[:1])
    ):
        raise ValueError(
            "CapsuleMask takes pairs of poses of shape (batch, num_capsules, "
            "capsule_dim) or (batch, num_capsules, rows, capsule_dim), and "
            "activations of shape (batch, num_capsules). Received: shapes "
            f"{tuple(poses_shape)} and {tuple(activations_shape)}"
        )
