"""Models, losses, routings and activations, with every option of each."""

import keras

import keras_capsules
from keras_capsules.activations import exponential_squash
from keras_capsules.activations import squash
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
            "normalization": "batch",
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
