"""The loss of reconstructions."""

from collections.abc import Mapping
from typing import Any

import keras
from keras import ops

from keras_capsules.types import Tensor

# Keys of a dictionary of labels.
TARGETS, TARGET_CLASSES = "targets", "target_classes"


class SquaredError(keras.losses.Loss):
    """The squared error of each example, summed over its pixels.

    As a loss of Keras it is scaled as others are, also where several devices
    share a batch.
    """

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        axes = tuple(range(1, len(y_pred.shape)))
        return ops.sum(ops.square(y_pred - y_true), axis=axes)


def objects_of(
    y: Any, network: keras.Model
) -> list[tuple[Tensor, Tensor]] | None:
    """The objects that are drawn each by itself.

    Args:
        y: The labels that `fit` takes; see `CapsuleNetwork`.
        network: The network.

    Returns:
        A list of integer labels `(batch,)` and images `(batch, ...)`, one pair
        for each object; or `None` if `y` has no images.

    Raises:
        ValueError: If a key is missing, or the shapes do not fit.
    """
    if not isinstance(y, Mapping) or not {TARGETS, TARGET_CLASSES} & set(y):
        return None
    images: Any = y.get(TARGETS)
    classes: Any = y.get(TARGET_CLASSES)
    image_shape: Any = tuple(getattr(images, "shape", ()))
    shape: Any = tuple(getattr(classes, "shape", ()))
    expected = tuple(network.inputs[0].shape[1:])
    scores = network.output_names[0]
    # Keras also takes images without a last axis of size 1.
    fits = image_shape[2:] == expected or (*image_shape[2:], 1) == expected
    is_none = 0 in shape[1:]
    if len(shape) != 2 or image_shape[1:2] != shape[1:] or not fits or is_none:
        raise ValueError(
            f"Expected `{TARGETS}` of shape (batch, objects, "
            f"{', '.join(map(str, expected))}), an image for each object, and "
            f"`{TARGET_CLASSES}`, integers of shape (batch, objects), both as "
            "arrays or tensors, of at least one object. "
            f"Received: {_described(y, TARGETS)}, "
            f"{_described(y, TARGET_CLASSES)}"
        )
    if scores not in y:
        raise ValueError(
            f"The labels of several objects need the key {scores!r}, the "
            f"classes that are present. Received: labels with keys {list(y)}"
        )
    return [(classes[:, n], images[:, n]) for n in range(shape[1])]


def _described(labels, name):
    if name not in labels:
        return f"no {name}"
    value = labels[name]
    if not hasattr(value, "shape"):
        return f"{name} of type {type(value).__name__}"
    return f"{name} of shape {tuple(value.shape)}"
