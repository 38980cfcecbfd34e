"""The contract of all public layers, models, losses, routings, activations.

Each is in a table, or in `IGNORED` with a reason.
"""

import dataclasses
import importlib
import inspect
import json
import pkgutil
import types

import keras
import numpy as np
import pytest
from keras import initializers
from keras import ops

import keras_capsules
from keras_capsules.activations import exponential_squash
from keras_capsules.activations import squash
from keras_capsules.layers import CapsuleLayer
from keras_capsules.layers import CapsuleLength
from keras_capsules.layers import CapsuleMask
from keras_capsules.layers import CapsuleStack
from keras_capsules.layers import ConvCapsules1D
from keras_capsules.layers import ConvCapsules2D
from keras_capsules.layers import ConvCapsules2DTranspose
from keras_capsules.layers import ConvCapsules3D
from keras_capsules.layers import MatrixPrimaryCapsules
from keras_capsules.layers import PrimaryCapsules
from keras_capsules.layers import SharedKernelConvCapsules2D
from keras_capsules.layers import SqueezeExcitation
from keras_capsules.losses import MarginLoss
from keras_capsules.losses import SpreadLoss
from keras_capsules.losses import margin_loss
from keras_capsules.losses import spread_loss
from keras_capsules.models import CapsNet
from keras_capsules.models import ConvNet
from keras_capsules.models import DeepCaps
from keras_capsules.models import EfficientCapsNet
from keras_capsules.models import InvertedAttentionCapsNet
from keras_capsules.models import MatrixCapsNet
from keras_capsules.models import SqueezeExcitationNet
from keras_capsules.routing import DynamicRouting
from keras_capsules.routing import EMRouting
from keras_capsules.routing import InvertedAttentionRouting
from keras_capsules.routing import SelfAttentionRouting
from keras_capsules.routing import SelfRouting
from keras_capsules.routing import VariationalBayesRouting
from tests.helpers.testing import BACKEND
from tests.helpers.testing import QUICK
from tests.helpers.testing import arrays
from tests.helpers.testing import check_saving
from tests.helpers.testing import numpy
from tests.helpers.testing import on_one_backend
from tests.helpers.testing import run_layer_test


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
]

MODELS = [
    (
        CapsNet,
        {
            "image_shape": (8, 7, 1),
            "num_classes": 3,
            "filters": 4,
            "num_primary_capsules": 2,
            "primary_dim": 3,
            "capsule_dim": 5,
            "decoder_units": (7,),
            "reconstruction_weight": 0.01,
        },
    ),
    (
        CapsNet,
        {
            "image_shape": (5, 7, 2),
            "num_classes": 3,
            "filters": 4,
            "kernel_size": (3, 2),
            "conv_strides": 2,
            "primary_strides": (1, 1),
            "padding": "same",
            "num_primary_capsules": 2,
            "primary_dim": 3,
            "capsule_dim": 2,
            "routing": DynamicRouting(2),
            "decoder_units": None,
        },
    ),
    (
        EfficientCapsNet,
        {
            "image_shape": (5, 7, 1),
            "num_classes": 3,
            "filters": (2,),
            "num_primary_capsules": 2,
            "primary_dim": 3,
            "capsule_dim": 5,
            "decoder_units": None,
            "decoder_filters": (2,),
            "reconstruction_weight": 0.01,
        },
    ),
    (
        EfficientCapsNet,
        {
            "image_shape": (5, 7, 1),
            "num_classes": 3,
            "filters": (),
            "kernel_sizes": (2,),
            "conv_strides": (1,),
            "padding": "valid",
            "normalization": "instance",
            "activation": "leaky_relu",
            "num_primary_capsules": 2,
            "primary_dim": 3,
            "primary_kernel_size": 3,
            "primary_strides": 2,
            "capsule_dim": 5,
            "routing": "dynamic",
            "decoder_units": (7,),
        },
    ),
    (
        MatrixCapsNet,
        {
            "image_shape": (5, 7, 1),
            "num_classes": 3,
            "filters": 2,
            "num_primary_capsules": 2,
            "num_conv_capsules": (2,),
            "capsule_strides": (2,),
            "capsule_dim": (2, 2),
        },
    ),
    (
        MatrixCapsNet,
        {
            "image_shape": (5, 7, 1),
            "num_classes": 3,
            "filters": 2,
            "kernel_size": (3, 2),
            "conv_strides": 1,
            "padding": "valid",
            "num_primary_capsules": 2,
            "num_conv_capsules": (3,),
            "capsule_strides": (1,),
            "capsule_dim": (3, 2),
            "routing": "self_routing",
            "normalization": None,
            "coordinate_addition": False,
            "decoder_units": (7,),
            "reconstruction_weight": 0.01,
        },
    ),
    (
        DeepCaps,
        {
            "image_shape": (5, 7, 1),
            "num_classes": 3,
            "filters": 2,
            "num_cell_capsules": (2,),
            "cell_dims": (3,),
            "num_iterations": 2,
            "capsule_dim": 5,
            "routing": DynamicRouting(2),
            "decoder_filters": (2,),
            "reconstruction_weight": 0.01,
        },
    ),
    (
        InvertedAttentionCapsNet,
        {
            "image_shape": (5, 7, 1),
            "num_classes": 3,
            "filters": (2,),
            "conv_strides": (2,),
            "num_primary_capsules": 2,
            "capsule_dim": 3,
            "num_conv_capsules": (2,),
            "capsule_strides": (1,),
            "num_iterations": 3,
            "concurrent": False,
            "decoder_units": (7,),
            "reconstruction_weight": 0.01,
        },
    ),
    (
        ConvNet,
        {
            "image_shape": (5, 7, 1),
            "num_classes": 3,
            "filters": (2,),
            "kernel_size": (2, 3),
            "pool_size": (3, 2),
            "units": (7,),
            "dropout": 0.1,
            "activation": "sigmoid",
        },
    ),
    (
        SqueezeExcitationNet,
        {
            "image_shape": (5, 7, 1),
            "num_classes": 3,
            "filters": (2,),
            "blocks": 1,
            "ratio": 1,
            "activation": "sigmoid",
        },
    ),
]

