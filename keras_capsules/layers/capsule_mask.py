"""Keeps the capsules of some classes and zeros all others."""

from typing import Any

import keras
import numpy as np
from keras import ops

from keras_capsules.activations import safe_norm
from keras_capsules.layers.plain import PlainLayer
from keras_capsules.layers.poses import fits_pair
from keras_capsules.layers.poses import is_pair
from keras_capsules.types import Capsules
from keras_capsules.types import Shape
from keras_capsules.types import Tensor
from keras_capsules.utils.dtypes import at_least_float32
from keras_capsules.utils.labels import to_multi_hot


@keras.saving.register_keras_serializable(package="keras_capsules")
class CapsuleMask(PlainLayer):
    """Zeros every class capsule except the labelled (or most active) one.

    It stands between the class capsules and a decoder. The decoder then has to
    reconstruct an image from the capsule of its class, so this capsule learns
    everything that the reconstruction needs. In training, labels say which
    capsule is kept. Without labels, the longest capsule is kept or, if capsules
    have activations beside their poses, the most active one.

    Notation: the mask in section 4.1 of
    [Sabour et al., 2017](https://arxiv.org/abs/1710.09829).

    Args:
        **kwargs: Arguments of `keras.layers.Layer`, such as `name`, `dtype`.

    Call arguments:
        inputs: Class capsules, see below.
        labels: Optional classes to keep: integer labels of shape `(batch,)`
            or `(batch, 1)`, or one-hot or multi-hot labels of shape
            `(batch, num_capsules)`. Without them, the longest or most active
            capsule of each example is kept; of several, the first one.

    Input shape:
        `(batch, num_capsules, capsule_dim)`; or a pair of poses, of that shape
        or `(batch, num_capsules, rows, capsule_dim)`, and activations
        `(batch, num_capsules)`.

    Output shape:
        The shape of the input or, of a pair, of the poses.

    Raises:
        ValueError: If the input has another shape, or the labels do not fit. A
            label that names no class raises in a NumPy array or list. In a
            tensor, it makes the capsules of its example NaN.

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

    def __init__(self, **kwargs: Any) -> None:
        # Keras would also round labels to 16 bits: label 257 becomes 256.
        super().__init__(autocast=False, **kwargs)

    def __call__(self, inputs: Any, labels: Any = None, **kwargs: Any) -> Any:
        if isinstance(labels, np.ndarray):
            # Before Keras makes a tensor of it, whose values are not checked.
            poses, _ = _split(inputs)
            labels = to_multi_hot(labels, np.shape(poses)[:2], "labels")
        return super().__call__(inputs, labels=labels, **kwargs)

    def build(self, inputs_shape: Any, labels_shape: Any = None) -> None:
        del labels_shape
        _check_input_shape(inputs_shape)

    def call(self, inputs: Capsules, labels: Any = None) -> Tensor:
        poses, activations = _split(inputs)
        if labels is not None:
            multi_hot = to_multi_hot(labels, poses.shape[:2], "labels")
        else:
            # In 16 bits, lengths would be rounded to the same few values.
            if activations is None:
                exact = ops.cast(poses, at_least_float32(poses.dtype))
                activations = safe_norm(exact)
            multi_hot = ops.one_hot(
                ops.argmax(activations, axis=-1), poses.shape[1]
            )
        poses = ops.cast(poses, self.compute_dtype)
        multi_hot = ops.cast(multi_hot, poses.dtype)
        axes = tuple(range(2, len(poses.shape)))
        return poses * ops.expand_dims(multi_hot, axes)

    def compute_output_shape(
        self, inputs_shape: Any, labels_shape: Any = None
    ) -> Shape:
        del labels_shape
        return _check_input_shape(inputs_shape)


def _split(inputs):
    """Poses, and activations if there are some."""
    if not isinstance(inputs, (list, tuple)):
        _check_input_shape(np.shape(inputs))
        return inputs, None
    _check_input_shape([tuple(np.shape(each)) for each in inputs])
    return inputs


def _check_input_shape(inputs_shape):
    """The shape of the poses."""
    if is_pair(inputs_shape):
        inputs_shape = tuple(map(tuple, inputs_shape))
        if fits_pair(inputs_shape) and len(inputs_shape[1]) == 2:
            return inputs_shape[0]
    elif len(inputs_shape) == 3:
        return tuple(inputs_shape)
    raise ValueError(
        "CapsuleMask takes class capsules of shape (batch, num_capsules, "
        "capsule_dim), or a pair of poses, of this shape or (batch, "
        "num_capsules, rows, capsule_dim), and activations (batch, "
        f"num_capsules). Received: inputs_shape={tuple(inputs_shape)}"
    )
