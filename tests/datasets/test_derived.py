"""Overlapping objects and other viewpoints, made of other data sets."""

import numpy as np
import pytest

from keras_capsules import datasets
from tests.helpers.testing import NOT_POSITIVE_INTEGERS
from tests.helpers.testing import invalid
from tests.helpers.testing import on_one_backend
from tests.helpers.testing import values

pytestmark = on_one_backend

PAIRS = {"name": "digits", "pad": 2, "shift": 3}
MOVED = {"rotation": 0, "shear": 0, "scale": (1, 1), "versions": 1}


def first(dataset, number):
    return next(dataset.batch(number).as_numpy_iterator())


def arrays(split):
    return datasets.load_arrays("digits", split)


# Pairs of images.


def test_pairs_are_two_images_of_different_classes_on_top_of_each_other():
    images, labels = first(datasets.multi_mnist("test", **PAIRS), 360)
    assert images.shape == (360, 12, 12, 1) and images.dtype == "float32"
    targets, classes = labels["targets"], labels["target_classes"]
    assert targets.shape == (360, 2, 12, 12, 1)
    np.testing.assert_allclose(
        images, np.minimum(targets.sum(axis=1), 1), atol=1e-6
    )
    assert (classes[:, 0] != classes[:, 1]).all()
    np.testing.assert_array_equal(
        labels["scores"], np.eye(10)[classes].sum(axis=1)
    )
    # The bases are all images of the split in order.
    np.testing.assert_array_equal(classes[:, 0], arrays("test")[1])


def test_objects_are_images_of_the_split_shifted():
    """Each is found again by its place and its shift, a pixel of 100."""
    originals, labels = arrays("test")
    _, found = first(datasets.multi_mnist("test", **PAIRS), 40)
    shifts = {(-9, -9)}
    for target, label in zip(
        found["targets"].reshape(-1, 12, 12),
        found["target_classes"].reshape(-1),
        strict=True,
    ):
        frame = np.zeros((18, 18))
        frame[3:15, 3:15] = target
        matches = [
            (row - 3, column - 3)
            for row in range(7)
            for column in range(7)
            for one in originals[labels == label, ..., 0]
            if is_inside(one, target, row - 3, column - 3)
        ]
        assert matches
        shifts.update(matches[:1])
    assert len(shifts) > 15  # of 49
    assert max(abs(n) for pair in shifts - {(-9, -9)} for n in pair) == 3


def is_inside(one, target, row, column):
    """Whether an image, moved within its frame, is the target."""
    padded = np.pad(one, 5)
    moved = padded[3 - row : 15 - row, 3 - column : 15 - column]
    return np.array_equal(moved, target)


def test_no_image_of_another_split_is_drawn():
    """The sets of images of two splits are disjoint, so are those of pairs."""
    options = {**PAIRS, "pad": 3, "shift": 0}
    train, test = (
        {one.tobytes() for one in arrays(split)[0]}
        for split in ("train", "test")
    )
    assert not train & test
    _, found = first(datasets.multi_mnist("test", **options), 360)
    for target in found["targets"].reshape(-1, 14, 14):
        assert target[3:11, 3:11].tobytes() in test


def test_pairs_repeat_with_the_seed_and_differ_from_pair_to_pair():
    options = {**PAIRS, "pairs_per_image": 3}
    dataset = datasets.multi_mnist("test", **options)
    assert len(dataset) == 3 * 360
    images, labels = first(dataset, 1080)
    again, _ = first(datasets.multi_mnist("test", **options), 1080)
    np.testing.assert_array_equal(images, again)
    other, _ = first(datasets.multi_mnist("test", **options, seed=1), 1080)
    assert not np.array_equal(images, other)
    targets = labels["targets"].reshape(3, 360, 2, 12, 12)
    # A base has the same shift in all of its pairs.
    np.testing.assert_array_equal(targets[0, :, 0], targets[2, :, 0])
    assert not np.array_equal(targets[0, :, 1], targets[2, :, 1])