LOSSES = [
    (MarginLoss, {}),
    (
        MarginLoss,
        {
            "positive_margin": 0.8,
            "negative_margin": 0.2,
            "absent_weight": 0.25,
            "reduction_over_classes": "half_mean",
            "reduction": "sum",
            "name": "classes",
            "dtype": "float32",
        },
    ),
    (SpreadLoss, {}),
    (
        SpreadLoss,
        {
            "margin": 0.5,
            "reduction": "sum",
            "name": "classes",
            "dtype": "bfloat16",
        },
    ),
]

LOSS_FUNCTIONS = [margin_loss, spread_loss]

ROUTINGS = [
    *((cls, {}) for cls in keras_capsules.routing.ROUTINGS.values()),
    (
        DynamicRouting,
        {"num_iterations": 2, "leaky": True, "stop_gradient": True},
    ),
    (SelfAttentionRouting, {"use_coupling_bias": False}),
    (
        EMRouting,
        {
            "num_iterations": 2,
            "inverse_temperature": 1.0,
            "inverse_temperature_decay": 0.5,
            "min_variance": 0.01,
            "cost_scale": "normalized",
            "beta_u_initializer": "zeros",
            "beta_a_initializer": "ones",
        },
    ),
    (
        VariationalBayesRouting,
        {
            "num_iterations": 2,
            "covariance": "full",
            "batch_normalization": False,
            "weight_concentration_prior": 0.5,
            "mean_precision_prior": 2.0,
            "covariance_prior": 3.0,
        },
    ),
    (
        SelfRouting,
        {
            "use_routing_bias": False,
            "routing_kernel_initializer": "glorot_uniform",
            "routing_bias_initializer": "ones",
            "routing_kernel_regularizer": keras.regularizers.L2(0.1),
        },
    ),
    (
        InvertedAttentionRouting,
        {
            "num_iterations": 3,
            "scale_agreement": True,
            "epsilon": 0.1,
            "center": False,
            "scale": False,
        },
    ),
]

ACTIVATIONS = [squash, exponential_squash]

ROWS = [(row.layer, row.kwargs) for row in LAYERS]
ROWS += [*MODELS, *LOSSES, *ROUTINGS]

