"""Pictures: what is drawn, on which axes, for sizes of all kinds."""

import io
import subprocess
import sys
import warnings

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.image import imread

from keras_capsules import plots
from keras_capsules.inspection import Equivariance
from keras_capsules.inspection import Health
from keras_capsules.inspection import LayerHealth
from keras_capsules.inspection import Part

GENERATOR = np.random.default_rng(3)
LONG = "a class with a name that is much longer than its place"


def uniform(*shape):
    return GENERATOR.uniform(size=shape).astype("float32")


def drawn(figure):
    """The figure, after it was drawn without a warning."""
    assert isinstance(figure, Figure)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        picture = io.BytesIO()
        figure.savefig(picture, format="png")
    picture.seek(0)
    assert np.ptp(imread(picture)) > 0.5  # it is not blank
    return figure


def titles(figure):
    return [axis.get_title() for axis in figure.axes]


def images_of(axis):
    return [np.asarray(each.get_array()) for each in axis.get_images()]


def test_notebooks_show_a_figure_of_nobody():
    """They show the figures of pyplot, and those that say how they look."""
    figure = plots.reconstructions(uniform(1, 7, 5, 1), uniform(1, 7, 5, 1))
    assert figure._repr_png_().startswith(b"\x89PNG")


# Images.


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("number", [1, 3, 20])
def test_reconstructions(number, channels):
    images = uniform(number, 7, 5, channels)
    others = uniform(number, 7, 5, channels)
    names = [LONG] + [str(each) for each in range(1, number)]
    figure = drawn(plots.reconstructions(images, others, names))
    assert len(figure.axes) == 2 * number
    first = np.squeeze(images[0])
    np.testing.assert_array_equal(images_of(figure.axes[0])[0], first)
    below = images_of(figure.axes[number])[0]
    np.testing.assert_array_equal(below, np.squeeze(others[0]))
    assert titles(figure)[0].replace("\n", " ") == LONG
    assert figure.axes[0].get_ylabel() == "image"
    assert figure.axes[number].get_ylabel() == "reconstruction"


def test_reconstructions_of_several_networks():
    images = uniform(3, 7, 5, 1)
    found = {"one": uniform(3, 7, 5, 1), "two": uniform(3, 7, 5, 1)}
    figure = drawn(plots.reconstructions(images, found))
    labels = [axis.get_ylabel() for axis in figure.axes[::3]]
    assert labels == ["image", "one", "two"]


def test_values_outside_are_clipped_and_nan_is_black():
    images = uniform(1, 7, 5, 1)
    others = np.array(images)
    others[0, 0, 0], others[0, 1, 1], others[0, 2, 2] = np.nan, 7, -3
    figure = drawn(plots.reconstructions(images, others))
    shown = images_of(figure.axes[1])[0]
    assert [shown[0, 0], shown[1, 1], shown[2, 2]] == [0, 1, 0]


@pytest.mark.parametrize("channels", [1, 3])
def test_perturbations(channels):
    images = uniform(16, 11, 7, 5, channels)
    figure = drawn(plots.perturbations(images))
    assert len(figure.axes) == 16 * 11
    assert titles(figure)[:11][0::5] == ["-0.25", "0", "+0.25"]
    assert [axis.get_ylabel() for axis in figure.axes[::11]] == [
        str(each) for each in range(16)
    ]
    bent = images_of(figure.axes[11 * 2 + 3])[0]
    np.testing.assert_array_equal(bent, np.squeeze(images[2, 3]))
    figure = drawn(plots.perturbations(images[:2, :1], [0.5], [4, 9]))
    assert titles(figure)[0] == "+0.5"
    assert [axis.get_ylabel() for axis in figure.axes] == ["4", "9"]


def test_interpolations():
    images = uniform(2, 5, 7, 6, 1)
    figure = drawn(plots.interpolations(images, ["one to two", LONG]))
    assert titles(figure)[:5] == ["0 %", "25 %", "50 %", "75 %", "100 %"]
    shown = images_of(figure.axes[7])[0]
    np.testing.assert_array_equal(shown, images[1, 2, ..., 0])
    drawn(plots.interpolations(images[:1, :1]))


