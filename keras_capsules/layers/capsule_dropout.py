"""Dropout of whole capsules."""

from typing import Any

import keras
from keras import ops

from keras_capsules.layers.poses import fits_pair
from keras_capsules.layers.poses import is_pair
from keras_capsules.types import Capsules
from keras_capsules.utils.validation import check_number


@keras.saving.register_keras_serializable(package="keras_capsules")
class CapsuleDropout(keras.layers.Layer):
    """Switches capsules off at random in training, each as a whole.

    A capsule that is switched off has a pose of zeros: it votes for nothing.
    The poses of the others are divided by `1 - rate`, so that sums of votes
    stay the same on average. Where capsules have activations beside their
    poses, the activations are zeros as well, and the others are left as they
    are, because they are probabilities.

    Dropout of single numbers, `keras.layers.Dropout`, would turn a pose into
    another one. See
    [Srivastava et al., 2014](https://jmlr.org/papers/v15/srivastava14a.html)
    for dropout.

    Args:
        rate: Number of at least 0 and less than 1, the probability that a
            capsule is switched off.
        seed: Optional integer, for the same choices in every run.
        **kwargs: Arguments of `keras.layers.Layer`, such as `name` and
            `dtype`.

    Call arguments:
        inputs: Capsules, see below.
        training: Boolean, whether capsules are switched off.

    Input shape:
        Vector capsules `(batch, ..., dim)`; or a pair of poses, of this shape
        or `(batch, ..., rows, dim)`, and activations `(batch, ...)`.

    Output shape:
        The shape of the input.

    Raises:
        ValueError: If an argument is invalid, or the input has another shape.

    Example:

    ```python
    import keras
    import numpy as np
    from keras_capsules.layers import CapsuleDropout

    capsules = CapsuleDropout(0.5)(np.ones((1, 4, 8)), training=True)
    keras.ops.norm(capsules, axis=-1)  # about half of them are 0
    ```
    """

    def __init__(
        self, rate: float, seed: int | None = None, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.rate = check_number(rate, "rate", 0, 1)
        if self.rate == 1:
            raise ValueError(
                "Invalid value for argument `rate`. Expected a number less "
                f"than 1. Received: rate={rate!r}"
            )
        self.seed = seed
        # Named, so that weights have the same paths in every process.
        self.seed_generator = keras.random.SeedGenerator(
            seed, name=f"{self.name}_seed"
        )
        self.supports_masking = True

    def build(self, input_shape: Any) -> None:
        if is_pair(input_shape):
            valid = fits_pair(input_shape) and len(input_shape[1]) > 1
        else:
            valid = len(input_shape) > 2
        if not valid:
            raise ValueError(
                "CapsuleDropout takes vector capsules (batch, ..., dim), or a "
                "pair of poses and activations (batch, ...). Received: "
                f"input_shape={tuple(input_shape)}"
            )

    def call(self, inputs: Capsules, training: bool = False) -> Capsules:
        if not training or self.rate == 0:
            return inputs
        if not isinstance(inputs, (list, tuple)):
            return inputs * ops.expand_dims(self._factors(inputs[..., 0]), -1)
        poses, activations = inputs
        kept = self._factors(activations) > 0
        axes = tuple(range(len(activations.shape), len(poses.shape)))
        poses = ops.where(ops.expand_dims(kept, axes), poses, 0.0)
        return poses, ops.where(kept, activations, 0.0)

    def _factors(self, capsules):
        """For each capsule 0, or the inverse of the share that is kept."""
        ones = ops.ones_like(capsules)
        return keras.random.dropout(ones, self.rate, seed=self.seed_generator)

    def compute_output_shape(self, input_shape: Any) -> Any:
        return input_shape

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "rate": self.rate, "seed": self.seed}
