"""Layers of capsules that are routed together."""

import copy
import functools
from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from keras_capsules.layers.poses import first_mask
from keras_capsules.routing import Routing
from keras_capsules.types import Capsules
from keras_capsules.types import Tensor
from keras_capsules.utils.validation import check_boolean
from keras_capsules.utils.validation import check_integer


@keras.saving.register_keras_serializable(package="keras_capsules")
class CapsuleStack(keras.layers.Layer):
    """Layers of capsules, one above the other, routed concurrently.

    Some routings, such as inverted attention, can go on from earlier outputs
    of their layer. So all layers of a network can be routed together:

    ```
    poses_0 = inputs
    iteration 1, for each layer l from the first to the last:
        poses_l = layer l of poses_(l-1), with uniform coupling
    each further iteration, for all layers at once:
        poses_l = layer l of poses_(l-1), going on from poses_l
    ```

    All right-hand sides are from the iteration before, so each iteration
    propagates information up by one layer. Layers that no longer reach the
    output are not computed. With `concurrent=False` a layer goes through all
    iterations before the next layer begins, as in a `keras.Sequential`.

    Notation: procedure 2 of
    [Tsai et al., 2020](https://arxiv.org/abs/2002.04764), with concurrent and
    sequential iterative routing, whose t is `num_iterations`.

    Args:
        layers: Sequence of capsule layers, such as `CapsuleLayer` and
            `ConvCapsules2D`, from the first to the last. Each must have a
            routing that takes earlier `outputs`, such as
            `InvertedAttentionRouting`. The stack sets the number of iterations
            of each routing to 1.
        num_iterations: Positive integer, the iterations of the stack. `1`
            means no routing at all. Defaults to `2`.
        concurrent: Boolean, whether the layers are routed together rather
            than one after the other. Defaults to `True`.
        **kwargs: Arguments of `keras.layers.Layer`, such as `name` and
            `dtype`, the dtype of the output; the layers have their own.

    Call arguments:
        inputs: Capsules, as the first layer takes them.
        mask: Optional mask of the input capsules, see `CapsuleLayer`.

    Input shape:
        The input shape of the first layer.

    Output shape:
        The output shape of the last layer.

    Raises:
        ValueError: If an argument is not as described, or the input does not
            fit the first layer.

    Example:

    ```python
    import keras
    from keras_capsules import CapsuleLayer
    from keras_capsules import CapsuleStack
    from keras_capsules import ConvCapsules2D

    stack = CapsuleStack(
        [
            ConvCapsules2D(5, 16, 3, 2, routing="inverted_attention"),
            CapsuleLayer(10, 16, routing="inverted_attention"),
        ],
        num_iterations=2,
    )
    classes = stack(keras.random.normal((2, 7, 7, 8, 16)))  # (2, 10, 16)
    scores = keras.layers.Dense(1)(classes)[..., 0]  # (2, 10)
    ```
    """

    def __init__(
        self,
        layers: Sequence[keras.layers.Layer],
        num_iterations: int = 2,
        concurrent: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        _check_layers(layers)
        self.layers = list(layers)
        for layer in self.layers:
            layer.routing = _single_iteration(layer.routing)
        self.num_iterations = check_integer(num_iterations, "num_iterations")
        self.concurrent = check_boolean(concurrent, "concurrent")
        self.supports_masking = True

    def build(self, input_shape: Any) -> None:
        shape = input_shape
        for layer in self.layers:
            if not layer.built:
                layer.build(shape)
            shape = layer.compute_output_shape(shape)

    @property
    def updates(self) -> list[int]:
        """The order in which the stack calls its layers, as their indices."""
        order = list(range(len(self.layers)))
        if not self.concurrent:
            return [n for n in order for _ in range(self.num_iterations)]
        last = order[-1]
        for left in reversed(range(self.num_iterations - 1)):
            # From the top, so that the poses below are still the old ones.
            # Lower layers are left out if too few iterations are left for them
            # to reach the output.
            order += range(last, max(last - left, 0) - 1, -1)
        return order

    def call(self, inputs: Capsules, mask: Any = None) -> Tensor:
        steps = []
        for layer in self.layers:
            # Keras attaches no mask to results, because outputs are given.
            has_mask = first_mask(mask) is not None
            options = {"mask": mask} if has_mask else {}
            steps.append(functools.partial(layer, **options))
            mask = layer.compute_mask(None, mask)
        poses = [inputs, *[None] * len(steps)]  # of each level
        for index in self.updates:
            options = {}
            if poses[index + 1] is not None:
                options["outputs"] = poses[index + 1]
            poses[index + 1] = steps[index](poses[index], **options)
        return ops.cast(poses[-1], self.compute_dtype)

    def compute_mask(self, inputs: Any, previous_mask: Any) -> Any:
        """The mask that the last layer hands on."""
        del inputs
        mask = previous_mask
        for layer in self.layers:
            mask = layer.compute_mask(None, mask)
        return mask

    def compute_output_shape(self, input_shape: Any) -> Any:
        shape = input_shape
        for layer in self.layers:
            shape = layer.compute_output_shape(shape)
        return shape

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "layers": [keras.layers.serialize(layer) for layer in self.layers],
            "num_iterations": self.num_iterations,
            "concurrent": self.concurrent,
        }

    @classmethod
    def from_config(
        cls, config: dict[str, Any], custom_objects: Any = None
    ) -> "CapsuleStack":
        layers = [
            keras.layers.deserialize(layer, custom_objects=custom_objects)
            for layer in config["layers"]
        ]
        return cls(**{**config, "layers": layers})


def _check_layers(layers):
    """Raises if these are no layers that can be routed together."""
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
        ):
            raise ValueError(
                "Invalid value for argument `layers`. Expected capsule layers "
                "with a routing that takes earlier outputs, such as "
                "InvertedAttentionRouting(). Received: "
                f"layer={layer!r}, routing={routing!r}"
            )


def _single_iteration(routing):
    """The same routing with one iteration, if it has several."""
    if getattr(routing, "num_iterations", 1) == 1:
        return routing
    routing = copy.copy(routing)  # which may serve other layers
    routing.num_iterations = 1
    return routing
