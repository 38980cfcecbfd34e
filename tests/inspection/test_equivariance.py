"""How well features tell transformations: known answers, and an oracle."""

import tracemalloc

import keras
import numpy as np
import pytest
from keras import ops

from keras_capsules import CapsuleLayer
from keras_capsules import CapsuleLength
from keras_capsules import PrimaryCapsules
from keras_capsules import inspection
from keras_capsules.inspection import readout
from keras_capsules.inspection.moves import MOVES
from keras_capsules.inspection.moves import move
from keras_capsules.models import CapsuleNetwork
from keras_capsules.models import ConvNet
from keras_capsules.models import SqueezeExcitationNet
from tests.helpers.testing import on_one_backend

GENERATOR = np.random.default_rng(7)
AMOUNTS = np.array([-0.5, -0.2, 0.1, 0.7])


# Transformations of known pictures.


def picture(*pixels, size=(7, 11)):
    """An image that is 1 at some rows and columns, and 0 elsewhere."""
    image = np.zeros((1, *size, 1), "float32")
    for row, column in pixels:
        image[0, row, column] = 1
    return image


def moved(image, name, amount):
    return move(image, name, np.full(len(image), amount))


def test_directions_of_known_pictures():
    """The middle is row 3, column 5."""
    right = picture((3, 7))
    for name, amount, expected in (
        ("rotation", 90, picture((1, 5))),  # counter-clockwise: up
        ("rotation", -90, picture((5, 5))),
        ("rotation", 180, picture((3, 3))),
        ("shift_x", 3, picture((3, 10))),
        ("shift_x", -2, picture((3, 5))),
        ("shift_y", 2, picture((5, 7))),  # down
        ("shift_y", -3, picture((0, 7))),
    ):
        actual = moved(right, name, amount)
        np.testing.assert_allclose(actual, expected, atol=1e-5)
    # Larger: what was beside the middle is farther away, and wider.
    larger = moved(right, "scale", 2)[0, 3, :, 0]
    np.testing.assert_allclose(larger, [0] * 8 + [0.5, 1, 0.5], atol=1e-5)
    smaller = moved(picture((3, 9), (3, 1)), "scale", 0.5)
    np.testing.assert_allclose(smaller, picture((3, 3), (3, 7)), atol=1e-5)
    # The top leans to the right, as italics do.
    line = picture((1, 5), (3, 5), (5, 5))
    leaning = picture((1, 7), (3, 5), (5, 3))
    np.testing.assert_allclose(moved(line, "shear", 1), leaning, atol=1e-5)


@pytest.mark.parametrize("name", MOVES)
def test_what_does_not_move(name):
    images = GENERATOR.uniform(size=(3, 5, 7, 2)).astype("float32")
    same = 1.0 if name == "scale" else 0.0
    np.testing.assert_allclose(moved(images, name, same), images, atol=1e-6)
    # Each image by its own amount, and every channel alike.
    amounts = np.array([same, 1.5, same])
    several = move(images, name, amounts)
    np.testing.assert_allclose(several[[0, 2]], images[[0, 2]], atol=1e-6)
    expected = np.concatenate(
        [moved(images[1:2, ..., [n]], name, 1.5) for n in range(2)], axis=-1
    )
    np.testing.assert_allclose(several[1:2], expected, atol=1e-6)
    assert np.abs(several[1] - images[1]).max() > 0.01


def test_half_a_pixel_is_a_mean_and_outside_is_zero():
    images = GENERATOR.uniform(0.5, 1, (2, 5, 7, 1)).astype("float32")
    right = moved(images, "shift_x", 0.5)
    means = (images[:, :, :-1] + images[:, :, 1:]) / 2
    np.testing.assert_allclose(right[:, :, 1:], means, atol=1e-6)
    np.testing.assert_allclose(right[:, :, 0], images[:, :, 0] / 2, atol=1e-6)
    assert (moved(images, "shift_y", 2)[:, :2] == 0).all()


# Known answers.