IGNORED = {
    keras_capsules.export_saved_model: "tested in a file of its own",
    keras_capsules.activations.get: "every row of PrimaryCapsules calls it",
    keras_capsules.activations.serialize: "so does its configuration",
    keras_capsules.activations.safe_norm: "drops an axis: for no Dense layer",
    keras_capsules.routing.Routing: "abstract",
    keras_capsules.routing.Routed: "a tuple of results",
    keras_capsules.routing.RoutingSpec: "a tuple of sizes",
    keras_capsules.routing.Windows: "tested in a file of its own",
    keras_capsules.routing.agreement: "every test of dynamic routing calls it",
    keras_capsules.routing.total: "and this one",
    keras_capsules.routing.weighted_sum: "so does it this one",
    keras_capsules.routing.softmax_over_outputs: "and this one",
    keras_capsules.routing.full_coupling: "and this one",
    keras_capsules.routing.get: "every row of CapsuleLayer calls it",
    keras_capsules.routing.serialize: "every test of a routing calls it",
    keras_capsules.routing.deserialize: "every test of a routing calls it",
    keras_capsules.datasets.DatasetInfo: "a tuple of facts",
    keras_capsules.datasets.info: "tested in a file of its own",
    keras_capsules.datasets.load: "tested in a file of its own",
    keras_capsules.datasets.load_arrays: "also tested there",
    keras_capsules.metrics.ExactMatchAccuracy: "tested in a file of its own",
    keras_capsules.callbacks.spread_margin: "tested in a file of its own",
    keras_capsules.callbacks.SpreadMarginSchedule: "also tested there",
    keras_capsules.models.CapsuleNetwork: "takes layers, not options",
    keras_capsules.layers.PoseNormalization: "every MatrixCapsNet has it",
    keras_capsules.layers.PoseScores: "every InvertedAttentionCapsNet has it",
    keras_capsules.layers.PropagateNaN: "every network has it",
}

# The package and every public module in it, those to come as well; of what a
# subpackage holds, what its `__init__.py` names is public.
NAMESPACES = [keras_capsules] + [
    importlib.import_module(f"keras_capsules.{module.name}")
    for module in pkgutil.iter_modules(keras_capsules.__path__)
    if not module.name.startswith("_")
]

# Coverage.


def in_a_table():
    return {*(cls for cls, _ in ROWS), *LOSS_FUNCTIONS, *ACTIVATIONS}


def public(namespace):
    """The classes and functions of a package, or made in a module."""
    is_package = hasattr(namespace, "__path__")
    listed = getattr(namespace, "__all__", vars(namespace))
    return {
        f"{namespace.__name__}.{name}": value
        for name, value in vars(namespace).items()
        if name in listed
        and not name.startswith("_")
        and (inspect.isclass(value) or inspect.isfunction(value))
        and (is_package or value.__module__ == namespace.__name__)
    }


def uncovered(namespaces):
    covered = in_a_table() | set(IGNORED)
    return [
        name
        for namespace in namespaces
        for name, value in public(namespace).items()
        if value not in covered
    ]


def test_everything_public_is_in_a_table():
    assert uncovered(NAMESPACES) == []
    assert not in_a_table() & set(IGNORED)
    everything = [x for one in NAMESPACES for x in public(one).values()]
    assert in_a_table() | set(IGNORED) == set(everything)


def test_coverage_notices_what_is_new():
    namespace = types.ModuleType("new")
    namespace.CapsuleLayer = CapsuleLayer
    namespace.NewLayer = type("NewLayer", (), {"__module__": "new"})
    namespace._Helper = type("_Helper", (), {"__module__": "new"})
    assert uncovered([namespace]) == ["new.NewLayer"]
    # All that a package's __init__.py names is public.
    namespace.__path__ = []
    namespace.new_function = lambda: None
    assert uncovered([namespace]) == ["new.NewLayer", "new.new_function"]


def options_of(cls):
    """Arguments of a constructor and their defaults, by name."""
    constructors = [cls]
    if issubclass(cls, keras.layers.Layer) and not issubclass(cls, keras.Model):
        # Layers hand `**kwargs` to the bases that have these options.
        constructors = [
            vars(base)["__init__"]
            for base in reversed(cls.__mro__)
            if base.__module__.startswith("keras_capsules.")
            and "__init__" in vars(base)
        ]
    return {
        name: parameter.default
        for constructor in constructors
        for name, parameter in inspect.signature(constructor).parameters.items()
        # Neither *args nor **kwargs.
        if parameter.kind
        in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
        and name != "self"
    }