def test_the_other_image_is_any_of_those_with_another_label():
    options = {**PAIRS, "pairs_per_image": 20}
    _, labels = first(datasets.multi_mnist("test", **options), 7200)
    classes = labels["target_classes"]
    counts = np.zeros((10, 10))
    np.add.at(counts, (classes[:, 0], classes[:, 1]), 1)
    # 720 pairs of each base class, 80 with each other class.
    off = counts[~np.eye(10, dtype=bool)]
    assert counts.trace() == 0
    assert off.min() > 40 and off.max() < 120


def test_labels_alone():
    dataset = datasets.multi_mnist("test", **PAIRS, targets=False)
    _, labels = first(dataset, 5)
    assert labels.shape == (5, 10)
    assert (labels.sum(axis=1) == 2).all()


def test_colours():
    """Channels stay apart, here of images that stand for photographs."""
    from keras_capsules.datasets import overlapping

    with pytest.MonkeyPatch.context() as patch:
        numbers = np.random.default_rng(0)
        images = numbers.uniform(size=(6, 5, 7, 3)).astype("float32")
        labels = np.array([0, 1, 2, 0, 1, 2], "int32")
        patch.setattr(
            overlapping, "load_arrays", lambda *_, **__: (images, labels)
        )
        merged, found = first(
            datasets.multi_mnist(name="cifar10", pad=1, shift=0), 6
        )
    assert merged.shape == (6, 7, 9, 3)
    np.testing.assert_allclose(found["targets"][:, 0, 1:-1, 1:-1], images)


@values(NOT_POSITIVE_INTEGERS)
def test_invalid_number_of_pairs(value):
    with pytest.raises(ValueError, match=invalid("pairs_per_image", "a pos")):
        datasets.multi_mnist("test", name="digits", pairs_per_image=value)


def test_invalid_arguments():
    for name, value in [
        ("pad", -1),
        ("shift", 0.5),
        ("seed", "x"),
        ("seed", 2**32 + 1),
    ]:
        with pytest.raises(ValueError, match=rf"`{name}`.*Received: {name}="):
            datasets.multi_mnist("test", name="digits", **{name: value})
    assert datasets.multi_mnist("test", name="digits", seed=2**32)
    with pytest.raises(ValueError, match="Received: targets='no'"):
        datasets.multi_mnist("test", name="digits", targets="no")
    with pytest.raises(ValueError, match="no images of different classes"):
        datasets.multi_mnist("test[:1]", name="digits")
    with pytest.raises(ValueError, match="`name`"):
        datasets.multi_mnist("test", name="nothing")


# Other viewpoints.


def test_placed_images_are_whole():
    images, labels = arrays("test")
    dataset = datasets.affine_mnist(name="digits", size=13, **MOVED)
    placed, same_labels = first(dataset, 360)
    np.testing.assert_array_equal(labels, same_labels)
    assert placed.shape == (360, 13, 13, 1)
    # Nothing is cut off, and the digits are everywhere.
    np.testing.assert_allclose(
        np.sort(placed.reshape(360, -1))[:, -64:],
        np.sort(images.reshape(360, -1)),
        atol=1e-6,
    )
    mean = placed.mean(axis=(0, 3))
    assert mean.min() > 0
    corners = placed[:, 0].max(axis=(1, 2)), placed[:, -1].max(axis=(1, 2))
    assert all(0.05 < (edge > 0).mean() < 0.6 for edge in corners)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"rotation": 0, "shear": 0, "scale": (1, 1)}, np.eye(2)),
        ({"rotation": 90, "scale": (1, 1), "shear": 0}, None),
        ({"rotation": 0, "shear": 0, "scale": (2, 2)}, 2 * np.eye(2)),
    ],
    ids=["nothing", "rotation", "scale"],
)
def test_the_shape_of_a_bar(options, expected):
    """Its second moments say how it was transformed."""
    from keras_capsules.datasets import viewpoints

    bar = np.zeros((1, 21, 21, 1), "float32")
    bar[0, 9:12, 4:17] = 1  # 13 wide, 3 high
    before = moments(bar[0, ..., 0])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            viewpoints,
            "load_arrays",
            lambda *_, **__: (bar, np.zeros(1, "int32")),
        )
        images, _ = first(
            datasets.affine_mnist(size=61, versions=30, **options), 30
        )
    assert images.max() <= 1 and images.min() >= 0
    angles = []
    for image in images[..., 0]:
        after = moments(image)
        if expected is None:
            sizes = np.linalg.eigvalsh(after)
            np.testing.assert_allclose(
                sizes, sorted(np.diag(before)), rtol=0.1, atol=0.3
            )
            angles.append(
                0.5 * np.arctan2(2 * after[0, 1], after[0, 0] - after[1, 1])
            )
        else:
            exact = expected @ before @ expected.T
            np.testing.assert_allclose(after, exact, rtol=0.15, atol=0.5)
    if expected is None:
        assert np.ptp(np.degrees(angles)) > 100  # from -90 to 90


