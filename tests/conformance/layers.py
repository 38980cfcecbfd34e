"""The layers of the tables, with every option of each."""

import dataclasses

import keras
from keras import initializers

import keras_capsules
from keras_capsules.layers import CapsuleDropout
from keras_capsules.layers import CapsuleLayer
from keras_capsules.layers import CapsuleLength
from keras_capsules.layers import CapsuleMask
from keras_capsules.layers import CapsuleSelection
from keras_capsules.layers import CapsuleStack
from keras_capsules.layers import ConvCapsules1D
from keras_capsules.layers import ConvCapsules2D
from keras_capsules.layers import ConvCapsules2DTranspose
from keras_capsules.layers import ConvCapsules3D
from keras_capsules.layers import MatrixPrimaryCapsules
from keras_capsules.layers import PoseNormalization
from keras_capsules.layers import PrimaryCapsules
from keras_capsules.layers import SharedKernelConvCapsules2D
from keras_capsules.layers import SqueezeExcitation
from keras_capsules.routing import DynamicRouting
from keras_capsules.routing import InvertedAttentionRouting
from keras_capsules.routing import SelfRouting


@dataclasses.dataclass(frozen=True)
class Row:
    """A layer with options, and the shape of its output.

    Attributes:
        label: The special property of the row.
        layer: Class of the layer.
        kwargs: Arguments of the constructor.
        shape: Shape of the input, with the batch; or a pair of them, of poses
            and activations.
        output_shape: Shape of the output, or a pair of them.
        num_weights: Number of trainable weights; `None` if it was not counted.
        num_non_trainable: Number of other weights, or `None`.
        num_losses: Number of regularization losses.
        num_seeds: Number of seed generators.
        unused: Which one of a pair the layer takes but does not look at.
    """

    label: str
    layer: type
    kwargs: dict
    shape: tuple
    output_shape: tuple
    num_weights: int | None = 0
    num_non_trainable: int | None = 0
    num_losses: int = 0
    num_seeds: int = 0
    unused: int | None = None

    def arguments(self):
        """`kwargs`, with layers in them that no other test has built."""

        def copied(value):
            if not isinstance(value, keras.layers.Layer):
                return value
            return keras.layers.deserialize(keras.layers.serialize(value))

        return keras.tree.map_structure(copied, self.kwargs)

    def make(self, **kwargs):
        return self.layer(**self.arguments(), **kwargs)


# Of layers whose routing adds no bias.
WEIGHT_OPTIONS = {
    "use_bias": False,
    "kernel_initializer": "random_normal",
    "bias_initializer": "ones",
    "kernel_regularizer": "l2",
    "bias_regularizer": "l1",
    "kernel_constraint": keras.constraints.MaxNorm(2.0, axis=-1),
    "bias_constraint": "non_neg",
}

# Layers that every registered routing is tested in.
ROUTED = [
    (
        CapsuleLayer,
        {"num_capsules": 3, "capsule_dim": 5},
        (2, 7, 2),
        (2, 3, 5),
    ),
    (
        ConvCapsules2D,
        {"num_capsules": 3, "capsule_dim": 2, "kernel_size": 2},
        (2, 3, 2, 1, 5),
        (2, 2, 1, 3, 2),
    ),
]
# How many weights they have then, trainable or not, where it was counted.
NUM_WEIGHTS = {
    "dynamic": (2, 0),
    "em": (3, 0),
    "inverted_attention": (3, 0),
    "self_attention": (3, 0),
    "self_routing": (3, 0),
    "variational_bayes": (3, 4),
}

