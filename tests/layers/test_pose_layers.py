"""Layers for poses or features, without options: errors, configurations."""

import keras
import pytest

from keras_capsules.layers import CapsuleMask
from keras_capsules.layers import PoseNormalization
from keras_capsules.layers import PoseScores
from keras_capsules.layers import PropagateNaN
from keras_capsules.layers.plain import PlainLayer
from tests.helpers.capsules import random
from tests.helpers.testing import on_one_backend

pytestmark = on_one_backend

PLAIN = [CapsuleMask, PoseNormalization, PoseScores, PropagateNaN]


@pytest.mark.parametrize("layer", PLAIN)
def test_a_dtype_policy_is_part_of_the_configuration(layer):
    made = layer(name="layer", dtype=keras.DTypePolicy("mixed_bfloat16"))
    assert isinstance(made, PlainLayer)
    config = made.get_config()
    copy = layer.from_config(config)
    assert copy.name == "layer"
    assert copy.dtype_policy.name == "mixed_bfloat16"
    assert copy.get_config() == config


def data_of(shape):
    if isinstance(shape[0], tuple):
        return tuple(map(data_of, shape))
    return random(*shape).astype("float32")


def symbolic(shape):
    if isinstance(shape[0], tuple):
        return tuple(map(symbolic, shape))
    return keras.Input(shape[1:])


@pytest.mark.parametrize(
    "shape",
    [
        ((2, 3, 4, 5, 7), (2, 3, 4, 5)),  # vectors
        ((2, 5, 7), (2, 5)),
        ((2, 5, 7, 3), (2, 4)),
        ((2, 7, 3), (2,)),
        ((2, 5, 7, 3), (2, 5), (2, 5)),
        (2, 5, 7, 3),
    ],
    ids=str,
)
def test_only_pairs_of_matrices_are_normalized(shape):
    message = (
        r"PoseNormalization takes a pair of poses \(batch, \.\.\., types, "
        r"rows, dim\).* Received: input_shape=\("
    )
    with pytest.raises(ValueError, match=message):
        PoseNormalization()(data_of(shape))
    with pytest.raises(ValueError, match=message):
        PoseNormalization()(symbolic(shape))
    with pytest.raises(ValueError, match=message):
        PoseNormalization().compute_output_shape(shape)
    layer = PoseNormalization()
    layer((random(2, 5, 7, 3), random(2, 5)))
    with pytest.raises(ValueError, match=message):
        layer(data_of(shape))


def test_normalization_needs_a_known_number_of_types():
    with pytest.raises(ValueError, match="with a known number of types"):
        PoseNormalization().build(((None, None, 7, 3), (None, None)))


@pytest.mark.parametrize(
    "shape",
    [((2, 5, 7), (2, 5)), (2, 5), (2, 3, 4, 5, 7)],
    ids=str,
)
def test_scores_are_of_poses_alone(shape):
    message = "PoseScores takes poses alone.* Received: input_shape="
    with pytest.raises(ValueError, match=message):
        PoseScores()(data_of(shape))
    with pytest.raises(ValueError, match=message):
        PoseScores()(symbolic(shape))


@pytest.mark.parametrize("shape", [(None, None, 7), (None, 5, None)])
def test_scores_need_known_sizes(shape):
    with pytest.raises(ValueError, match="with known sizes. Received: input_s"):
        PoseScores().build(shape)