def test_nothing_is_cut_off_that_fits():
    options = {"scale": (1, 1), "versions": 8, "size": 11}
    turned, _ = first(datasets.affine_mnist(name="digits", **options), 2880)
    # In a frame where all has room.
    options["size"] = 30
    whole, _ = first(datasets.affine_mnist(name="digits", **options), 2880)
    sums, exact = (x.sum(axis=(1, 2, 3)) for x in (turned, whole))
    boxes = [
        max(np.ptp(np.nonzero(x.any(axis=(axis, 2)))[0]) + 1 for axis in (0, 1))
        for x in whole
    ]
    fits = np.array(boxes) <= 11
    assert fits.mean() > 0.9
    np.testing.assert_allclose(sums[fits], exact[fits], rtol=1e-5)


def test_a_shear_moves_rows_sideways():
    from keras_capsules.datasets import viewpoints

    bar = np.zeros((1, 21, 21, 1), "float32")
    bar[0, 3:18, 9:12] = 1  # upright
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            viewpoints,
            "load_arrays",
            lambda *_, **__: (bar, np.zeros(1, "int32")),
        )
        options = {"rotation": 0, "shear": 0.4, "scale": (1, 1)}
        images, _ = first(
            datasets.affine_mnist(size=41, versions=30, **options), 30
        )
    slants = []
    for image in images[..., 0]:
        after = moments(image)
        slants.append(after[0, 1] / after[1, 1])
        np.testing.assert_allclose(
            after[1, 1], moments(bar[0, ..., 0])[1, 1], rtol=0.05
        )
    assert -0.41 < min(slants) < -0.2 and 0.2 < max(slants) < 0.41


def moments(image):
    """The second moments in x and y of what is in an image."""
    y, x = np.mgrid[: image.shape[0], : image.shape[1]]
    weights = (image / image.sum()).ravel()
    places = np.stack([x.ravel(), y.ravel()])
    return np.cov(places, aweights=weights, ddof=0)


def test_versions_repeat_with_the_seed():
    options = {"name": "digits", "size": 14, "versions": 2}
    dataset = datasets.affine_mnist(**options)
    assert len(dataset) == 720
    images, labels = first(dataset, 720)
    again, _ = first(datasets.affine_mnist(**options), 720)
    np.testing.assert_array_equal(images, again)
    np.testing.assert_array_equal(labels[:360], labels[360:])
    assert np.abs(images[:360] - images[360:]).mean() > 0.01
    other, _ = first(datasets.affine_mnist(**options, seed=1), 720)
    assert not np.array_equal(images, other)


def test_empty_and_full_images_stay_finite():
    from keras_capsules.datasets import viewpoints

    images = np.stack([np.zeros((5, 5, 1)), np.ones((5, 5, 1))])
    images = images.astype("float32")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            viewpoints,
            "load_arrays",
            lambda *_, **__: (images, np.arange(2, dtype="int32")),
        )
        found, _ = first(datasets.affine_mnist(size=5, versions=4), 8)
    assert np.isfinite(found).all()
    assert (found[::2] == 0).all() and (
        found[1::2].max(axis=(1, 2, 3)) > 0
    ).all()


def test_invalid_viewpoints():
    for name, value in [
        ("rotation", -1),
        ("rotation", "20"),
        ("shear", -0.1),
        ("shear", 1e9),
        ("scale", (1, 1e9)),
        ("scale", (1.2, 0.8)),
        ("scale", (0, 1)),
        ("scale", 1.0),
        ("size", 7),
        ("versions", 0),
    ]:
        with pytest.raises(ValueError, match=rf"`{name}`.*Received: {name}="):
            datasets.affine_mnist(name="digits", **{"size": 14, name: value})
