"""Capsule networks as Keras 3 layers: correct, fast, and small in memory."""

from keras_capsules import activations as activations
from keras_capsules import callbacks as callbacks
from keras_capsules import datasets as datasets
from keras_capsules import inspection as inspection
from keras_capsules import layers as layers
from keras_capsules import losses as losses
from keras_capsules import metrics as metrics
from keras_capsules import models as models
from keras_capsules import plots as plots
from keras_capsules import pruning as pruning
from keras_capsules import routing as routing
from keras_capsules.activations import squash as squash
from keras_capsules.export import export_saved_model as export_saved_model
from keras_capsules.layers import CapsuleLayer as CapsuleLayer
from keras_capsules.layers import CapsuleLength as CapsuleLength
from keras_capsules.layers import CapsuleMask as CapsuleMask
from keras_capsules.layers import CapsuleStack as CapsuleStack
from keras_capsules.layers import ConvCapsules1D as ConvCapsules1D
from keras_capsules.layers import ConvCapsules2D as ConvCapsules2D
from keras_capsules.layers import (
    ConvCapsules2DTranspose as ConvCapsules2DTranspose,
)
from keras_capsules.layers import ConvCapsules3D as ConvCapsules3D
from keras_capsules.layers import MatrixPrimaryCapsules as MatrixPrimaryCapsules
from keras_capsules.layers import PrimaryCapsules as PrimaryCapsules
from keras_capsules.layers import (
    SharedKernelConvCapsules2D as SharedKernelConvCapsules2D,
)
from keras_capsules.layers import SqueezeExcitation as SqueezeExcitation
from keras_capsules.losses import MarginLoss as MarginLoss
from keras_capsules.losses import SpreadLoss as SpreadLoss
from keras_capsules.losses import margin_loss as margin_loss
from keras_capsules.losses import spread_loss as spread_loss
from keras_capsules.metrics import ExactMatchAccuracy as ExactMatchAccuracy
from keras_capsules.version import __version__ as __version__
