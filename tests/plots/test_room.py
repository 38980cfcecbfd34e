"""There is room for all texts, however long, and all numbers are seen."""

import itertools

import numpy as np
import pytest
from matplotlib.text import Text

from keras_capsules import plots
from keras_capsules.inspection import Equivariance
from keras_capsules.inspection import Health
from keras_capsules.inspection import LayerHealth
from keras_capsules.inspection import Part
from keras_capsules.plots import texts

GENERATOR = np.random.default_rng(3)
LONG = "a class with a name that is much longer than its place"
WORD = "Supercalifragilisticexpialidocious_without_spaces"


def uniform(*shape):
    return GENERATOR.uniform(size=shape).astype("float32")


def legible(figure):
    """The figure, after all texts were found within it, and side by side."""
    for dpi in (70, 100):
        figure.set_dpi(dpi)
        figure.draw_without_rendering()
        boxes = {each: each.get_window_extent() for each in seen(figure)}
        boxes |= {each: each.get_window_extent() for each in figure.legends}
        for each, box in boxes.items():
            assert box.x0 >= 0 and box.y0 >= 0, each
            assert box.x1 <= figure.bbox.x1 and box.y1 <= figure.bbox.y1, each
        pairs = itertools.combinations(set(boxes) - set(figure.legends), 2)
        for one, other in pairs:
            a, b = boxes[one], boxes[other]
            beside = a.x1 < b.x0 or b.x1 < a.x0
            assert beside or a.y1 < b.y0 or b.y1 < a.y0, (one, other)
    return figure


def seen(figure):
    """The texts that a figure shows: of ticks, those at places in sight."""
    ticks, in_sight = set(), set()
    for axis in itertools.chain.from_iterable(
        (each, *each.child_axes) for each in figure.axes
    ):
        for each in (axis.xaxis, axis.yaxis):
            labels = each.get_ticklabels()
            ticks.update(labels)
            low, high = sorted(each.get_view_interval())
            if axis.axison:
                in_sight.update(
                    label
                    for label, place in zip(
                        labels, each.get_ticklocs(), strict=True
                    )
                    if low <= place <= high
                )
    return [
        each
        for each in figure.findobj(Text)
        if each.get_text()
        and each.get_visible()
        and (each not in ticks or each in in_sight)
    ]


def found(r2):
    return Equivariance(r2, r2 - 0.1, r2 + 0.05, np.zeros(3), np.zeros(3))


def layer_health(name, number, activation=None, **others):
    values = {
        "name": name,
        "activation": uniform(number) if activation is None else activation,
        "norm": (0.1, 0.5, 0.9),
        "dead": np.zeros(number, bool),
        "coupling": uniform(3),
        "entropy": 0.25,
    }
    return LayerHealth(**{**values, **others})


# Texts.


@pytest.mark.parametrize("text", [LONG, WORD, "", " ", "W" * 40, 7])
def test_fitted(text):
    lines = texts.fitted(text, 1.0)
    assert texts.size_of(lines)[0] <= 1.0
    assert "".join(lines.split()) == "".join(str(text).split())
    # What has room stays as it is.
    assert texts.fitted(text, 9.0) == str(text)
    # A letter is not divided.
    assert texts.fitted("ab", 0.001) == "a\nb"


# Charts.


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("classes", [1, 2, 10, 20])
@pytest.mark.parametrize("name", [LONG, WORD, "cat", ""])
def test_confusion(name, classes, normalize):
    labels = np.arange(3 * classes) % classes
    predictions = np.where(labels == 1, 0, labels)
    names = [f"{name}{number}" for number in range(classes)]
    figure = plots.confusion(labels, predictions, names, normalize)
    axis = legible(figure).axes[0]
    shown = [each.get_text() for each in axis.get_yticklabels()]
    assert ["".join(each.split()) for each in shown] == [
        "".join(each.split()) for each in names
    ]


def test_confusion_of_many_images():
    labels = np.repeat(np.arange(10), 10 * 10**5)
    predictions = np.tile(np.arange(10), 10 * 10**5)
    (axis, _) = legible(plots.confusion(labels, predictions)).axes
    assert {each.get_text() for each in axis.texts} == {"100000"}