def capsules_of(kernel, num_classes, image_shape=(4, 5, 1)):
    """A network whose capsules are a linear function of the pixels."""
    images = keras.Input(image_shape)
    x = keras.layers.Flatten()(images)
    layer = keras.layers.Dense(kernel.shape[1], use_bias=False, name="poses")
    x = layer(x)
    layer.set_weights([kernel])
    x = keras.layers.Reshape((num_classes, -1), name="capsules")(x)
    return CapsuleNetwork(images, x)


def added_at(*pixels):
    """A transformation: amounts times 1, 2, ... are added to some pixels."""

    def transform(images, amounts):
        assert images.ndim == 4 and amounts.shape == images.shape[:1]
        changed = images.copy()
        for factor, (row, column) in enumerate(pixels, 1):
            changed[:, row, column, 0] += factor * amounts
        return changed

    return transform


def noise(number=40):
    return GENERATOR.normal(size=(number, 4, 5, 1)).astype("float32")


def test_a_pose_that_holds_the_amount():
    images = noise()
    images[:, 1, 2] = 0.0
    kernel = GENERATOR.normal(size=(20, 3)).astype("float32")
    found = inspection.equivariance(
        capsules_of(kernel, 1), images, added_at((1, 2)), AMOUNTS
    )
    # Three numbers of nineteen noisy pixels and the amount: told in part.
    assert 0.0 < found.r2 < 0.5
    kernel[:, 1] = 0
    kernel[1 * 5 + 2, 1] = 0.1
    found = inspection.equivariance(
        capsules_of(kernel, 1), images, added_at((1, 2)), AMOUNTS
    )
    assert isinstance(found, inspection.Equivariance)
    assert 0.999 < found.r2 <= 1
    assert found.low <= found.r2 <= found.high
    assert found.amounts.tolist() == AMOUNTS.tolist()
    assert found.predictions.shape == (40, 4)
    np.testing.assert_allclose(
        found.predictions, np.broadcast_to(AMOUNTS, (40, 4)), atol=0.05
    )


def test_a_pose_that_turns_with_the_image():
    """The centre of a spot, which turns: its sine is almost the angle."""
    size = 9
    places = np.arange(size) - size // 2
    rows, columns = np.meshgrid(places, places, indexing="ij")
    kernel = np.stack([columns.ravel(), -rows.ravel()], axis=1)
    images = np.zeros((30, size, size, 1), "float32")
    images[:, 3:6, 6:8] = GENERATOR.uniform(0.9, 1, (30, 3, 2, 1))
    model = capsules_of(0.1 * kernel.astype("float32"), 1, (size, size, 1))
    angles = np.linspace(-30, 30, 7)
    found = inspection.equivariance(model, images, "rotation", angles)
    assert found.r2 > 0.99
    # The other way around, the same code says the opposite.
    features = move(images, "rotation", np.full(30, 20.0))
    poses = model.encode(features)[:, 0]
    np.testing.assert_allclose(
        poses[:, 1] / poses[:, 0], np.tan(np.radians(20)), atol=0.08
    )


def test_a_pose_that_is_noise():
    kernel = GENERATOR.normal(size=(20, 3)).astype("float32")
    kernel[1 * 5 + 2] = 0
    model = capsules_of(kernel, 1)
    found = inspection.equivariance(
        model, noise(), added_at((1, 2)), AMOUNTS, seed=3
    )
    assert -0.2 < found.r2 < 0.05
    assert found.low <= found.r2 <= found.high

    # Noise that comes anew with each amount says as little.
    def spoil(images, amounts):
        return GENERATOR.normal(size=images.shape)

    kernel = np.eye(20, dtype="float32")[:, :5]
    found = inspection.equivariance(
        capsules_of(kernel, 1), noise(), spoil, AMOUNTS
    )
    assert -0.3 < found.r2 < 0.05


def two_codes():
    """Images of two classes, whose poses say the amount with two signs."""
    images = np.zeros((44, 4, 5, 1), "float32")
    images[:22, 0, 0] = images[22:, 0, 1] = 5
    kernel = np.zeros((20, 4), "float32")
    kernel[0, 0] = kernel[1, 2] = 1  # which class
    kernel[7, 1], kernel[7, 3] = 0.1, -0.1  # row 1, column 2
    return capsules_of(kernel, 2), images


