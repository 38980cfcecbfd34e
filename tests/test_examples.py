import contextlib
import importlib.util
import io
import json
import pathlib
import re
import shutil
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_capsules
from keras_capsules import datasets
from tests.helpers.testing import QUICK
from tests.helpers.testing import on_one_backend

pytestmark = [
    pytest.mark.usefixtures("optimized"),
    pytest.mark.skipif(
        keras.backend.backend() == "torch",
        reason="Keras makes no SavedModels of PyTorch models",
    ),
]

EXAMPLES = pathlib.Path(__file__).parents[1] / "examples"
WRITTEN = {
    "reconstructions.png",
    "capsnet.keras",
    "saved_model",
    "results.json",
}


def load_example(name):
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def quickstart(optimized):
    return load_example("quickstart")


@pytest.fixture(autouse=True)
def dtype_policy():
    """The quickstart sets it for the whole process, which is its own."""
    yield
    keras.config.set_dtype_policy("float32")


@pytest.fixture(scope="module")
def digits(quickstart, tmp_path_factory):
    """The files of one epoch on all the digits, and the printed text."""
    output = tmp_path_factory.mktemp("quickstart")
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        quickstart.main(["--epochs", "1", "--output", str(output)])
    return output / "digits", printed.getvalue()


def run(script, *arguments, **options):
    return subprocess.run(
        [sys.executable, str(EXAMPLES / script), *map(str, arguments)],
        capture_output=True,
        text=True,
        **options,
    )


def read_results(folder):
    return json.loads((folder / "results.json").read_text())


def read_split(name, split):
    data = datasets.load(name, split)
    images, labels = data.batch(len(data)).get_single_element()
    return images.numpy(), labels.numpy()