@pytest.mark.parametrize("channels", [1, 3])
def test_supports(channels):
    images, maps = uniform(3, 7, 5, channels), uniform(3, 7, 5)
    maps[2] = 0
    figure = drawn(plots.supports(images, maps, "abc"[:0] or list("abc")))
    over = images_of(figure.axes[4])
    np.testing.assert_allclose(over[1], maps[1] / maps[1].max(), rtol=1e-6)
    assert images_of(figure.axes[5])[1].max() == 0


# Structure.


def leaf(index, share, box=(0, 0, 3, 4)):
    return Part("primary", index, 0.5, share, box, ())


def test_parse_tree():
    inner = Part(
        "conv", (1, 2, 3), 0.25, 1.0, (1, 1, 6, 5), (leaf((0, 1), 0.75),)
    )
    tree = Part("classes", (4,), 0.9, 1.0, None, (inner, leaf((7,), 0.1)))
    figure = drawn(plots.parse_tree(tree, uniform(7, 5, 1)))
    (axis,) = figure.axes
    names = {each.get_title(): each for each in axis.child_axes}
    assert set(names) == {
        "capsule 4",
        "type 3 at 1, 2\n100 %",
        "type 1 at 0\n75 %",
        "capsule 7\n10 %",
    }
    assert names["capsule 4"].get_xlabel() == "0.90"
    assert not names["capsule 4"].get_lines()  # no box is known
    (frame,) = names["type 3 at 1, 2\n100 %"].get_lines()
    assert frame.get_xdata().tolist() == [0.5, 4.5, 4.5, 0.5, 0.5]
    assert frame.get_ydata().tolist() == [0.5, 0.5, 5.5, 5.5, 0.5]
    # The larger the share, the thicker the line.
    widths = [line.get_linewidth() for line in axis.get_lines()]
    assert sorted(widths) == pytest.approx([1.1, 5.0, 6.5])
    drawn(plots.parse_tree(leaf((2,), 1.0), uniform(7, 5, 3), LONG))


def test_large_trees_are_drawn_in_part():
    def tree(depth):
        parts = tuple(tree(depth - 1) for _ in range(5)) if depth else ()
        return Part("layer", (0, 1), 0.5, 0.2, None, parts)

    (axis,) = drawn(plots.parse_tree(tree(3), uniform(7, 5, 1))).axes
    assert len(axis.child_axes) == 1 + 2 + 4 + 8
    (axis,) = drawn(plots.parse_tree(tree(1), uniform(7, 5, 1))).axes
    assert len(axis.child_axes) == 1 + 5


def layer_health(name, number, coupling=True):
    return LayerHealth(
        name=name,
        activation=uniform(number),
        norm=(0.1, 0.5, 0.9),
        dead=np.arange(number) == 1,
        coupling=uniform(3) if coupling else None,
        entropy=0.25 if coupling else None,
    )


def test_health():
    health = Health((layer_health("primary", 7, False),), ())
    figure = drawn(plots.health(health))
    assert titles(figure)[0] == "primary: 1 dead"
    heights = [bar.get_height() for bar in figure.axes[0].patches]
    np.testing.assert_allclose(heights, health.layers[0].activation)
    layers = *health.layers, layer_health(LONG, 20)
    figure = drawn(plots.health(Health(layers, ())))
    assert titles(figure)[3] == "entropy 0.25 of 1"


# Charts.


def test_equivariance():
    def found(r2):
        return Equivariance(r2, r2 - 0.1, r2 + 0.05, np.zeros(3), np.zeros(3))

    results = {
        "EfficientCapsNet": {"rotation": found(0.9), "shift_x": found(0.5)},
        LONG: {"rotation": found(-0.3)},
    }
    figure = drawn(plots.equivariance(results, "three seeds"))
    (axis,) = figure.axes
    assert [bar.get_height() for bar in axis.patches] == [0.9, 0.5, -0.3]
    assert [x.get_text() for x in axis.get_xticklabels()] == [
        "rotation",
        "shift x",
    ]
    assert axis.get_title() == "three seeds"