def test_each_class_has_its_own_code():
    model, images = two_codes()
    found = inspection.equivariance(model, images, added_at((1, 2)), AMOUNTS)
    assert found.r2 > 0.99

    # The winning class is that of the transformed image.
    def other_class(images, amounts):
        changed = added_at((1, 2))(images, amounts)
        is_other = amounts > 0
        changed[is_other, 0, :2] = changed[is_other, 0, 1::-1]
        return changed

    found = inspection.equivariance(model, images, other_class, AMOUNTS)
    assert found.r2 > 0.99


def ridge(features, targets, new, penalty, components=None):
    """Predictions of a ridge regression, from its normal equations."""
    mean = features.mean(axis=0)
    features, new = features - mean, new - mean
    penalty *= len(features) * features.var(axis=0).mean()
    if components is not None:
        values, axes = np.linalg.eigh(features.T @ features)
        axes = axes[:, np.argsort(-values)[:components]]
        features, new = features @ axes, new @ axes
    gram = features.T @ features + penalty * np.eye(features.shape[1])
    weights = np.linalg.solve(gram, features.T @ (targets - targets.mean()))
    return new @ weights + targets.mean()


@pytest.mark.parametrize("components, folds", [(None, 2), (3, 5)])
def test_against_least_squares_by_hand(components, folds, monkeypatch):
    monkeypatch.setattr(readout, "PENALTIES", (0.03,))
    model, images = two_codes()
    images += noise(44) / 3
    images[:22, 0, 0] += 3
    images[22:, 0, 1] += 3
    kernel = model.get_layer("poses").get_weights()[0]
    kernel[8:, 1] = 0.03
    model.get_layer("poses").set_weights([kernel])
    found = inspection.equivariance(
        model,
        images,
        added_at((1, 2), (2, 3)),
        AMOUNTS,
        layer="poses",
        components=components,
        folds=folds,
        seed=11,
    )
    changed = np.repeat(images[:, None], 4, axis=1).astype("float64")
    changed[:, :, 1, 2, 0] += AMOUNTS
    changed[:, :, 2, 3, 0] += 2 * AMOUNTS
    features = (changed.reshape(-1, 20) @ kernel).reshape(44, 4, 4)
    fold_of = np.random.default_rng(11).permutation(44) % folds
    expected = np.zeros((44, 4))
    for fold in range(folds):
        for group in (np.arange(44) < 22, np.arange(44) >= 22):
            train = features[group & (fold_of != fold)].reshape(-1, 4)
            test = group & (fold_of == fold)
            targets = np.tile(AMOUNTS, len(train) // 4)
            expected[test] = ridge(
                train, targets, features[test].reshape(-1, 4), 0.03, components
            ).reshape(-1, 4)
    np.testing.assert_allclose(found.predictions, expected, atol=1e-5)
    r2 = 1 - np.sum((expected - AMOUNTS) ** 2) / np.sum(
        44 * (AMOUNTS - AMOUNTS.mean()) ** 2
    )
    assert found.r2 == pytest.approx(r2, abs=1e-5)
    assert 0.05 < r2 < 0.99
    assert found.low < found.r2 < found.high


def test_the_penalty_is_chosen_by_halves():
    """Many noisy features need a large one, exact ones a small one."""
    features = GENERATOR.normal(size=(60, 41))
    half = np.arange(60) % 2 == 0
    for used, noisy, expected in ((41, 9, 1), (3, 0, 1e-6)):
        features[:, used:] = 0
        targets = features[:, :3].sum(axis=1)
        targets += noisy * GENERATOR.normal(size=60)
        errors = {}
        for penalty in readout.PENALTIES:
            errors[penalty] = 0
            for one in (half, ~half):
                fitted = features[one], targets[one], features[~one], penalty
                errors[penalty] += np.sum((ridge(*fitted) - targets[~one]) ** 2)
        best = min(errors, key=errors.get)
        weights, offset = readout.fit(features, targets, half)
        np.testing.assert_allclose(
            features @ weights + offset,
            ridge(features, targets, features, best),
            atol=1e-5,
        )
        assert best == expected


@pytest.mark.parametrize("components", [None, 3])
@pytest.mark.parametrize("number", [31, 32, 200])
def test_a_fit_in_blocks_is_the_fit(components, number, monkeypatch):
    generator = np.random.default_rng(number)
    features = generator.normal(size=(number, 8)) * np.geomspace(1e-4, 1e4, 8)
    features[:, 5] = features[:, 4] + 3  # of one rank less
    features = features.astype("float32")
    targets = generator.normal(size=number) + features[:, 2]
    half = np.arange(number) % 3 == 0
    expected = readout.fit(features, targets, half, components)
    monkeypatch.setattr(readout, "BLOCK", 4)
    found = readout.fit(features, targets, half, components)
    for each, right in zip(found, expected, strict=True):
        np.testing.assert_allclose(each, right, rtol=1e-6, atol=1e-12)


def test_a_fit_takes_little_memory():
    generator = np.random.default_rng(0)
    features = generator.normal(size=(20_000, 2, 20)).astype("float32")
    classes = np.zeros((20_000, 2), int)
    places = generator.permutation(20_000)
    tracemalloc.start()
    readout.predict_held_out(features, classes, np.arange(2.0), places, 2)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2 * features.nbytes


@pytest.mark.parametrize("seed", range(20))
def test_features_that_hardly_change_have_no_say_beyond_measure(seed):
    """One that is dead in nearly all rows, and not in others."""
    generator = np.random.default_rng(seed)
    features = generator.normal(size=(60, 3))
    targets = features[:, 0] + 0.1 * generator.normal(size=60)
    features[:, 2] = 0
    features[7, 2] = 1e-5
    weights, _ = readout.fit(features, targets, np.arange(60) < 30)
    # Standardized, it would have a weight of about 10,000.
    assert abs(weights[2]) < 0.1 and abs(weights[0] - 1) < 0.1
    for same in (0.0, 0.1):
        weights, offset = readout.fit(
            np.full((60, 3), same), targets, np.arange(60) < 30
        )
        # A feature that is another all the same tells nothing.
        assert np.abs(weights).max() < 1e-3
        assert offset == pytest.approx(targets.mean(), abs=1e-3)


def test_no_image_is_in_both_fit_and_test():
    """Each image says its amount at a place where no other image does."""
    images = np.eye(20, dtype="float32").reshape(20, 4, 5, 1)
    found = inspection.equivariance(
        capsules_of(np.eye(20, dtype="float32"), 1),
        images,
        lambda images, amounts: images * amounts[:, None, None, None],
        [-1, 0, 1],
    )
    assert abs(found.r2) < 1e-6


def test_interval_seed_and_batches():
    kernel = GENERATOR.normal(size=(20, 7)).astype("float32")
    model, images = capsules_of(kernel, 1), noise(61)
    arguments = model, images, added_at((1, 2)), AMOUNTS
    found = inspection.equivariance(*arguments)
    again = inspection.equivariance(*arguments, batch_size=17)
    assert again.low == pytest.approx(found.low, abs=1e-6)
    np.testing.assert_allclose(found.predictions, again.predictions, atol=1e-5)
    other = inspection.equivariance(*arguments, seed=1)
    assert other.r2 != found.r2
    # The deviation of a mean, as textbooks have it.
    errors = np.mean((found.predictions - AMOUNTS) ** 2, axis=1)
    deviation = errors.std() / np.sqrt(61) / np.var(AMOUNTS)
    width = (found.high - found.low) / (2 * 1.96)
    assert width == pytest.approx(deviation, rel=0.1)
    # A list and a tensor are images, too.
    for form in (images.tolist(), ops.convert_to_tensor(images)):
        same = inspection.equivariance(model, form, *arguments[2:])
        assert same.r2 == pytest.approx(found.r2, abs=1e-5)


def test_progress(capsys):
    kernel = GENERATOR.normal(size=(20, 3)).astype("float32")
    arguments = capsules_of(kernel, 1), noise(13), "shift_x", [0, 1]
    inspection.equivariance(*arguments)
    assert capsys.readouterr().out == ""
    inspection.equivariance(*arguments, verbose=1, batch_size=7)
    assert "13/13" in capsys.readouterr().out


# Features.


def test_features_that_never_change():
    kernel = np.zeros((20, 3), "float32")
    kernel[7, 0] = 1
    images = noise(20)
    images[:, 1, 2] = 0
    found = inspection.equivariance(
        capsules_of(kernel, 1), images, added_at((1, 2)), AMOUNTS
    )
    assert found.r2 > 0.999 and np.isfinite(found.predictions).all()


@on_one_backend
def test_matrix_poses_and_pairs():
    """The pose is a matrix, and the activation says which class wins."""
    images = keras.Input((4, 5, 1))
    x = keras.layers.Flatten()(images)
    dense = keras.layers.Dense(12, use_bias=False)
    poses = keras.layers.Reshape((2, 2, 3))(dense(x))
    scores = keras.layers.Dense(2, "sigmoid", use_bias=False)
    model = CapsuleNetwork(images, (poses, scores(x)))
    kernel = np.zeros((20, 12), "float32")
    kernel[7, 4], kernel[7, 10] = 1, -1  # in each class, the middle below
    dense.set_weights([kernel])
    kernel = np.zeros((20, 2), "float32")
    kernel[0, 0] = kernel[1, 1] = 1
    scores.set_weights([kernel])
    _, pictures = two_codes()
    arguments = pictures, added_at((1, 2)), AMOUNTS
    assert inspection.equivariance(model, *arguments).r2 > 0.99
    # Activations alone do not tell.
    name = scores.name
    assert inspection.equivariance(model, *arguments, layer=name).r2 < 0.05


@on_one_backend
@pytest.mark.parametrize("network", [ConvNet, SqueezeExcitationNet])
def test_last_features_of_other_models(network):
    model = network((4, 5, 1), 1, filters=(3,), activation="sigmoid")
    if network is ConvNet:
        name, number = "hidden_1", 100
    else:
        name, number = "means", 3
    images = np.abs(noise(23))
    arguments = model, images, "shift_x", [-1, 0, 1]
    found = inspection.equivariance(*arguments)
    named = inspection.equivariance(*arguments, layer=name)
    np.testing.assert_allclose(found.predictions, named.predictions, atol=1e-5)
    with pytest.raises(ValueError, match=f"most the {number} features.*=101"):
        inspection.equivariance(*arguments, components=101)


@on_one_backend
def test_layers_and_sequential_models():
    model = keras.Sequential(
        [
            keras.Input((4, 5, 1)),
            PrimaryCapsules(2, 3, kernel_size=3, name="primary"),
            CapsuleLayer(2, 5, name="capsules"),
            keras.layers.Flatten(),
            keras.layers.Dense(1, name="scores"),
        ]
    )
    arguments = model, noise(23), "shift_y", [-1, 0, 1]
    last = inspection.equivariance(*arguments)
    named = inspection.equivariance(*arguments, layer="capsules")
    np.testing.assert_allclose(last.predictions, named.predictions, atol=1e-6)
    # All axes of a map are features: 2 * 3 positions of 6 numbers.
    with pytest.raises(ValueError, match="most the 36 features.*=37"):
        inspection.equivariance(*arguments, layer="primary", components=37)


# Errors.


def refuse(match, **changed):
    arguments = {
        "model": capsules_of(np.ones((20, 3), "float32"), 1),
        "images": noise(13),
        "transform": "shift_x",
        "amounts": [0, 1],
    }
    with pytest.raises(ValueError, match=match):
        inspection.equivariance(**{**arguments, **changed})


def test_invalid_transforms_and_amounts():
    refuse(
        "`transform`. Expected one of 'rotation', 'shift_x', 'shift_y', "
        "'scale', 'shear'. Received: transform='turn'",
        transform="turn",
    )
    refuse(
        r"the same shape, \(13, 4, 5, 1\). Received: \(13, 4, 5\)",
        transform=lambda images, amounts: images[..., 0],
    )
    refuse("`amounts`. Expected a.* of which at least two differ", amounts=[2])
    refuse("two differ. Received: amounts=.3, 3.", amounts=[3, 3])
    refuse("than 0. Rec.*=.0, 1.", transform="scale", amounts=[0, 1])
    for amounts in ([], 3, [0, np.inf], ["a", 1], [[0, 1], [1, 2]], None):
        refuse("`amounts`. Expected a seq.*finite numbers", amounts=amounts)


def test_invalid_images():
    refuse(
        r"`images` of shape \(batch, 4, 5, 1\). Received: images.shape=\(13, 5",
        images=noise(13).reshape(13, 5, 4, 1),
    )
    refuse(
        "finite. Expected.*Received: features or s",
        transform=lambda images, amounts: images * np.nan,
    )
    refuse("images as folds. Received: folds=14", folds=14)
    refuse(
        "too few images. Expected.*at least 10.*11 images and folds=5, with "
        "100 %",
        images=noise(11),
    )
    signal = keras.Input((7, 2))
    scores = keras.layers.Dense(1)(keras.layers.Flatten()(signal))
    refuse(
        r"by name.*function as `transform`. Received: images.shape=\(13, 7, 2",
        model=keras.Model(signal, scores),
        images=np.ones((13, 7, 2)),
    )


def test_invalid_models_and_layers():
    images = keras.Input((4, 5, 1))
    flat = keras.layers.Flatten(name="flat")(images)
    scores = keras.layers.Softmax(name="softmax")(flat)
    model = keras.Model(images, scores)
    refuse(
        r"neither class capsules nor a Dense.*one of \['flat', 'softmax'\]. "
        "Received: layer=None",
        model=model,
    )
    refuse(
        r"`layer`. Expected.*\['flat', 'softmax'\]. Did you mean 'flat'\? "
        "Received: layer='flatt'",
        model=model,
        layer="flatt",
    )
    refuse("'softmax'.. Received: layer=3", model=model, layer=3)
    for wrong in (keras.Sequential([keras.layers.Dense(1)]), "CapsNet"):
        refuse("`model`. Expected a functional model", model=wrong)
    refuse(
        r"`model`. Expected one output.*\[\(None, 4, 5, 1\)\]",
        model=keras.Model(images, keras.layers.ReLU()(images)),
    )
    refuse("Expected one output", model=keras.Model(images, [flat, scores]))
    refuse(
        "Expected one input",
        model=keras.Model([images, keras.Input((3,))], scores),
    )


@pytest.mark.parametrize(
    "name, value",
    [
        ("folds", 1),
        ("seed", -1),
        ("batch_size", 0),
        ("components", 0),
        ("verbose", 2),
    ],
)
def test_invalid_numbers(name, value):
    refuse(f"`{name}`. Expected.*Received: {name}={value}", **{name: value})


def test_capsules_of_a_network_of_ones_own():
    """The last layer that routes, though there is a Dense layer below."""
    keras.utils.set_random_seed(5)
    images = keras.Input((9, 11, 1))
    x = keras.layers.Dense(3)(images)
    x = PrimaryCapsules(2, 4, 3, 2)(keras.layers.Conv2D(5, 3)(x))
    capsules = CapsuleLayer(2, 6, name="classes")(x)
    own = keras.Model(images, CapsuleLength()(capsules))
    whole = CapsuleNetwork(images, capsules)
    pictures = GENERATOR.uniform(size=(60, 9, 11, 1)).astype("float32")
    found = [
        inspection.equivariance(model, pictures, "shift_x", [-2, 0, 2])
        for model in (own, whole)
    ]
    np.testing.assert_allclose(found[0].predictions, found[1].predictions)
    grid = keras.Model(images, keras.layers.Dense(2)(_flat(x)))
    assert inspection.equivariance(grid, pictures, "shift_x", [-2, 0, 2])
    wrong = keras.Model(images, _flat(CapsuleLayer(2, 6)(x)))
    with pytest.raises(ValueError, match="no capsule for each class.*, 2, 6"):
        inspection.equivariance(wrong, pictures, "shift_x", [-2, 0, 2])


def _flat(x):
    return keras.layers.Flatten()(x)
