"""Kernels and biases: their options, how they are made and saved."""

from typing import Any
from typing import TypedDict

import keras

from keras_capsules.types import ConstraintLike
from keras_capsules.types import InitializerLike
from keras_capsules.types import RegularizerLike
from keras_capsules.types import Shape
from keras_capsules.types import Tensor
from keras_capsules.utils.validation import check_boolean

_KINDS = {
    "initializer": keras.initializers,
    "regularizer": keras.regularizers,
    "constraint": keras.constraints,
}


class WeightOptions(TypedDict, total=False):
    """Options of a layer's weights, and options of every Keras layer."""

    use_bias: bool | None
    kernel_initializer: InitializerLike
    bias_initializer: InitializerLike
    kernel_regularizer: RegularizerLike
    bias_regularizer: RegularizerLike
    kernel_constraint: ConstraintLike
    bias_constraint: ConstraintLike
    activity_regularizer: RegularizerLike
    trainable: bool
    dtype: Any
    autocast: bool
    name: str | None


class WeightedLayer(keras.layers.Layer):
    """A layer with kernels and biases.

    Args:
        use_bias: Boolean, whether the layer has biases. Defaults to `True`.
        kernel_initializer: Initializer of the kernel. Defaults to `None`, the
            initializer that the layer documents.
        bias_initializer: Initializer of the bias. Defaults to `None`, the
            initializer that the layer documents.
        kernel_regularizer: Optional regularizer of the kernel.
        bias_regularizer: Optional regularizer of the bias.
        kernel_constraint: Optional constraint of the kernel.
        bias_constraint: Optional constraint of the bias.
        **kwargs: Arguments of `keras.layers.Layer`, such as `name`, `dtype`.
    """

    # The bias initializer that stands for `None`.
    default_bias_initializer: InitializerLike = "zeros"

    def __init__(
        self,
        *,
        use_bias: bool | None = True,
        kernel_initializer: InitializerLike = None,
        bias_initializer: InitializerLike = None,
        kernel_regularizer: RegularizerLike = None,
        bias_regularizer: RegularizerLike = None,
        kernel_constraint: ConstraintLike = None,
        bias_constraint: ConstraintLike = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.use_bias = check_boolean(use_bias, "use_bias")
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        if bias_initializer is None:
            bias_initializer = self.default_bias_initializer
        self.bias_initializer = keras.initializers.get(bias_initializer)
        self.kernel_regularizer = keras.regularizers.get(kernel_regularizer)
        self.bias_regularizer = keras.regularizers.get(bias_regularizer)
        self.kernel_constraint = keras.constraints.get(kernel_constraint)
        self.bias_constraint = keras.constraints.get(bias_constraint)

    def add_kernel(
        self,
        shape: Shape,
        default_initializer: InitializerLike,
        name: str = "kernel",
        **kwargs: Any,
    ) -> Tensor:
        """Makes a kernel with the options of this layer.

        Args:
            shape: Tuple of integers.
            default_initializer: The initializer if the user chose none.
            name: Name of the weight. Defaults to `"kernel"`.
            **kwargs: Further arguments of `add_weight`.

        Returns:
            A `keras.Variable`.
        """
        return self.add_weight(
            name=name,
            shape=shape,
            initializer=self.kernel_initializer or default_initializer,
            regularizer=self.kernel_regularizer,
            constraint=self.kernel_constraint,
            **kwargs,
        )

    def add_bias(
        self,
        shape: Shape,
        name: str = "bias",
        initializer: InitializerLike = None,
    ) -> Tensor | None:
        """Makes a bias with the options of this layer.

        Args:
            shape: Tuple of integers.
            name: Name of the weight. Defaults to `"bias"`.
            initializer: Defaults to `None`, the `bias_initializer`.

        Returns:
            A `keras.Variable`, or `None` if the layer has no biases.
        """
        if not self.use_bias:
            return None
        return self.add_weight(
            name=name,
            shape=shape,
            initializer=initializer or self.bias_initializer,
            regularizer=self.bias_regularizer,
            constraint=self.bias_constraint,
        )

    def get_config(self) -> dict[str, Any]:
        config = {"use_bias": self.use_bias}
        for kind, module in _KINDS.items():
            for weight in ("kernel", "bias"):
                option = getattr(self, f"{weight}_{kind}")
                config[f"{weight}_{kind}"] = option and module.serialize(option)
        return {**super().get_config(), **config}