@pytest.mark.parametrize("runs", [1, 2, 9])
@pytest.mark.parametrize("name", [LONG, WORD, "run"])
def test_training_curves_of_runs(name, runs):
    history = {"loss": [0.5, 0.3], "val_loss": [0.3, 0.2]}
    figure = plots.training_curves(
        {f"{name} {number}": history for number in range(runs)}
    )
    axis = legible(figure).axes[0]
    (legend,) = figure.legends
    assert len(legend.texts) == 2 * runs
    assert axis.get_window_extent().height / figure.dpi > 1.5
    # Each line looks like no other.
    looks = {
        (line.get_color(), line.get_linestyle(), line.get_marker())
        for line in axis.get_lines()
    }
    assert len(looks) == 2 * runs


@pytest.mark.parametrize("metrics", [1, 7])
def test_training_curves_of_metrics(metrics):
    name = "primary_capsules_with_a_long_name_{}_mean_of_all_activations"
    figure = plots.training_curves(
        {name.format(number): [0.5, 0.3] for number in range(metrics)}
    )
    axis = legible(figure).axes[0]
    assert axis.get_ylabel().replace("\n", " ") == (
        name.format(0).replace("_", " ")
    )


@pytest.mark.parametrize("networks", [1, 4, 9])
@pytest.mark.parametrize("factors", [1, 5])
@pytest.mark.parametrize("name", [LONG, WORD, "x"])
def test_equivariance(name, factors, networks):
    figure = plots.equivariance(
        {
            f"{name} {network}": {
                f"{name} {factor}": found(0.9 - 0.1 * network)
                for factor in range(factors)
            }
            for network in range(networks)
        },
        name,
    )
    axis = legible(figure).axes[0]
    assert axis.get_window_extent().height / figure.dpi > 2
    # The bars of each network look like those of no other.
    looks = {(bar.get_facecolor(), bar.get_hatch()) for bar in axis.patches}
    assert len(looks) == networks


# Images.


@pytest.mark.parametrize("number", [1, 4])
@pytest.mark.parametrize("name", [LONG, LONG + LONG, WORD, "W" * 20])
def test_images(name, number):
    images = uniform(number, 7, 5, 1)
    names = [name] * number
    rows = {f"{name}{row}": images for row in range(3)}
    legible(plots.reconstructions(images, rows, names))
    legible(plots.supports(images, images[..., 0], names))
    ways = uniform(number, 10, 7, 5, 1)
    legible(plots.interpolations(ways, names))
    tree = Part("classes", (4,), 0.9, 1.0, None, ())
    legible(plots.parse_tree(tree, images[0], name))


@pytest.mark.parametrize("dimensions", [1, 2, 16])
@pytest.mark.parametrize("values", [1, 11])
def test_perturbations(values, dimensions):
    images = uniform(dimensions, values, 7, 5, 1)
    added = np.linspace(-1.2345e-7, 1.2345e10, values)
    legible(plots.perturbations(images, added))
    names = [LONG] * dimensions
    legible(plots.perturbations(images, added, names))


@pytest.mark.parametrize("number", [1, 3, 20])
def test_rows_of_supports_are_below_each_other(number):
    images = uniform(number, 7, 5, 1)
    figure = plots.supports(images, images[..., 0])
    figure.draw_without_rendering()
    places = [axis.get_position() for axis in figure.axes[: 2 * number]]
    above, below = places[:number], places[number:]
    np.testing.assert_allclose(
        [place.intervalx for place in above],
        [place.intervalx for place in below],
    )


def test_a_reconstruction_may_have_the_name_of_the_images():
    images, others = uniform(1, 7, 5, 1), uniform(1, 7, 5, 1)
    figure = plots.reconstructions(images, {"image": others})
    shown = [axis.get_images()[0].get_array() for axis in figure.axes]
    np.testing.assert_array_equal(shown, [images[0, ..., 0], others[0, ..., 0]])


# Health.


def test_health():
    layers = (
        layer_health(WORD * 2, 20, coupling=None),
        layer_health("stack/layer", 1),
        layer_health(LONG, 3, np.full(3, np.nan)),
    )
    legible(plots.health(Health(layers, ())))