def test_training_curves():
    class History:
        history = {
            "loss": [0.5, 0.3],
            "val_loss": [0.6, 0.4],
            "accuracy": [0.8, 0.9],
        }

    for history in (History(), History.history):
        figure = drawn(plots.training_curves(history))
        losses, accuracies = (axis.get_lines() for axis in figure.axes)
        assert [list(each.get_ydata()) for each in losses] == [
            [0.5, 0.3],
            [0.6, 0.4],
        ]
        assert [each.get_label() for each in losses] == [
            "training",
            "validation",
        ]
        assert list(accuracies[0].get_xdata()) == [1, 2]
    figure = drawn(
        plots.training_curves({"one": History(), "two": {"loss": [1.0]}})
    )
    labels = [each.get_label() for each in figure.axes[0].get_lines()]
    assert labels == ["one, training", "one, validation", "two, training"]
    # The legend names the lines of all panels.
    runs = {"one": {"rate": [1]}, "two": {"loss": [1], "val_loss": [2]}}
    figure = drawn(plots.training_curves(runs))
    assert [text.get_text() for text in figure.legends[0].texts] == [
        "one, training",
        "two, training",
        "two, validation",
    ]
    figure = drawn(plots.training_curves({"val_accuracy": [0.5, 0.6]}))
    assert figure.axes[0].get_ylabel() == "accuracy"


@pytest.mark.parametrize("classes", [1, 2, 20])
def test_confusion(classes):
    labels = np.arange(3 * classes) % classes
    predictions = np.where(labels == 1, 0, labels)
    names = [LONG] * classes
    figure = drawn(plots.confusion(labels, predictions, names))
    counts = np.diag(np.full(classes, 3))
    if classes > 1:
        counts[1, :2] = 3, 0
    axis = figure.axes[0]
    found = np.zeros_like(counts)
    for each in axis.texts:
        column, row = each.get_position()
        found[row, column] = int(each.get_text())
    np.testing.assert_array_equal(found, counts)
    wrong = 100 / classes if classes > 1 else 0
    assert axis.get_title() == f"images; {wrong:.2f} % wrong"


def test_confusion_of_scores_in_percents():
    scores = np.eye(4)[[0, 0, 1, 2]]
    figure = drawn(
        plots.confusion(np.array([0, 1, 1, 1]), scores, normalize=True)
    )
    texts = {
        each.get_position(): each.get_text() for each in figure.axes[0].texts
    }
    assert texts == {
        (0, 0): "100.0",
        (0, 1): "33.3",
        (1, 1): "33.3",
        (2, 1): "33.3",
    }
    assert len(figure.axes[0].get_xticks()) == 4  # one class was never there


# Errors.

IMAGES = uniform(3, 7, 5, 1)
FOUND = Equivariance(0.5, 0.4, 0.6, np.zeros(3), np.zeros(3))