@pytest.mark.parametrize("cls", dict.fromkeys(cls for cls, _ in ROWS))
def test_every_option_is_in_a_row(cls):
    options = options_of(cls)
    used = {
        name
        for other, kwargs in ROWS
        for name, value in kwargs.items()
        if other is cls and value != options[name]
    }
    assert used == set(options)


# Layers.


def row_id(row):
    return f"{row.layer.__name__}-{row.label}"


layers = pytest.mark.parametrize("row", LAYERS, ids=row_id)


@pytest.fixture(autouse=True)
def seed():
    keras.utils.set_random_seed(3)


def random(shape):
    rng = np.random.default_rng(5)
    return rng.normal(0, 1, shape).astype("float32")


def capsules(shape):
    """Poses, or poses and activations if `shape` is a pair of shapes."""
    if not is_pair(shape):
        return random(shape)
    poses, activations = shape
    rng = np.random.default_rng(6)
    return random(poses), rng.uniform(size=activations).astype("float32")


def is_pair(shape):
    return isinstance(shape[0], tuple)


def batches_of(number, shape):
    """The same shape, or the same pair of shapes, for another batch."""
    return keras.tree.map_shape_structure(lambda one: (number, *one[1:]), shape)


def inputs_of(shape):
    return keras.tree.map_shape_structure(
        lambda one: keras.Input(one[1:]), shape
    )


def model_of(row):
    inputs = inputs_of(row.shape)
    return keras.Model(inputs, row.make()(inputs))


def as_json(config):
    return json.dumps(config, sort_keys=True)


# A layer that is called by itself has all its operations compiled on JAX, one
# by one: there, one row of each layer. So for float16, as bfloat16 has all.
first_rows = {row.layer: row for row in reversed(LAYERS)}


@pytest.mark.parametrize(
    "row", first_rows.values() if BACKEND == "jax" else LAYERS, ids=row_id
)
def test_keras_layer_test(row):
    run_layer_test(
        row.layer,
        row.arguments(),
        input_shape=row.shape,
        expected_output_shape=row.output_shape,
        expected_output_dtype=keras.tree.map_shape_structure(
            lambda _: "float32", row.output_shape
        ),
        expected_num_trainable_weights=row.num_weights,
        expected_num_non_trainable_weights=row.num_non_trainable,
        expected_num_losses=row.num_losses,
        # JAX compiles every operation again for it, and there is a test below.
        run_mixed_precision_check=BACKEND != "jax",
    )


@layers
def test_layer_config_round_trip(row):
    layer = row.make(name="other", dtype="mixed_bfloat16")
    config = layer.get_config()
    assert set(row.kwargs) <= set(config)
    loaded = row.layer.from_config(json.loads(json.dumps(config)))
    assert loaded.name == "other"
    assert loaded.dtype_policy.name == "mixed_bfloat16"
    assert as_json(loaded.get_config()) == as_json(config)
    # As a layer of a model is.
    loaded = keras.layers.deserialize(keras.layers.serialize(layer))
    assert type(loaded) is row.layer
    assert as_json(loaded.get_config()) == as_json(config)


@layers
def test_layer_is_saved_and_loaded(row, tmp_path):
    check_saving(model_of(row), capsules(row.shape), tmp_path)


@layers
def test_unknown_batch_size(row):
    inputs = inputs_of(row.shape)
    layer = row.make()
    outputs = layer(inputs)
    shapes = keras.tree.map_structure(lambda x: x.shape, outputs)
    assert shapes == batches_of(None, row.output_shape)
    assert layer.compute_output_shape(batches_of(None, row.shape)) == shapes
    model = keras.Model(inputs, outputs)
    batch = capsules(batches_of(3, row.shape))
    predictions = arrays(model.predict(batch, verbose=0))
    assert [one.shape for one in predictions] == [
        (3, *one.shape[1:]) for one in keras.tree.flatten(outputs)
    ]
    second = keras.tree.map_structure(lambda x: x[1:2], batch)
    single = arrays(model.predict(second, verbose=0))
    for one, other in zip(single, predictions, strict=True):
        assert np.isfinite(other).all()
        np.testing.assert_allclose(one, other[1:2], rtol=1e-5, atol=1e-6)