LAYERS = [
    Row(
        "defaults",
        PrimaryCapsules,
        {"num_capsules": 3, "capsule_dim": 2, "kernel_size": 3},
        (2, 5, 7, 1),
        (2, 3, 5, 3, 2),
        num_weights=2,
    ),
    Row(
        "strides-same",
        PrimaryCapsules,
        {
            "num_capsules": 1,
            "capsule_dim": 5,
            "kernel_size": (3, 2),
            "strides": (2, 3),
            "padding": "same",
            "activation": None,
        },
        (2, 5, 7, 2),
        (2, 3, 3, 1, 5),
        num_weights=2,
    ),
    Row(
        "depthwise",
        PrimaryCapsules,
        {
            "num_capsules": 3,
            "capsule_dim": 2,
            "kernel_size": (5, 7),
            "depthwise": True,
            "activation": "exponential_squash",
            "use_bias": False,
            "bias_initializer": "ones",
        },
        (2, 5, 7, 6),
        (2, 1, 1, 3, 2),
        num_weights=1,
    ),
    Row(
        "scale-initializers-regularizers-constraints",
        PrimaryCapsules,
        {
            "num_capsules": 2,
            "capsule_dim": 1,
            "kernel_size": 2,
            "pre_squash_scale": 0.25,
            "kernel_initializer": initializers.TruncatedNormal(stddev=0.3),
            "bias_initializer": initializers.Constant(0.1),
            "kernel_regularizer": "l2",
            "bias_regularizer": keras.regularizers.L1(0.1),
            "kernel_constraint": keras.constraints.MaxNorm(2.0, axis=(0, 1)),
            "bias_constraint": "non_neg",
        },
        (2, 2, 3, 1),
        (2, 1, 2, 2, 1),
        num_weights=2,
        num_losses=2,
    ),
    Row(
        "defaults",
        CapsuleLayer,
        {"num_capsules": 3, "capsule_dim": 5},
        (2, 7, 2),
        (2, 3, 5),
        num_weights=2,
    ),
    Row(
        "one-number",
        CapsuleLayer,
        {"num_capsules": 1, "capsule_dim": 1},
        (2, 1, 1),
        (2, 1, 1),
        num_weights=2,
    ),
    Row(
        "grid",
        CapsuleLayer,
        {
            "num_capsules": 3,
            "capsule_dim": 2,
            "routing": DynamicRouting(2, leaky=True, stop_gradient=True),
            "use_bias": False,
        },
        (2, 3, 2, 1, 5),
        (2, 3, 2),
        num_weights=1,
    ),
    Row(
        "initializers-regularizers-constraints",
        CapsuleLayer,
        {
            "num_capsules": 2,
            "capsule_dim": 3,
            "routing": DynamicRouting(1),
            "kernel_initializer": "orthogonal",
            "bias_initializer": "zeros",
            "kernel_regularizer": keras.regularizers.L2(0.1),
            "bias_regularizer": "l1",
            "kernel_constraint": "non_neg",
            "bias_constraint": keras.constraints.UnitNorm(axis=1),
        },
        (2, 2, 3, 5),
        (2, 2, 3),
        num_weights=2,
        num_losses=2,
    ),
    # So many outputs that the graph loops over them.
    Row(
        "many-outputs",
        CapsuleLayer,
        {"num_capsules": 37, "capsule_dim": 2, "routing": DynamicRouting(2)},
        (2, 3, 2),
        (2, 37, 2),
        num_weights=2,
    ),
    Row(
        "self-routing-shared-matrices",
        CapsuleLayer,
        {
            "num_capsules": 3,
            "capsule_dim": (2, 5),
            "routing": SelfRouting(routing_kernel_regularizer="l2"),
            "share_over_positions": True,
            "coordinate_addition": True,
        },
        ((2, 3, 5, 2, 2, 3), (2, 3, 5, 2)),
        ((2, 3, 2, 5), (2, 3)),
        num_weights=3,
        num_losses=1,
    ),
    Row(
        "dynamic-same",
        ConvCapsules2D,
        {
            "num_capsules": 2,
            "capsule_dim": 3,
            "kernel_size": 2,
            "strides": 2,
            "padding": "same",
            "use_bias": True,
            "bias_initializer": "zeros",
            "bias_regularizer": "l1",
            "bias_constraint": "non_neg",
        },
        (2, 3, 5, 1, 2),
        (2, 2, 3, 2, 3),
        num_weights=2,
        num_losses=1,
    ),
    Row(
        "em-matrices",
        ConvCapsules2D,
        {
            "num_capsules": 2,
            "capsule_dim": (2, 2),
            "kernel_size": (2, 3),
            "strides": (1, 2),
            "routing": "em",
            "coordinate_addition": True,
            "kernel_initializer": "random_normal",
            "kernel_regularizer": "l2",
            "kernel_constraint": keras.constraints.MaxNorm(2.0, axis=-1),
        },
        ((2, 3, 5, 2, 2, 3), (2, 3, 5, 2)),
        ((2, 2, 2, 2, 2, 2), (2, 2, 2, 2)),
        num_weights=3,
        num_losses=1,
    ),
    *(
        Row(
            name,
            layer,
            {**kwargs, "routing": name},
            shape,
            (output, output[:-1])
            if routing.activation_from == "routing"
            else output,
            *NUM_WEIGHTS.get(name, (None, None)),
        )
        for name, routing in keras_capsules.routing.ROUTINGS.items()
        for layer, kwargs, shape, output in ROUTED
    ),
    Row(
        "defaults",
        MatrixPrimaryCapsules,
        {"num_capsules": 2},
        (2, 3, 5, 1),
        ((2, 3, 5, 2, 4, 4), (2, 3, 5, 2)),
        num_weights=4,
    ),
    Row(
        "vectors",
        MatrixPrimaryCapsules,
        {
            "num_capsules": 2,
            "capsule_dim": 3,
            "kernel_size": (3, 2),
            "strides": (1, 2),
            "padding": "same",
            "kernel_initializer": initializers.TruncatedNormal(stddev=0.3),
            "bias_initializer": "ones",
            "activation_bias_initializer": initializers.Constant(-1.0),
            "kernel_regularizer": keras.regularizers.L2(0.1),
            "bias_regularizer": "l1",
            "kernel_constraint": keras.constraints.MaxNorm(2.0, axis=(0, 1)),
            "bias_constraint": "non_neg",
        },
        (2, 3, 5, 1),
        ((2, 3, 3, 2, 3), (2, 3, 3, 2)),
        num_weights=4,
        num_losses=4,
    ),
    Row(
        "signal-activation-no-bias",
        MatrixPrimaryCapsules,
        {
            "num_capsules": 2,
            "capsule_dim": 5,
            "activation": "squash",
            "use_bias": False,
        },
        (2, 7, 1),
        ((2, 7, 2, 5), (2, 7, 2)),
        num_weights=2,
    ),
    Row(
        "signal",
        PrimaryCapsules,
        {"num_capsules": 3, "capsule_dim": 2, "kernel_size": 3, "strides": 2},
        (2, 7, 1),
        (2, 3, 3, 2),
        num_weights=2,
    ),
    Row(
        "volume",
        PrimaryCapsules,
        {"num_capsules": 3, "capsule_dim": 2, "kernel_size": 2},
        (2, 3, 2, 5, 1),
        (2, 2, 1, 4, 3, 2),
        num_weights=2,
    ),
    Row(
        "signal",
        ConvCapsules1D,
        {
            "num_capsules": 3,
            "capsule_dim": 5,
            "kernel_size": 3,
            "strides": 2,
            "padding": "same",
            "routing": "em",
            "coordinate_addition": True,
            **WEIGHT_OPTIONS,
        },
        (2, 7, 1, 2),
        ((2, 4, 3, 5), (2, 4, 3)),
        num_weights=3,
        num_losses=1,
    ),
    Row(
        "volume",
        ConvCapsules3D,
        {
            "num_capsules": 2,
            "capsule_dim": 3,
            "kernel_size": (2, 1, 3),
            "strides": (1, 2, 1),
            "padding": "same",
            "routing": "variational_bayes",
            "coordinate_addition": True,
            **WEIGHT_OPTIONS,
        },
        (2, 2, 3, 2, 1, 5),
        ((2, 2, 2, 2, 2, 3), (2, 2, 2, 2, 2)),
        num_weights=3,
        num_non_trainable=4,
        num_losses=1,
    ),
    Row(
        "segcaps",
        ConvCapsules2DTranspose,
        {
            "num_capsules": 3,
            "capsule_dim": 5,
            "kernel_size": 4,
            "strides": 2,
            "padding": "same",
        },
        (2, 3, 1, 7, 2),
        (2, 6, 2, 3, 5),
        num_weights=2,
    ),
    Row(
        "em-matrices",
        ConvCapsules2DTranspose,
        {
            "num_capsules": 3,
            "capsule_dim": (2, 5),
            "kernel_size": (2, 3),
            "routing": "em",
            "share_over_types": False,
            **WEIGHT_OPTIONS,
        },
        ((2, 2, 3, 1, 2, 7), (2, 2, 3, 1)),
        ((2, 3, 5, 3, 2, 5), (2, 3, 5, 3)),
        num_weights=3,
        num_losses=1,
    ),
    Row(
        "vectors",
        CapsuleDropout,
        {"rate": 0.25, "seed": 3},
        (2, 7, 5, 3),
        (2, 7, 5, 3),
        num_seeds=1,
    ),
    Row(
        "pair",
        CapsuleDropout,
        {"rate": 0.25, "seed": None},
        ((2, 7, 2, 5), (2, 7)),
        ((2, 7, 2, 5), (2, 7)),
        num_seeds=1,
    ),
    Row(
        "grid",
        CapsuleSelection,
        {"indices": [0, 7, 3]},
        (2, 3, 5, 2),
        (2, 3, 2),
    ),
    Row(
        "pair",
        CapsuleSelection,
        {"indices": [4]},
        ((2, 7, 2, 5), (2, 7)),
        ((2, 1, 2, 5), (2, 1)),
    ),
    Row("matrix", CapsuleLength, {}, (2, 3), (2,)),
    Row("capsules", CapsuleLength, {}, (2, 3, 5), (2, 3)),
    Row("grid", CapsuleLength, {}, (2, 3, 1, 5, 2), (2, 3, 1, 5)),
    Row("matrices", CapsuleLength, {"axis": (-2, -1)}, (2, 3, 5, 2), (2, 3)),
    Row("pair", CapsuleLength, {}, ((2, 3, 5), (2, 3)), (2, 3), unused=0),
    Row("longest", CapsuleMask, {}, (2, 3, 5), (2, 3, 5)),
    Row("one-number", CapsuleMask, {}, (2, 1, 1), (2, 1, 1)),
    Row(
        "most-active",
        CapsuleMask,
        {},
        ((2, 3, 2, 5), (2, 3)),
        (2, 3, 2, 5),
        unused=1,  # by the gradient
    ),
    Row(
        "concurrent",
        CapsuleStack,
        {
            "layers": [
                CapsuleLayer(3, 5, routing=InvertedAttentionRouting(1)),
                CapsuleLayer(
                    2,
                    3,
                    routing=InvertedAttentionRouting(1, scale_agreement=True),
                ),
            ]
        },
        (2, 7, 2),
        (2, 2, 3),
        num_weights=6,
    ),
    Row(
        "sequential",
        CapsuleStack,
        {
            "layers": [
                ConvCapsules2D(3, 5, 2, routing=InvertedAttentionRouting(1)),
                CapsuleLayer(2, 3, routing=InvertedAttentionRouting(1)),
            ],
            "num_iterations": 3,
            "concurrent": False,
        },
        (2, 3, 5, 1, 2),
        (2, 2, 3),
        num_weights=6,
    ),
    Row(
        "no-bias",
        SharedKernelConvCapsules2D,
        {"num_capsules": 2, "capsule_dim": 3, "use_bias": False},
        (2, 3, 5, 1, 2),
        (2, 3, 5, 2, 3),
        num_weights=1,
    ),
    Row(
        "valid-strides-initializers-regularizers-constraints",
        SharedKernelConvCapsules2D,
        {
            "num_capsules": 3,
            "capsule_dim": 2,
            "kernel_size": (2, 3),
            "strides": (1, 2),
            "padding": "valid",
            "num_iterations": 2,
            "joint_squash": False,
            "kernel_initializer": "random_normal",
            "bias_initializer": "zeros",
            "kernel_regularizer": "l2",
            "bias_regularizer": "l1",
            "kernel_constraint": keras.constraints.MaxNorm(2.0, axis=(0, 1)),
            "bias_constraint": "non_neg",
        },
        (2, 3, 5, 1, 2),
        (2, 2, 2, 3, 2),
        num_weights=2,
        num_losses=2,
    ),
    Row(
        "features",
        SqueezeExcitation,
        {},
        (2, 3, 5, 2),
        (2, 3, 5, 2),
        num_weights=4,
    ),
    Row(
        "pair",
        SqueezeExcitation,
        {},
        ((2, 3, 5, 2, 3), (2, 3, 5, 2)),
        ((2, 3, 5, 2, 3), (2, 3, 5, 2)),
        num_weights=4,
    ),
    Row(
        "capsules",
        SqueezeExcitation,
        {
            "ratio": 2,
            "activation": "tanh",
            "gate_activation": "hard_sigmoid",
            "kernel_initializer": "ones",
            "bias_initializer": initializers.Constant(0.1),
        },
        (2, 7, 2),
        (2, 7, 2),
        num_weights=4,
    ),
    Row(
        "defaults",
        PoseNormalization,
        {},
        ((2, 3, 5, 7, 2, 4), (2, 3, 5, 7)),
        ((2, 3, 5, 7, 2, 4), (2, 3, 5, 7)),
        num_non_trainable=2,
    ),
]