def ticks_of(axis):
    """The ticks in sight."""
    low, high = axis.get_xlim()
    return [each for each in axis.get_xticks() if low <= each <= high]


def test_one_capsule_has_one_tick():
    health = Health((layer_health("one", 1, coupling=uniform(1)),), ())
    for axis in plots.health(health).axes:
        assert ticks_of(axis) == [0]


def test_one_epoch_has_one_tick():
    (axis,) = plots.training_curves({"loss": [0.5]}).axes
    assert ticks_of(axis) == [1]


def test_layers_without_activations_say_why():
    nothing = np.full(9, np.nan)
    layers = (
        layer_health("poses", 9, nothing, dead=np.arange(9) >= 6),
        layer_health("broken", 9, nothing, norm=[np.nan] * 3, coupling=nothing),
    )
    figure = legible(plots.health(Health(layers, ())))
    poses, _, broken, couplings = figure.axes
    says = [
        axis.texts[0].get_text().replace("\n", " ")
        for axis in (poses, broken, couplings)
    ]
    assert says == [
        "This layer makes poses without activations. Their lengths are from "
        "0.1 to 0.9.",
        "The activations are not numbers.",
        "The couplings are not numbers.",
    ]
    for axis in poses, broken, couplings:
        assert axis.get_ylabel() == ""
        # All capsules are in sight, not only those that are dead.
        assert axis.get_xlim() == (-0.6, 8.6)


# Figures that are not finite.


def test_figures_next_to_nan_are_seen():
    history = {"loss": [0.5, np.nan, 0.2, 0.1, np.inf, 0.3]}
    figure = legible(plots.training_curves(history))
    curve, crosses = figure.axes[0].get_lines()
    # The last two of these are joined, the others are dots.
    np.testing.assert_array_equal(
        curve.get_ydata(), [0.5, np.nan, 0.2, 0.1, np.nan, 0.3]
    )
    assert curve.get_marker() == "o" and curve.get_markevery() == [0, 5]
    assert list(crosses.get_xdata()) == [2, 5]
    assert crosses.get_marker() == "x"
    said = [text.get_text() for text in figure.legends[0].texts]
    assert said == ["training", "not a finite number"]


def test_figures_of_a_run_that_failed_from_the_first_epoch_on():
    history = {"loss": [np.nan] * 3, "val_loss": [np.nan] * 3}
    figure = legible(plots.training_curves({"run": history, "other": history}))
    (axis,) = figure.axes
    assert list(axis.get_yticks()) == []
    crosses = [line for line in axis.get_lines() if line.get_marker() == "x"]
    assert len(crosses) == 4
    said = [text.get_text() for text in figure.legends[0].texts]
    assert said[-1] == "not a finite number" and len(said) == 5


def test_dots_are_drawn():
    """A figure between two that are not finite leaves its mark."""

    def ink(figure):
        from matplotlib.backends.backend_agg import FigureCanvasAgg

        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        pixels = np.asarray(canvas.buffer_rgba())[..., :3].astype(int)
        return (np.abs(pixels - [0, 0x72, 0xB2]).sum(axis=-1) < 30).sum()

    figure = plots.training_curves({"loss": [0.5, np.nan, 0.2]})
    before = ink(figure)
    curve = figure.axes[0].get_lines()[0]
    curve.set_visible(False)
    assert before > ink(figure) + 20


def test_a_network_whose_figure_is_nan_says_so():
    figure = plots.equivariance({"a": {"x": found(np.nan), "y": found(0.5)}})
    (text,) = legible(figure).axes[0].texts
    assert text.get_text().strip() == "NaN" and text.get_position()[0] == 0


def test_finite_support_next_to_nan_is_seen():
    maps = np.array([[[1, 2], [np.nan, 4]]])
    figure = plots.supports(uniform(1, 2, 2, 1), maps)
    shown = figure.axes[1].get_images()[1].get_array()
    np.testing.assert_allclose(
        np.ma.filled(shown, np.nan), [[0.25, 0.5], [np.nan, 1]]
    )