@pytest.mark.filterwarnings("ignore:Gradients do not exist")  # see `unused`
@pytest.mark.parametrize(
    "dtype, row",
    [
        (dtype, row)
        for dtype in ("mixed_bfloat16", "mixed_float16")
        # JAX compiles everything anew for each row.
        for row in (first_rows.values() if BACKEND == "jax" else LAYERS)
    ],
    ids=lambda value: value if isinstance(value, str) else row_id(value),
)
def test_training_in_16_bits(dtype, row):
    inputs = inputs_of(row.shape)
    below = []  # its weights get gradients through the layer

    def dense(x, activation="linear"):
        below.append(keras.layers.Dense(x.shape[-1], activation, dtype=dtype))
        return below[-1](x)

    if is_pair(row.shape):
        handed_up = dense(inputs[0]), dense(inputs[1], "sigmoid")
    else:
        handed_up = dense(inputs)
    layer = row.make(dtype=dtype)
    model = keras.Model(inputs, layer(handed_up))
    model.compile("sgd", "mse", **QUICK)
    before = [numpy(one.kernel) for one in below]
    batch = capsules(row.shape)
    losses = model.train_on_batch(batch, capsules(row.output_shape))
    assert np.isfinite(losses).all()
    assert all(np.isfinite(numpy(weight)).all() for weight in model.weights)
    for index, (one, old) in enumerate(zip(below, before, strict=True)):
        is_unchanged = np.array_equal(numpy(one.kernel), old)
        assert is_unchanged == (index == row.unused), index
    assert all(weight.dtype == "float32" for weight in model.weights)
    # The announced dtype, and the dtype of the result.
    compute_dtype = dtype.removeprefix("mixed_")
    assert {one.dtype for one in model.outputs} == {compute_dtype}
    outputs = keras.tree.flatten(model.predict_on_batch(batch))
    for one in outputs:
        assert keras.backend.standardize_dtype(one.dtype) == compute_dtype
        assert np.isfinite(numpy(one)).all()


# Models.

models = pytest.mark.parametrize("model_class, kwargs", MODELS)


def images_for(model):
    rng = np.random.default_rng(7)
    return rng.uniform(size=(4, *model.image_shape)).astype("float32")


@models
def test_model_config_round_trip(model_class, kwargs):
    model = model_class(**kwargs, name="other", dtype="mixed_bfloat16")
    config = model.get_config()
    assert set(kwargs) <= set(config)
    loaded = model_class.from_config(json.loads(json.dumps(config)))
    assert loaded.name == "other"
    assert loaded.dtype_policy.name == "mixed_bfloat16"
    assert as_json(loaded.get_config()) == as_json(config)
    assert [(weight.name, weight.shape) for weight in loaded.weights] == [
        (weight.name, weight.shape) for weight in model.weights
    ]


@models
def test_model_fits_and_is_saved(model_class, kwargs, tmp_path):
    model = model_class(**kwargs)
    images = images_for(model)
    labels = np.array([0, 2, 1, 1])
    # In a graph they are trained in test_robustness.py.
    model.compile("adam", loss=MarginLoss(), metrics=["accuracy"], **QUICK)
    before = [numpy(weight) for weight in model.trainable_weights]
    history = model.fit(images, labels, batch_size=4, verbose=0).history
    assert np.isfinite(history["loss"]).all()
    for old, weight in zip(before, model.trainable_weights, strict=True):
        assert np.isfinite(numpy(weight)).all()
        assert not np.array_equal(numpy(weight), old), weight.path
    loaded = check_saving(model, images, tmp_path)
    assert loaded.loss.get_config() == model.loss.get_config()


