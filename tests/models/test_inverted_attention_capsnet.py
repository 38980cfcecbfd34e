"""The network of inverted attention: its parts, and its options."""

import keras
import numpy as np
import pytest

from keras_capsules import MarginLoss
from keras_capsules.models import InvertedAttentionCapsNet
from tests.helpers.testing import numpy
from tests.helpers.testing import on_one_backend

pytestmark = on_one_backend

SMALL = {
    "image_shape": (7, 8, 2),
    "num_classes": 3,
    "filters": (5,),
    "num_primary_capsules": 2,
    "num_conv_capsules": (2, 2),
    "capsule_dim": 4,
}


def images():
    random = np.random.default_rng(0)
    return random.uniform(size=(4, 7, 8, 2)).astype("float32")


def test_parts_and_scores():
    model = InvertedAttentionCapsNet(**SMALL)
    poses, scores = model.encode(images())
    assert poses.shape == (4, 3, 4)
    # Poses are normalized: only what is learned from them are scores.
    np.testing.assert_allclose(poses.mean(axis=-1), 0, atol=1e-5)
    np.testing.assert_allclose(numpy(model(images())), scores, rtol=1e-5)
    assert ((scores > 0) & (scores < 1)).all()


def test_iterations_are_those_of_the_stack():
    outputs = []
    for options in (
        {"num_iterations": 1},
        {"num_iterations": 3},
        {"num_iterations": 3, "concurrent": False},
    ):
        keras.utils.set_random_seed(0)
        model = InvertedAttentionCapsNet(**SMALL, **options)
        outputs.append(numpy(model(images())))
    assert not np.allclose(outputs[0], outputs[1], atol=1e-6)
    assert not np.allclose(outputs[1], outputs[2], atol=1e-6)


@pytest.mark.slow
def test_decodes_with_a_decoder():
    model = InvertedAttentionCapsNet(**SMALL, decoder_units=(5,))
    model.compile("adam", MarginLoss())
    model.fit(images(), np.array([0, 1, 2, 1]), verbose=0)
    assert model.reconstruct(images()).shape == (4, 7, 8, 2)


def test_default_strides_follow_the_images():
    assert InvertedAttentionCapsNet(**SMALL).conv_strides == (1,)
    large = {**SMALL, "image_shape": (20, 23, 1), "filters": (3, 3)}
    assert InvertedAttentionCapsNet(**large).conv_strides == (1, 2)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"capsule_strides": (3, 3)}, "too small for these layers"),
        ({"conv_strides": (1, 2)}, "argument `conv_strides`"),
        ({"filters": ()}, "at least one convolution"),
        ({"capsule_strides": (2,)}, "argument `capsule_strides`"),
        ({"decoder_units": 5}, "argument `decoder_units`"),
        ({"num_iterations": 0}, "argument `num_iterations`"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_invalid_arguments_raise(options, message):
    with pytest.raises(ValueError, match=message):
        InvertedAttentionCapsNet(**{**SMALL, **options})
