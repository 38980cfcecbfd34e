"""Layers of capsules that are routed together."""

import keras
from keras import ops

from keras_capsules.routing import Routing
from keras_capsules.utils.validation import check_boolean
from keras_capsules.utils.validation import check_integer


@keras.saving.register_keras_serializable(package="keras_capsules")
class CapsuleStack(keras.layers.Layer):
    """Layers of capsules, one on the other, routed concurrently.

    Some routings, such as inverted attention, can go on from earlier outputs
    of their layer. So all layers of a network can be routed together:

    ```
    poses_0 = inputs
    iteration 1, for each layer l from the first to the last:
        poses_l = layer l of poses_(l-1), with uniform coupling
    each further iteration, for all layers at once:
        poses_l = layer l of poses_(l-1), going on from poses_l
    ```

    where all right-hand sides are of the iteration before, so each iteration
    propagates information up by one layer. Only what the output depends on is
    computed. With `concurrent=False` a layer goes through all
    iterations before the next begins, as if the layers were in a
    `keras.Sequential`, each with that many iterations.

    Notation: procedure 2 of
    [Tsai et al., 2020](https://arxiv.org/abs/2002.04764), whose concurrent
    and sequential iterative routing these are, and whose t is
    `num_iterations`.

    Args:
        layers: Sequence of capsule layers, such as `CapsuleLayer` and
            `ConvCapsules2D`, from the first to the last. Each must have a
            routing that takes earlier `outputs`, such as
            `InvertedAttentionRouting(num_iterations=1)`: the number of
            iterations is that of the stack.
        num_iterations: Positive integer, the iterations of the stack. `1`
            means no routing at all. Defaults to `2`.
        concurrent: Boolean, whether the layers are routed together rather
            than one after the other. Defaults to `True`.
        **kwargs: Arguments of `keras.layers.Layer`, such as `name` and
            `dtype`, the dtype of input and output; the layers have their own.

    Call arguments:
        inputs: Capsules, as the first layer takes them.

    Input shape:
        That of the first layer.

    Output shape:
        That of the last layer.

    Raises:
        ValueError: If an argument is not as described, or the input does not
            fit the first layer.

    Example:

    ```python
    import keras
    from keras_capsules import CapsuleLayer
    from keras_capsules import ConvCapsules2D
    from keras_capsules.layers.capsule_stack import CapsuleStack
    from keras_capsules.routing.inverted_attention import (
        InvertedAttentionRouting,
    )

    routing = InvertedAttentionRouting(num_iterations=1)
    stack = CapsuleStack(
        [
            ConvCapsules2D(5, 16, 3, strides=2, routing=routing),
            CapsuleLayer(10, 16, routing=routing),
        ],
        num_iterations=2,
    )
    classes = stack(keras.random.normal((2, 7, 7, 8, 16)))  # (2, 10, 16)
    scores = keras.layers.Dense(1)(classes)[..., 0]  # (2, 10)
    ```
    """

    def __init__(self, layers, num_iterations=2, concurrent=True, **kwargs):
        super().__init__(**kwargs)
        self.layers = _check_layers(layers)
        self.num_iterations = check_integer(num_iterations, "num_iterations")
        self.concurrent = check_boolean(concurrent, "concurrent")

    def build(self, input_shape):
        shape = input_shape
        for layer in self.layers:
            if not layer.built:
                layer.build(shape)
            shape = layer.compute_output_shape(shape)

    def call(self, inputs):
        route = self._concurrently if self.concurrent else self._in_turn
        return ops.cast(route(inputs), self.compute_dtype)

    def _in_turn(self, inputs):
        poses = inputs
        for layer in self.layers:
            children, poses = poses, layer(poses)
            for _ in range(1, self.num_iterations):
                poses = layer(children, outputs=poses)
        return poses

    def _concurrently(self, inputs):
        poses = [inputs]  # of each level; the first is that of the inputs
        for layer in self.layers:
            poses.append(layer(poses[-1]))
        last = len(self.layers)
        for left in reversed(range(self.num_iterations - 1)):
            # From the top, so that children are still the old ones. Lower
            # layers are left out if too few iterations are left for them to
            # reach the output.
            for level in range(last, max(last - left, 1) - 1, -1):
                layer = self.layers[level - 1]
                poses[level] = layer(poses[level - 1], outputs=poses[level])
        return poses[-1]

    def compute_output_shape(self, input_shape):
        shape = input_shape
        for layer in self.layers:
            shape = layer.compute_output_shape(shape)
        return shape

    def get_config(self):
        return {
            **super().get_config(),
            "layers": [keras.layers.serialize(layer) for layer in self.layers],
            "num_iterations": self.num_iterations,
            "concurrent": self.concurrent,
        }

    @classmethod
    def from_config(cls, config, custom_objects=None):
        layers = [
            keras.layers.deserialize(layer, custom_objects=custom_objects)
            for layer in config["layers"]
        ]
        return cls(**{**config, "layers": layers})


def _check_layers(layers):
    """A list of layers that can be routed together, or raises."""
    if not isinstance(layers, (list, tuple)) or not layers:
        raise ValueError(
            "Invalid value for argument `layers`. Expected a list or tuple of "
            f"one or more capsule layers. Received: layers={layers!r}"
        )
    for layer in layers:
        routing = getattr(layer, "routing", None)
        if (
            not isinstance(layer, keras.layers.Layer)
            or not isinstance(routing, Routing)
            or not routing.takes("outputs")
            or getattr(routing, "num_iterations", 1) != 1
        ):
            raise ValueError(
                "Invalid value for argument `layers`. Expected capsule layers "
                "with a routing that takes earlier outputs and has "
                "num_iterations=1, such as InvertedAttentionRouting("
                "num_iterations=1), because the number of iterations is that "
                "of the stack. Received: "
                f"layer={layer!r}, routing={routing!r}"
            )
    return list(layers)
