"""The features of models, and the classes that win."""

import difflib

import keras
import numpy as np

from keras_capsules.layers.base import RoutedLayer
from keras_capsules.layers.capsule_stack import CapsuleStack
from keras_capsules.models.capsule_network import CapsuleNetwork


class Probe:
    """Computes features and winning classes of images.

    Args:
        model: A functional model.
        layer: The name of the layer whose output is the features; or `None`,
            for the pose of the winning capsule or the input of the last `Dense`
            layer.

    Raises:
        ValueError: If there is no such layer, or the model has no scores.
    """

    def __init__(self, model: keras.Model, layer: str | None):
        outputs = model.outputs
        if len(outputs) != 1 or len(outputs[0].shape) != 2:
            raise ValueError(
                "Invalid value for argument `model`. Expected one output, "
                "class scores (batch, num_classes). Received: a model with "
                f"outputs of shape {[tuple(x.shape) for x in outputs]}"
            )
        poses = None
        if layer is None:
            poses = _class_poses(model, outputs[0].shape[1])
        self.is_capsules = poses is not None
        features = [poses]
        if poses is None:
            features = keras.tree.flatten(_find_features(model, layer))
        (images,) = model.inputs
        self.model = keras.Model(images, [*outputs, *features])

    def __call__(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns features `(batch, features)` and classes `(batch,)`.

        Args:
            images: `(batch, ...)`.
        """
        scores, *features = (
            np.asarray(x, "float32")
            for x in self.model.predict_on_batch(images)
        )
        classes = scores.argmax(axis=1)
        if self.is_capsules:
            features = [features[0][np.arange(len(images)), classes]]
        joined = np.concatenate(
            [x.reshape(len(images), -1) for x in features], axis=1
        )
        if not np.isfinite(joined).all() or not np.isfinite(scores).all():
            raise ValueError(
                "Features and scores have to be finite. Expected images "
                "without NaN, and a model whose training has not failed. "
                "Received: features or scores that are not finite"
            )
        return joined, classes


def _class_poses(model, classes):
    """The poses of the class capsules; `None` if there are none."""
    if isinstance(model, CapsuleNetwork):
        # Of a pair, the poses.
        return keras.tree.flatten(model.encoder.output)[0]
    for each in reversed(model.layers):
        if isinstance(each, keras.layers.Dense):
            return None  # the scores are computed from its input
        if isinstance(each, RoutedLayer | CapsuleStack):
            poses = keras.tree.flatten(each.output)[0]
            if poses.shape[1] == classes and len(poses.shape) in (3, 4):
                return poses
            raise ValueError(
                "The last layer that routes has no capsule for each class. "
                "Expected `layer`, the name of the layer whose output is used "
                f"as the features. Received: layer=None, and {each.name!r} "
                f"with poses of shape {tuple(poses.shape)}"
            )
    return None


def _find_features(model, name):
    """The output of a layer, or the input of the last `Dense` layer."""
    layers = {
        each.name: each
        for each in model.layers
        if not isinstance(each, keras.layers.InputLayer)
    }
    if name is not None:
        if name in layers:
            return layers[name].output
        close = difflib.get_close_matches(str(name), layers, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise ValueError(
            "Invalid value for argument `layer`. Expected the name of a layer: "
            f"one of {list(layers)}.{hint} Received: layer={name!r}"
        )
    for each in reversed(layers.values()):
        if isinstance(each, keras.layers.Dense):
            return each.input
    raise ValueError(
        "The model has neither class capsules nor a Dense layer. Expected "
        "`layer`, the name of the layer whose output is used as the features: "
        f"one of {list(layers)}. Received: layer=None"
    )
