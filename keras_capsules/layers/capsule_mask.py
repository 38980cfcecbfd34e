"""Keeps the capsules of the classes that count and zeros the others."""

import keras
import numpy as np
from keras import ops

from keras_capsules._dtypes import at_least_float32
from keras_capsules._labels import to_presences
from keras_capsules.activations import safe_norm


@keras.saving.register_keras_serializable(package="keras_capsules")
class CapsuleMask(keras.layers.Layer):
    """Sets all capsules to zero but those of the labels, or the longest one.

    Between the class capsules and a decoder, so that the decoder draws from
    the capsule of one class, and that capsule learns to hold all there is to
    draw. With labels in training, without them in use.

    Notation: the mask in section 4.1 of
    [Sabour et al., 2017](https://arxiv.org/abs/1710.09829).

    Args:
        **kwargs: Arguments of `keras.layers.Layer`, such as `name`, `dtype`.

    Call arguments:
        inputs: Class capsules, see below.
        labels: Optional classes to keep: integer labels of shape `(batch,)`
            or `(batch, 1)`, or one-hot or multi-hot ones of shape
            `(batch, num_capsules)`. Without them, the longest capsule of each
            example is kept, the first one if several are.

    Input shape:
        `(batch, num_capsules, capsule_dim)`.

    Output shape:
        That of the input.

    Raises:
        ValueError: If the input's rank is not 3, or the labels do not fit. A
            label that names no class raises in a NumPy array or list; in a
            tensor, it makes the capsules of its example NaN.

    Example:

    ```python
    import keras
    import numpy as np
    from keras_capsules import CapsuleMask

    capsules = keras.random.normal((2, 10, 16))
    longest = CapsuleMask()(capsules)  # (2, 10, 16), 9 of 10 rows are zero
    chosen = CapsuleMask()(capsules, labels=np.array([3, 7]))
    ```
    """

    def __init__(self, **kwargs):
        # Keras would round labels to 16 bits, too: label 257 becomes 256.
        super().__init__(autocast=False, **kwargs)
        self.input_spec = keras.layers.InputSpec(ndim=3)

    def __call__(self, inputs, labels=None, **kwargs):
        if isinstance(labels, np.ndarray):
            # Before Keras makes a tensor of it, whose values nobody looks at.
            labels = to_presences(labels, np.shape(inputs)[:2], "labels")
        return super().__call__(inputs, labels=labels, **kwargs)

    def build(self, inputs_shape, labels_shape=None):
        self.compute_output_shape(inputs_shape, labels_shape)  # for its check

    def call(self, inputs, labels=None):
        if labels is None:
            # In 16 bits, lengths would be rounded to the same few values.
            exact = ops.cast(inputs, at_least_float32(inputs.dtype))
            longest = ops.argmax(safe_norm(exact), axis=-1)
            presences = ops.one_hot(longest, inputs.shape[1])
        else:
            presences = to_presences(labels, inputs.shape[:2], "labels")
        inputs = ops.cast(inputs, self.compute_dtype)
        return inputs * ops.cast(presences, inputs.dtype)[:, :, None]

    def compute_output_shape(self, inputs_shape, labels_shape=None):
        del labels_shape
        if len(inputs_shape) != 3:
            raise ValueError(
                "CapsuleMask takes class capsules of shape (batch, "
                "num_capsules, capsule_dim). Received: "
                f"inputs_shape={tuple(inputs_shape)}"
            )
        return tuple(inputs_shape)