@pytest.mark.parametrize(
    "function, arguments, message",
    [
        (
            plots.reconstructions,
            (uniform(3, 7, 5, 2), IMAGES),
            r"`images` of shape \(images, height.*images.shape=\(3, 7, 5, 2\)",
        ),
        (
            plots.reconstructions,
            (IMAGES, IMAGES[:2]),
            r"images' shape \(3, 7, 5, 1\).*shape=\(2, 7, 5, 1\)",
        ),
        (
            plots.reconstructions,
            (IMAGES[:0], IMAGES[:0]),
            r"nothing to draw.*images.shape=\(0, 7, 5, 1\)",
        ),
        (
            plots.reconstructions,
            (uniform(21, 7, 5, 1), uniform(21, 7, 5, 1)),
            r"too many.*images\[:20\].*shape=\(21, 7, 5, 1\)",
        ),
        (
            plots.reconstructions,
            (IMAGES, IMAGES, ["a"]),
            r"3 names in `titles`.*titles=\['a'\]",
        ),
        (
            plots.perturbations,
            (IMAGES[0],),
            r"\(images, ..., height, width, channels\).*shape=\(7, 5, 1\)",
        ),
        (
            plots.perturbations,
            (uniform(2, 4, 7, 5, 1), [0.1]),
            r"Expected 4 finite numbers in `values`",
        ),
        (
            plots.supports,
            (IMAGES, uniform(3, 5, 7)),
            r"one map for each.*maps.shape=\(3, 5, 7\)",
        ),
        (plots.parse_tree, ((), IMAGES[0]), r"Expected one tree.*tree=\(\)"),
        (
            plots.parse_tree,
            (leaf((2,), 1.0), IMAGES),
            r"shape \(height, width.*shape=\(3, 7, 5, 1\)",
        ),
        (plots.health, (None,), r"capsule_health.*health=None"),
        (plots.equivariance, ({},), r"at least one network.*results={}"),
        (plots.training_curves, ({},), r"at least one epoch.*history={}"),
        (plots.training_curves, ([1],), r"what `fit` returned.*history=\[1\]"),
        (
            plots.training_curves,
            ({"loss": 0.5},),
            "the number of each epoch. Received: history with 'loss': 0.5",
        ),
        (plots.training_curves, ({"loss": ["a"]},), r"'loss': \['a'\]"),
        (plots.training_curves, ({"one": {3: [0.5]}},), r"with 3: \[0.5\]"),
        (
            plots.training_curves,
            ({"loss": [1, 2], "run": {"loss": [1.0]}},),
            r"not both. Received: history with the keys \['loss', 'run'\]",
        ),
        (plots.equivariance, ([1],), r"names of networks.*results=\[1\]"),
        (plots.equivariance, ({"a": 1},), "names of networks.*results={'a'"),
        (
            plots.equivariance,
            ({"a": {"rotation": 0.5}},),
            "results of `inspection.equivariance`.*'rotation': 0.5",
        ),
        (
            plots.confusion,
            ([0.5], [0]),
            r"`labels` to be classes.*shape \(1,\) and dtype float64",
        ),
        (plots.confusion, ([0, 1], [0]), r"2 labels and 1 predictions"),
        (
            plots.confusion,
            ([0, 1], uniform(2, 1)),
            r"One score says nothing.*predictions.shape=\(2, 1\)",
        ),
        (
            plots.perturbations,
            (uniform(2, 3, 7, 5, 1),),
            r"Expected 3 finite numbers in `values`",
        ),
        (
            plots.confusion,
            ([0, 1], [0, 1], ["a"]),
            r"2 names in `class_names`",
        ),
        (
            plots.confusion,
            ([0, 1], [0, 1], 5),
            "2 names in `class_names`. Received: class_names=5",
        ),
        (
            plots.confusion,
            ([0, 1], [0, 1], {"a": 0, "b": 1}),
            "2 names in `class_names`. Received: class_names={'a'",
        ),
        (
            plots.confusion,
            ([0, 10**6], [0, 1]),
            "too many classes.*at most 100,.*labels for 1000001 classes",
        ),
        (
            plots.confusion,
            ([0, 1], [0, 100]),
            "at most 100,.*predictions for 101 classes",
        ),
        (
            plots.confusion,
            ([0, 1], uniform(2, 101)),
            "at most 100,.*predictions for 101 classes",
        ),
        (
            plots.confusion,
            ([0, 1], [0, 1], ["a"] * 101),
            "at most 100,.*class_names for 101 classes",
        ),
        (
            plots.confusion,
            ([0, 1, 1], np.array([[0, 1], [np.nan, 1], [1, np.nan]])),
            "without NaN.*NaN for 2 of 3 images, the first of them number 1",
        ),
        (
            plots.confusion,
            ([0], uniform(1, 0)),
            r"One score says nothing.*predictions.shape=\(1, 0\)",
        ),
        (
            plots.confusion,
            ([0], [["a", "b"]]),
            "`predictions` to be an array of numbers.*'a'",
        ),
        (
            plots.reconstructions,
            (IMAGES, IMAGES, 7),
            "3 names in `titles`. Received: titles=7",
        ),
        (
            plots.reconstructions,
            ("abc", IMAGES),
            "`images` to be an array of numbers. Received: images='abc'",
        ),
        (
            plots.reconstructions,
            ([[1], [1, 2]], IMAGES),
            r"`images` to be an array of numbers.*\[\[1\], \[1, 2\]\]",
        ),
        (
            plots.supports,
            (IMAGES, "abc"),
            "`maps` to be an array of numbers. Received: maps='abc'",
        ),
        (
            plots.perturbations,
            (uniform(2, 3, 7, 5, 1), ["a", "b", "c"]),
            r"3 finite numbers in `values`.*Received: values=\['a', 'b', 'c'\]",
        ),
        (
            plots.perturbations,
            (uniform(2, 1, 7, 5, 1), 0.5),
            "1 finite numbers in `values`.*Received: values=0.5",
        ),
        (
            plots.perturbations,
            (uniform(2, 2, 7, 5, 1), [0.5, np.inf]),
            r"2 finite numbers in `values`.*Received: values=\[0.5, inf\]",
        ),
        (
            plots.perturbations,
            (uniform(2, 1, 7, 5, 1), [0.5], 2),
            "2 names in `dimensions`. Received: dimensions=2",
        ),
        (
            plots.equivariance,
            ({"a": {3: FOUND}},),
            "names of transformations.*Received: results={'a': {3: ",
        ),
        (
            plots.training_curves,
            ({"loss": [[1, 2], [3, 4]]},),
            r"number of each epoch.*'loss': \[\[1, 2\], \[3, 4\]\]",
        ),
    ],
)
def test_errors(function, arguments, message):
    with pytest.raises(ValueError, match=message):
        function(*arguments)


