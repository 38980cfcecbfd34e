"""Encoding, decoding and reconstruction."""

import numpy as np
from keras import ops

from tests.helpers.capsnet import IMAGES
from tests.helpers.capsnet import LABELS
from tests.helpers.capsnet import small
from tests.helpers.testing import numpy
from tests.helpers.testing import on_one_backend

pytestmark = on_one_backend


def test_scores_are_lengths_of_capsules():
    model = small()
    capsules = model.encode(IMAGES)
    assert capsules.shape == (7, 3, 5)
    lengths = np.sqrt(np.sum(capsules**2, axis=-1))
    scores = model.predict(IMAGES, verbose=0)
    np.testing.assert_allclose(scores, lengths, atol=1e-5)
    assert (scores > 0).all() and (scores < 1).all()
    assert scores.std() > 1e-3


def test_arrays_in_batches_and_tensors_at_once_agree():
    model = small()
    capsules = model.encode(IMAGES)
    decoded = model.reconstruct(IMAGES, LABELS)
    for array in (capsules, decoded, model.decode(capsules)):
        assert isinstance(array, np.ndarray)
        assert array.dtype == "float32"

    def assert_same(actual, expected):
        np.testing.assert_allclose(actual, expected, atol=1e-6)

    assert_same(model.encode(IMAGES, batch_size=3), capsules)
    assert_same(model.decode(capsules, LABELS, batch_size=3), decoded)
    assert_same(model.reconstruct(IMAGES, LABELS, batch_size=3), decoded)

    images, labels = map(ops.convert_to_tensor, (IMAGES, LABELS))
    tensors = (
        model.encode(images),
        model.decode(model.encode(images), labels),
        model.reconstruct(images, labels),
        model.reconstruct(images),
    )
    assert all(ops.is_tensor(tensor) for tensor in tensors)
    assert_same(numpy(tensors[0]), capsules)
    assert_same(numpy(tensors[1]), decoded)
    assert_same(numpy(tensors[2]), decoded)
    assert_same(numpy(tensors[3]), model.reconstruct(IMAGES))


def test_lists_are_arrays():
    model = small(decoder_units=(32,))
    capsules = model.encode(IMAGES)
    decoded = model.decode(capsules, LABELS)
    np.testing.assert_allclose(
        model.encode(IMAGES.tolist()), capsules, atol=1e-6
    )
    np.testing.assert_array_equal(
        model.decode(capsules, LABELS.tolist()), decoded
    )
    np.testing.assert_allclose(
        model.decode(capsules.tolist(), LABELS), decoded, atol=1e-6
    )


def test_decodes_the_labelled_or_the_longest_capsule():
    model = small(decoder_units=(32,))
    capsules = np.random.default_rng(2).normal(size=(4, 3, 5))
    capsules = capsules.astype("float32") * 0.1
    for n, longest in enumerate([2, 0, 1, 1]):
        capsules[n, longest] *= 5
    decoded = model.decode(capsules)
    assert decoded.shape == (4, 8, 8, 1)
    assert (decoded > 0).all() and (decoded < 1).all()
    longest = np.array([2, 0, 1, 1])
    others = np.array([0, 2, 0, 2])
    one_hot = np.eye(3)[others]
    np.testing.assert_array_equal(model.decode(capsules, longest), decoded)
    elsewhere = model.decode(capsules, others)
    assert np.abs(elsewhere - decoded).max(axis=(1, 2, 3)).min() > 1e-3
    for labels in (others[:, None], one_hot, one_hot.astype(bool)):
        np.testing.assert_array_equal(model.decode(capsules, labels), elsewhere)
    # The capsules of other classes have no say in it.
    alone = capsules * one_hot[:, :, None].astype("float32")
    np.testing.assert_allclose(model.decode(alone), elsewhere, atol=1e-6)
    # Several classes: one image of both, unlike each one's own.
    both = model.decode(capsules, np.eye(3)[longest] + one_hot)
    for single in (decoded, elsewhere):
        assert np.abs(both - single).max(axis=(1, 2, 3)).min() > 1e-3


def test_nothing_of_no_images():
    model = small()
    capsules = model.encode(IMAGES[:0])
    assert capsules.shape == (0, 3, 5) and capsules.dtype == "float32"
    for labels in (None, LABELS[:0]):
        assert model.decode(capsules, labels).shape == (0, 8, 8, 1)
    assert model.reconstruct(IMAGES[:0]).shape == (0, 8, 8, 1)