@on_one_backend
@models
@pytest.mark.parametrize("dtype", ["mixed_bfloat16", "mixed_float16"])
def test_model_trains_in_16_bits(model_class, kwargs, dtype):
    model = model_class(**kwargs, dtype=dtype)
    images = images_for(model)
    model.compile("sgd", MarginLoss(), **QUICK)
    losses = model.train_on_batch(images, np.array([0, 2, 1, 1]))
    assert np.isfinite(losses).all()
    assert all(np.isfinite(numpy(weight)).all() for weight in model.weights)
    scores = model.predict_on_batch(images)
    assert scores.shape == (4, 3) and np.isfinite(scores).all()
    # A batch of one.
    single = model.predict_on_batch(images[1:2])
    np.testing.assert_allclose(single, scores[1:2], rtol=0.02, atol=0.01)


# Losses.


def lengths_model():
    model = keras.Sequential([keras.Input((5,)), keras.layers.Dense(3)])
    labels = np.array([0, 2, 1, 1])
    return model, random((4, 5)), labels


def check_loss(loss, folder):
    model, inputs, labels = lengths_model()
    model.compile("sgd", loss)
    before = numpy(model.layers[0].kernel)
    expected = numpy(model.compute_loss(None, labels, model(inputs)))
    history = model.fit(inputs, labels, verbose=0).history
    assert history["loss"][0] == pytest.approx(expected, rel=1e-5)
    assert not np.array_equal(numpy(model.layers[0].kernel), before)
    loaded = check_saving(model, inputs, folder)
    again = loaded.evaluate(inputs, labels, verbose=0)
    assert again == pytest.approx(model.evaluate(inputs, labels, verbose=0))
    return loaded.loss


@pytest.mark.parametrize("loss_class, kwargs", LOSSES)
def test_loss(loss_class, kwargs, tmp_path):
    loss = loss_class(**kwargs)
    config = loss.get_config()
    assert {name: config[name] for name in kwargs} == kwargs
    copy = loss_class.from_config(json.loads(json.dumps(config)))
    assert copy.get_config() == config
    loaded = check_loss(loss, tmp_path)
    assert type(loaded) is loss_class
    assert loaded.get_config() == config


@pytest.mark.parametrize("function", LOSS_FUNCTIONS)
def test_loss_function(function, tmp_path):
    assert check_loss(function, tmp_path) is function


# Routings.


def serialized_option(name, value):
    """The configuration of an option of this value."""
    for module in (initializers, keras.regularizers):
        kind = module.__name__.split(".")[-1].removesuffix("s")
        if name.endswith(f"_{kind}"):
            return module.serialize(module.get(value))
    return value


@pytest.mark.parametrize("routing_class, kwargs", ROUTINGS)
def test_routing(routing_class, kwargs, tmp_path):
    routings = keras_capsules.routing
    routing = routing_class(**kwargs)
    config = routing.get_config()
    assert {name: config[name] for name in kwargs} == {
        name: serialized_option(name, value) for name, value in kwargs.items()
    }
    serialized = json.loads(json.dumps(routings.serialize(routing)))
    for copy in [routings.deserialize(serialized), routings.get(serialized)]:
        assert type(copy) is routing_class
        assert copy.get_config() == config
    assert routings.get(routing) is routing

    model = keras.Sequential(
        [keras.Input((7, 2)), CapsuleLayer(3, 5, routing=routing)]
    )
    loaded = check_saving(model, random((2, 7, 2)), tmp_path)
    assert type(loaded.layers[0].routing) is routing_class
    assert loaded.layers[0].routing.get_config() == config


def test_every_routing_has_a_name():
    # The message of an unknown one lists them all.
    with pytest.raises(ValueError, match="one of ") as error:
        keras_capsules.routing.get("unknown")
    names = str(error.value).split("one of ")[1].split(". Received")[0]
    named = {
        type(keras_capsules.routing.get(name.strip("'")))
        for name in names.split(", ")
    }
    assert named == {cls for cls, _ in ROUTINGS}


# Activations.


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activation(activation, tmp_path):
    dense = keras.layers.Dense(3, activation=activation)
    model = keras.Sequential([keras.Input((5,)), dense])
    inputs = random((4, 5))
    linear = ops.matmul(inputs, dense.kernel)
    np.testing.assert_allclose(
        numpy(model(inputs)), numpy(activation(linear)), rtol=1e-5
    )
    loaded = check_saving(model, inputs, tmp_path)
    assert loaded.layers[0].activation is activation