@pytest.mark.parametrize(
    "pixels, received",
    [
        (np.full((3, 7, 5, 1), 200, "uint8"), "uint8 with values up to 200"),
        (np.full((3, 7, 5, 1), 2, "uint8"), "uint8 with values up to 2"),
        (255 * np.ones((3, 7, 5, 1)), "float64 with values up to 255"),
    ],
    ids=["uint8", "dark_uint8", "floats"],
)
def test_pixels_of_another_scale_are_refused(pixels, received):
    tree = Part("classes", (4,), 0.9, 1.0, None, ())
    for name, draw in (
        ("images", lambda: plots.reconstructions(pixels, IMAGES)),
        ("reconstructions", lambda: plots.reconstructions(IMAGES, pixels)),
        ("images", lambda: plots.perturbations(pixels[None], [-1, 0, 1])),
        ("images", lambda: plots.interpolations(pixels[None])),
        ("images", lambda: plots.supports(pixels, uniform(3, 7, 5))),
        ("image", lambda: plots.parse_tree(tree, pixels[0])),
    ):
        expected = f"between 0 and 1, such as {name} / 255.*dtype {received}"
        with pytest.raises(ValueError, match=expected):
            draw()


@pytest.mark.parametrize("dtype", ["bool", "uint8", "float16", "float64"])
def test_images_of_every_type_of_numbers(dtype):
    images = (IMAGES > 0.5).astype(dtype)
    figure = drawn(plots.reconstructions(images, images.tolist()))
    for axis in figure.axes[0], figure.axes[3]:
        np.testing.assert_array_equal(images_of(axis)[0], images[0, ..., 0])


def test_it_is_imported_without_matplotlib():
    code = (
        "import sys; sys.modules['matplotlib'] = None; "
        "import keras_capsules.plots"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_pyplot_shows_nothing():
    from matplotlib import pyplot

    plots.reconstructions(IMAGES, IMAGES)
    assert pyplot.get_fignums() == []
