"""What a network has learned, as arrays."""

from keras_capsules.inspection.couplings import LayerCouplings as LayerCouplings
from keras_capsules.inspection.couplings import couplings as couplings
from keras_capsules.inspection.equivariance import Equivariance as Equivariance
from keras_capsules.inspection.equivariance import equivariance as equivariance
from keras_capsules.inspection.health import Health as Health
from keras_capsules.inspection.health import LayerHealth as LayerHealth
from keras_capsules.inspection.health import capsule_health as capsule_health
from keras_capsules.inspection.parsing import Part as Part
from keras_capsules.inspection.parsing import parse_tree as parse_tree
from keras_capsules.inspection.parsing import support_map as support_map
from keras_capsules.inspection.poses import interpolate as interpolate
from keras_capsules.inspection.poses import perturb as perturb
from keras_capsules.inspection.problems import Problem as Problem