def assert_is_a_picture(path):
    """Two rows of images in shades of grey, neither of them blank."""
    from matplotlib import image

    pixels = image.imread(path)[:, :, :3]
    height, width, _ = pixels.shape
    assert height >= 200 and width >= 600
    for row in np.split(pixels[: height // 2 * 2], 2):
        grey = row.max(axis=-1) - row.min(axis=-1) < 0.02
        shades = row[grey][:, 0]
        assert len(np.unique(shades.round(2))) > 20
        # More than the thin strokes of text and frames.
        assert np.mean(shades < 0.9) > 0.2


# examples/quickstart.py


def test_quickstart_writes_what_it_says(quickstart, digits):
    folder, printed = digits
    assert {path.name for path in folder.iterdir()} >= WRITTEN
    for name in WRITTEN:
        assert name in quickstart.__doc__
        assert str(folder / name) in printed
    assert_is_a_picture(folder / "reconstructions.png")


def test_quickstart_results(digits):
    folder, printed = digits
    results = read_results(folder)
    assert results["dataset"] == "digits"
    assert results["epochs"] == 1
    assert results["seed"] == 1
    assert results["dtype"] == "float32"
    assert results["reloaded_difference"] <= 1e-5
    assert results["seconds"] > 0
    assert results["keras_capsules"] == keras_capsules.__version__
    assert results["keras"] == keras.__version__
    assert results["backend"] == keras.backend.backend()
    # One epoch is far from the end, but guessing is right for 10 %.
    assert 0.5 < results["test_accuracy"] <= 1
    assert 0 < results["test_reconstruction_error"] < 0.25
    assert f"{results['test_accuracy']:.2%}" in printed


@pytest.mark.slow
def test_quickstart_models_are_the_measured_one(digits, tmp_path):
    folder, _ = digits
    results = read_results(folder)
    images, labels = read_split("digits", "test")
    model = keras.saving.load_model(folder / "capsnet.keras")
    logs = model.evaluate(images, labels, return_dict=True, verbose=0)
    assert float(logs["accuracy"]) == pytest.approx(
        results["test_accuracy"], abs=1e-4
    )
    assert float(logs["reconstruction_error"]) == pytest.approx(
        results["test_reconstruction_error"], rel=1e-3
    )
    served = tf.saved_model.load(folder / "saved_model")
    np.testing.assert_allclose(
        served.reconstruct(images[:5]),
        model.reconstruct(images[:5]),
        atol=1e-5,
    )
    # examples/serve.py
    np.save(tmp_path / "images.npy", images)
    finished = run(
        "serve.py",
        folder / "saved_model",
        tmp_path / "images.npy",
        tmp_path / "scores.npy",
    )
    assert finished.returncode == 0, finished.stderr
    np.testing.assert_allclose(
        np.load(tmp_path / "scores.npy"),
        model.predict(images, verbose=0),
        atol=1e-5,
    )


@pytest.mark.slow
@on_one_backend
def test_quickstart_takes_options(quickstart, tmp_path, monkeypatch):
    """The paper's network for MNIST, on noise in the place of MNIST."""
    asked = []

    def load(name, split="train", *, image_size=None, data_dir=None):
        asked.append((name, split, tuple(image_size), data_dir))
        size = 11 if split.startswith("train") else 10
        generator = np.random.default_rng(size)
        images = generator.uniform(size=(size, 28, 28, 1)).astype("float32")
        labels = generator.integers(0, 10, size, "int32")
        return tf.data.Dataset.from_tensor_slices((images, labels))

    monkeypatch.setattr(datasets, "load", load)
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        quickstart.main(
            [
                "--dataset=mnist",
                "--epochs=2",
                "--batch-size=8",
                "--seed=7",
                "--dtype=mixed_bfloat16",
                f"--data-dir={tmp_path / 'data'}",
                f"--output={tmp_path / 'deep' / 'output'}",
            ]
        )
    # The parameters of network and decoder together.
    assert "8,215,728" in printed.getvalue()
    assert {(name, size) for name, _, size, _ in asked} == {("mnist", (28, 28))}
    assert {split for _, split, _, _ in asked} == {
        "train[:90%]",
        "validation",
        "test",
    }
    assert {folder for _, _, _, folder in asked} == {str(tmp_path / "data")}
    folder = tmp_path / "deep" / "output" / "mnist"
    assert {path.name for path in folder.iterdir()} >= WRITTEN
    assert_is_a_picture(folder / "reconstructions.png")
    results = read_results(folder)
    assert results["dataset"] == "mnist"
    assert results["epochs"] == 2
    assert results["seed"] == 7
    assert results["dtype"] == "mixed_bfloat16"
    assert results["batch_size"] == 8


@pytest.mark.slow
@on_one_backend
def test_quickstart_raises_if_the_reloaded_scores_differ(
    quickstart, digits, tmp_path, monkeypatch
):
    # Over the results of an earlier run, which it may replace.
    shutil.copytree(digits[0], tmp_path / "digits")
    load, export = datasets.load, keras_capsules.export_saved_model
    exported = []

    def export_another(model, path, **options):
        weights = model.get_weights()
        model.set_weights([1.1 * weight for weight in weights])
        exported.append(export(model, path, **options))
        model.set_weights(weights)

    monkeypatch.setattr(
        datasets, "load", lambda *args, **kwargs: load(*args, **kwargs).take(32)
    )
    # The untrained network will do.
    monkeypatch.setattr(
        keras_capsules.models.CapsNet, "fit", lambda *_, **__: 0
    )
    monkeypatch.setattr(keras_capsules, "export_saved_model", export_another)
    with pytest.raises(RuntimeError, match="differ"):
        quickstart.main(["--epochs", "1", "--output", str(tmp_path)])
    assert exported == [str(tmp_path / "digits" / "saved_model")]


def test_quickstart_rejects_unknown_data_sets(quickstart, capsys):
    with pytest.raises(SystemExit):
        quickstart.main(["--dataset", "imagenet"])
    assert "digits" in capsys.readouterr().err


# examples/sequential.py


@pytest.mark.slow
@on_one_backend
def test_sequential(tmp_path):
    finished = run("sequential.py", cwd=tmp_path)
    assert finished.returncode == 0, finished.stderr
    served = tf.saved_model.load(tmp_path / "outputs" / "sequential")
    images, labels = read_split("digits", "test")
    guesses = np.argmax(served.serve(images), axis=-1)
    assert np.mean(guesses == labels) > 0.9


@pytest.fixture
def quick(monkeypatch):
    """Models are compiled in the way that is ready soonest."""
    compile_model = keras.Model.compile
    # Where Keras defines it: a method of `Model` would pass for a user's.
    owner = next(c for c in keras.Model.__mro__ if "compile" in vars(c))
    monkeypatch.setattr(
        owner,
        "compile",
        lambda *args, **options: compile_model(*args, **{**options, **QUICK}),
    )


def run_in_process(module, *arguments):
    """What the example printed."""
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        module.main([*map(str, arguments)])
    return printed.getvalue()


def find_number(pattern, printed):
    """The number that follows a pattern in what was printed."""
    return float(re.search(rf"{pattern}\s*([\d.e-]*\d)", printed)[1])


def test_no_example_hides_a_module_of_python():
    """The folder of a script that runs is the first to import from."""
    names = {path.stem for path in EXAMPLES.glob("*.py")}
    assert not names & sys.stdlib_module_names


# examples/text.py


@pytest.mark.slow
def test_text():
    printed = run_in_process(load_example("text"), "--epochs=1", "--reviews=99")
    assert 0 <= find_number("the right complaints:", printed) <= 100
    assert find_number("the scores differ by", printed) < 1e-5


def test_text_labels_are_the_complaints():
    text = load_example("text")
    reviews, labels = text.make_reviews(np.random.default_rng(0), 200)
    assert len({len(review.split()) for review in reviews}) > 10
    for review, label in zip(reviews, labels, strict=True):
        complaints = {
            subject
            for clause in review.split(" and ")
            for subject in text.COMPLAINTS
            if subject in clause.split()
            and any(word in text.BAD for word in clause.split())
            != ("not" in clause.split())
        }
        expected = np.isin(text.COMPLAINTS, sorted(complaints))
        np.testing.assert_array_equal(label, expected)


# examples/signals.py


@pytest.mark.slow
def test_signals(quick):
    signals = load_example("signals")
    printed = run_in_process(signals, "--epochs=1", "--signals=99")
    assert 0 <= find_number("Test accuracy:", printed) <= 100
    for shape in signals.SHAPES:
        assert f"  {shape}" in printed


def test_signals_hold_a_shape_in_noise():
    signals = load_example("signals")
    x, labels = signals.make_signals(np.random.default_rng(0), 200)
    assert x.shape == (200, signals.LENGTH, 1)
    assert set(labels) == {0, 1, 2, 3}
    # Noise has a deviation of 0.3.
    assert (x.std(axis=(1, 2)) > 0.35).mean() > 0.9
    for shape in signals.SHAPES:
        wave = signals.make_wave(np.random.default_rng(0), shape, 80)
        assert wave.shape == (80,) and 0.9 < np.abs(wave).max() <= 1


# examples/segmentation.py


@pytest.mark.slow
@on_one_backend
def test_segmentation(quick, tmp_path, monkeypatch):
    segmentation = load_example("segmentation")
    monkeypatch.setattr(segmentation, "SIZE", 12)
    printed = run_in_process(
        segmentation, "--epochs=1", "--images=40", "--output", tmp_path
    )
    assert 0 <= find_number("this network", printed) <= 1
    # All pixels of discs, and others of lines.
    assert 0.3 < find_number("all bright pixels", printed) < 0.9
    assert (tmp_path / "predictions.png").stat().st_size > 10_000


def test_segmentation_masks_are_the_discs():
    segmentation = load_example("segmentation")
    images, masks = segmentation.make_images(np.random.default_rng(0), 50)
    images = images[..., 0]
    assert abs(images[masks == 1].mean() - 1) < 0.05
    assert 0.1 < masks.mean() < 0.4
    assert segmentation.iou(masks > 0.5, masks) == 1
    assert segmentation.iou(masks < 0.5, masks) == 0


# examples/own_backbone.py


@pytest.mark.slow
@on_one_backend
def test_own_backbone(quick, tmp_path):
    example = load_example("own_backbone")
    printed = run_in_process(
        example,
        "--epochs=1",
        "--steps=2",
        "--batch-size=4",
        "--output",
        tmp_path,
    )
    assert find_number("scores differ by", printed) < 1e-5
    images = np.random.default_rng(0).uniform(size=(2, *example.SHAPE))
    images = images.astype("float32")
    model = keras.saving.load_model(tmp_path / "network.keras")
    served = tf.saved_model.load(tmp_path / "saved_model")
    scores = model.predict(images, verbose=0)
    np.testing.assert_allclose(served.serve(images), scores, atol=1e-5)
    assert model.reconstruct(images).shape == images.shape


@on_one_backend
def test_own_backbone_lists_its_data_sets(capsys):
    example = load_example("own_backbone")
    for name in example.DATASETS:
        assert datasets.info(name).image_shape[-1] in (1, 3)
    with pytest.raises(SystemExit):
        example.main(["--dataset", "imagenet"])
    assert "cifar10" in capsys.readouterr().err


# What they write.

WRITERS = ["quickstart", "own_backbone", "segmentation"]


@pytest.mark.parametrize("name", WRITERS)
def test_a_folder_that_takes_no_files_is_noticed_first(
    name, tmp_path, monkeypatch
):
    def fit(*arguments, **options):
        raise AssertionError("trained for nothing")

    monkeypatch.setattr(keras.Model, "fit", fit)
    (tmp_path / "file").write_text("dear")
    with pytest.raises(OSError):
        load_example(name).main(["--output", str(tmp_path / "file" / "below")])
    assert (tmp_path / "file").read_text() == "dear"


@pytest.mark.slow
@on_one_backend
def test_pictures_of_a_trained_network(tmp_path, capsys):
    try:
        datasets.load_arrays("mnist", "test")
    except ConnectionError as error:
        pytest.skip(str(error))
    example = load_example("inspect_model")
    example.main(["--images", "400", "--output", str(tmp_path)])
    written = {path.stem for path in tmp_path.glob("*.png")}
    assert written == set(re.findall(r"`(\w+).png`", example.__doc__))
    assert capsys.readouterr().out.count("\n") == len(written)  # no problem
    with pytest.raises(ValueError, match="at least 300.*images=299"):
        example.main(["--images", "299"])


def test_curves_are_of_the_network_that_is_inspected():
    example = load_example("inspect_model")
    curves = example.curves(example.record())
    # Other networks with weights of the same name reconstruct nothing.
    assert {"loss", "accuracy", "reconstruction_error"} <= set(curves)


def test_all_that_they_write_is_whole_or_not_there():
    """Nothing is written to its place directly; see `files.replacing`."""
    # `model.export` of sequential.py is Keras's own.
    writing = re.compile(r"\.save\(|savefig\(|write_\w+\(|open\(")
    for path in EXAMPLES.glob("*.py"):
        lines = path.read_text().splitlines()
        for number, line in enumerate(lines):
            if writing.search(line) and "scratch" not in line:
                before = "".join(lines[max(0, number - 8) : number + 1])
                assert (
                    "replacing(" in before
                    or "partial" in before
                    or ("TemporaryDirectory" in before)
                ), f"{path.name}, line {number + 1}"
