"""Capsule layers, one per file."""

from keras_capsules.layers.capsule_dropout import (
    CapsuleDropout as CapsuleDropout,
)
from keras_capsules.layers.capsule_layer import CapsuleLayer as CapsuleLayer
from keras_capsules.layers.capsule_length import CapsuleLength as CapsuleLength
from keras_capsules.layers.capsule_mask import CapsuleMask as CapsuleMask
from keras_capsules.layers.capsule_selection import (
    CapsuleSelection as CapsuleSelection,
)
from keras_capsules.layers.capsule_stack import CapsuleStack as CapsuleStack
from keras_capsules.layers.conv_capsules import ConvCapsules1D as ConvCapsules1D
from keras_capsules.layers.conv_capsules import ConvCapsules2D as ConvCapsules2D
from keras_capsules.layers.conv_capsules import ConvCapsules3D as ConvCapsules3D
from keras_capsules.layers.conv_capsules_transpose import (
    ConvCapsules2DTranspose as ConvCapsules2DTranspose,
)
from keras_capsules.layers.matrix_primary_capsules import (
    MatrixPrimaryCapsules as MatrixPrimaryCapsules,
)
from keras_capsules.layers.pose_normalization import (
    PoseNormalization as PoseNormalization,
)
from keras_capsules.layers.pose_scores import PoseScores as PoseScores
from keras_capsules.layers.primary_capsules import (
    PrimaryCapsules as PrimaryCapsules,
)
from keras_capsules.layers.propagate_nan import PropagateNaN as PropagateNaN
from keras_capsules.layers.shared_kernel_conv_capsules import (
    SharedKernelConvCapsules2D as SharedKernelConvCapsules2D,
)
from keras_capsules.layers.squeeze_excitation import (
    SqueezeExcitation as SqueezeExcitation,
)
