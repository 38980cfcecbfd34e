"""Every command, on images that are made up."""

import json
import shutil
import socket
import zipfile

import keras
import numpy as np
import pytest
from PIL import Image

from keras_capsules import datasets
from keras_capsules.models import pretrained
from keras_capsules.training import images
from keras_capsules.training import running
from keras_capsules.training.records import PROGRESS
from tests.cli.conftest import SIZE
from tests.cli.conftest import make_folder
from tests.cli.conftest import run
from tests.cli.conftest import training
from tests.helpers.datasets import real_data_dir
from tests.helpers.testing import BACKEND
from tests.helpers.testing import import_or_skip
from tests.helpers.testing import on_one_backend

not_on_torch = pytest.mark.skipif(
    BACKEND == "torch", reason="Keras makes no SavedModels of PyTorch models"
)


def refused(message, *arguments):
    """Asserts that the command says one sentence, and exits with 2."""
    code, _, errors = run(*arguments)
    assert code == 2, errors
    lines = errors.strip().splitlines()
    assert lines[-1].startswith(f"keras-capsules {arguments[0]}: ")
    assert message in lines[-1]
    assert "Traceback" not in errors


def prediction(folder, path, *further):
    code, printed, errors = run("predict", folder, path, "--json", *further)
    assert code == 0, errors
    (found,) = json.loads(printed)
    return found


# train


def test_a_run_has_its_class_names(trained, photos):
    folder, printed = trained
    assert "bars: epoch " in printed and "validation error 0.00 %" in printed
    assert printed.strip().endswith(str(folder / "record.json"))
    record = json.loads((folder / "record.json").read_text())
    assert record["class_names"] == ["lying", "upright"]
    assert record["settings"]["image_size"] == list(SIZE)
    assert record["settings"]["color_mode"] == "grayscale"
    assert record["task"] == str(photos)
    assert record["command"].startswith(
        f"keras-capsules train efficient_capsnet {photos} --image-size 13x11 "
    )
    assert "--output" not in record["command"]


def test_a_run_s_network_is_that_of_its_weights(trained, photos):
    folder, _ = trained
    model = keras.saving.load_model(folder / running.MODEL)
    assert not model.compiled  # without the state of an optimizer
    x = images.read_all([*photos.glob("*/1.png")], (*SIZE, 1))
    scores = model.predict(x, verbose=0)
    assert x.shape == (2, *SIZE, 1)
    model.set_weights([np.zeros(each.shape) for each in model.weights])
    model.load_weights(folder / running.WEIGHTS)
    np.testing.assert_array_equal(scores, model.predict(x, verbose=0))


def test_the_same_command_again_goes_on(trained, photos, tmp_path):
    folder, _ = trained
    shutil.copytree(folder, tmp_path / "bars")
    (tmp_path / "bars" / running.MODEL).unlink()
    refused("not the folder of a complete run", "evaluate", tmp_path / "bars")
    code, printed, errors = run(*training(photos, tmp_path))
    assert code == 0, errors
    assert "Epoch" not in printed  # all were done
    assert (tmp_path / "bars" / running.MODEL).is_file()
    refused(
        f"in {tmp_path / 'bars'}: remove it, or choose another folder. "
        "Expected seed=0. Received: seed=3",
        *training(photos, tmp_path, "--seed", 3),
    )


@on_one_backend
def test_a_folder_that_changed(trained, photos, tmp_path):
    folder, _ = trained
    changed = tmp_path / "photos"
    shutil.copytree(photos, changed)
    record = json.loads((folder / running.RECORD).read_text())
    record["settings"]["task"] = str(changed)
    shutil.copytree(folder, tmp_path / "bars")
    (tmp_path / "bars" / running.RECORD).write_text(json.dumps(record))
    path = tmp_path / "bars" / PROGRESS
    progress = json.loads(path.read_text())
    path.write_text(json.dumps({**progress, "settings": record["settings"]}))
    code, printed, errors = run("evaluate", tmp_path / "bars")
    assert code == 0, errors
    assert "that were not trained on" in printed
    # What systems leave behind does not count.
    (changed / "__MACOSX").mkdir()
    shutil.copy(changed / "lying" / "3.png", changed / "lying" / "._3.png")
    (changed / "lying" / ".cache").mkdir()
    shutil.copy(changed / "lying" / "3.png", changed / "lying" / ".cache")
    code, again, errors = run("evaluate", tmp_path / "bars")
    assert code == 0, errors
    assert again.splitlines()[-3:] == printed.splitlines()[-3:]
    shutil.copy(changed / "lying" / "3.png", changed / "lying" / "99.png")
    refused("has changed since then", "evaluate", tmp_path / "bars")
    refused("Expected files=", *training(changed, tmp_path))
    changed.rename(tmp_path / "elsewhere")
    refused("is not here", "evaluate", tmp_path / "bars")


@on_one_backend
def test_a_training_that_diverges_is_an_error(photos, tmp_path):
    command = training(photos, tmp_path, "--learning-rate", 1e30)
    for _ in range(2):
        refused("Training diverged in epoch 1, which is not kept", *command)
    assert not (tmp_path / "bars" / running.RECORD).exists()
    assert not [*(tmp_path / "bars").glob("weights-*")]


@on_one_backend
def test_trainings_that_are_refused(photos, tmp_path):
    refused(
        "There is no such task. Expected one of digits, mnist",
        *("train", "capsnet", tmp_path / "none", "--output", tmp_path),
    )
    refused(
        "none to test on. Expected test=False",
        *training(photos, tmp_path, "--test"),
    )
    refused(
        "COIL-20 is not downloaded. Expected the path",
        *("train", "conv_net", "coil20", "--no-validation"),
        *("--output", tmp_path),
    )
    refused("dtype='float99'", *training(photos, tmp_path, "--dtype=float99"))
    refused("warmup=7.0", *training(photos, tmp_path, "--warmup", 7))
    refused("noise=-1.0", *training(photos, tmp_path, "--noise=-1"))
    refused("at most 34", *training(photos, tmp_path, "--batch-size=100"))
    wrong = ["--options", '{"filters": 0}']
    refused("`filters`", *training(photos, tmp_path, *wrong))
    (tmp_path / "file").touch()
    refused("Nothing can be written", *training(photos, tmp_path / "file"))
    one = tmp_path / "one" / "class"
    one.mkdir(parents=True)
    refused("Expected a folder with one subf", *training(one, tmp_path))
    refused("with no images in class", *training(one.parent, tmp_path))
    shutil.copy(next(photos.glob("*/3.png")), one)
    refused("Expected at least 2 subfolders", *training(one.parent, tmp_path))
    (one.parent / "other").mkdir()
    shutil.copy(next(photos.glob("*/3.png")), one.parent / "other")
    refused("Received: 1 image of 'class'", *training(one.parent, tmp_path))
    (one / "broken.jpg").write_text("no image")
    refused("broken.jpg", *training(one.parent, tmp_path))


@on_one_backend
@pytest.mark.parametrize("further", [["--seed=-1"], ["--batch-size=100"], []])
def test_a_refused_training_leaves_no_empty_folder(photos, tmp_path, further):
    """Whether settings do not fit, or images, or the network."""
    output = tmp_path / "some" / "where"
    data = photos if further else make_folder(tmp_path / "data", 3)
    if not further:
        shutil.rmtree(data / "lying")
    refused("Received: ", *training(data, output, *further))
    assert not (tmp_path / "some").exists()
    # What was there before remains.
    (output / "bars").mkdir(parents=True)
    refused("Received: ", *training(data, output, *further))
    assert [*output.rglob("*")] == [output / "bars"]
    too_long = output / "new" / ("x" * 300)
    refused("Nothing can be written", *training(photos, too_long))
    assert [*output.iterdir()] == [output / "bars"]


@on_one_backend
def test_a_folder_with_the_name_of_a_data_set(photos, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(photos, "mnist")
    small = ["--options", '{"filters": [3], "units": [5]}', "--epochs", 1]
    for path in ("./mnist", "mnist/"):
        code, printed, errors = run(
            *("train", "conv_net", path, *small, "--batch-size", 9)
        )
        assert code == 0, errors
        assert printed.splitlines()[-1].endswith("conv_net-mnist/record.json")
        record = json.loads((tmp_path / printed.splitlines()[-1]).read_text())
        assert record["class_names"] == ["lying", "upright"]
        assert record["settings"]["task"] == "./mnist"
    code, printed, errors = run("evaluate", "outputs/train/conv_net-mnist")
    assert code == 0, errors
    assert "of 4 images that were not trained on" in printed


@on_one_backend
def test_a_named_data_set_is_tested(tmp_path):
    options = '{"filters": [3], "units": [5]}'
    code, printed, errors = run(
        *("train", "conv_net", "digits", "--options", options, "--test"),
        *("--epochs", 1, "--per-class", 11, "--batch-size", 37),
        *("--dtype", "mixed_bfloat16", "--output", tmp_path),
    )
    assert code == 0, errors
    assert keras.config.dtype_policy().name == "float32"  # as it was
    folder = tmp_path / "conv_net-digits"
    record = json.loads((folder / "record.json").read_text())
    assert record["class_names"] == list("0123456789")
    assert "image_size" not in record["settings"]
    assert f"test error {record['test_error']:.2f} %" in printed
    model = keras.saving.load_model(folder / running.MODEL)
    assert model.dtype_policy.name == "mixed_bfloat16"
    code, printed, errors = run("evaluate", folder)
    assert code == 0, errors
    assert f"{record['test_error']:.2f} % of 360 test images wrong" in printed


# evaluate


def test_evaluate_shows_the_confusion(trained, tmp_path):
    folder, _ = trained
    picture = tmp_path / "confusion.png"
    code, printed, errors = run("evaluate", folder, "--plot", picture)
    assert code == 0, errors
    assert "0.00 % of 4 images that were not trained on wrong" in printed
    table = printed.split("\n\n")[1].splitlines()
    assert [line.split() for line in table] == [
        ["right", "\\", "predicted", "1", "2"],
        ["1", "lying", "2", "0"],
        ["2", "upright", "0", "2"],
    ]
    with Image.open(picture) as drawn:
        assert drawn.width > 200


def test_evaluate_on_other_images(trained, tmp_path):
    folder, _ = trained
    data = make_folder(tmp_path / "data", 5, seed=1)
    # Three of them in the wrong place.
    for name in "012":
        (data / "lying" / f"{name}.png").rename(
            data / "upright" / f"x{name}.png"
        )
    # What the network says of each, however well it has learned.
    model = keras.saving.load_model(folder / running.MODEL)
    expected = []
    for name in ("lying", "upright"):
        x = images.read_all([*(data / name).iterdir()], (*SIZE, 1))
        guesses = model.predict(x, verbose=0).argmax(axis=1)
        expected.append(np.bincount(guesses, minlength=2).tolist())
    wrong = expected[0][1] + expected[1][0]
    assert wrong >= 2
    code, printed, errors = run("evaluate", folder, "--data", data)
    assert code == 0, errors
    assert f"{10 * wrong:.2f} % of 10 images of {data} wrong" in printed
    rows = [line.split() for line in printed.splitlines()[-2:]]
    assert [[*map(int, row[2:])] for row in rows] == expected
    assert [row[:2] for row in rows] == [["1", "lying"], ["2", "upright"]]
    # A class may be missing.
    shutil.rmtree(data / "lying")
    code, printed, _ = run("evaluate", folder, "--data", data)
    assert code == 0 and "of 8 images" in printed
    (data / "upright").rename(data / "slanted")
    refused(
        "Expected subfolders lying, upright. Received: folder",
        *("evaluate", folder, "--data", data),
    )
    refused("no such folder", "evaluate", folder, "--data", tmp_path / "none")


@on_one_backend
def test_evaluations_that_are_refused(trained, tmp_path, monkeypatch):
    folder, _ = trained
    refused("no such trained network", "evaluate", tmp_path / "none")
    refused("path='table.xyz'", "evaluate", folder, "--plot", "table.xyz")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    refused("keras-capsules[plots]", "evaluate", folder, "--plot", "table.png")


@on_one_backend
@pytest.mark.filterwarnings("ignore:You are saving a model that has not yet")
def test_runs_that_are_broken(trained, tmp_path):
    folder, _ = trained
    run_folder = tmp_path / "bars"
    shutil.copytree(folder, run_folder)
    record = json.loads((folder / running.RECORD).read_text())
    for content in (
        "{",
        json.dumps({"class_names": ["a"]}),
        json.dumps({**record, "class_names": ["lying"]}),
    ):
        (run_folder / running.RECORD).write_text(content)
        refused("Expected record.json as it was", "evaluate", run_folder)
    shutil.copy(folder / running.RECORD, run_folder)
    model = run_folder / running.MODEL
    model.write_bytes(b"PK")
    refused("Expected model.keras as it was", "predict", run_folder, "a.png")
    with zipfile.ZipFile(model, "w") as file:
        file.writestr("a.txt", "a")
    refused("(There is no item named 'config", "predict", run_folder, "a.png")
    layers = [keras.layers.Flatten(), keras.layers.Dense(2)]
    keras.Sequential(layers).save(model)
    refused("before it was built", "evaluate", run_folder)


@pytest.mark.slow
@on_one_backend
def test_evaluate_named_weights():
    command = ["evaluate", "ConvNet-mnist", "--data-dir"]
    code, printed, errors = run(*command, real_data_dir("mnist"))
    assert code == 0, errors
    (card,) = (x for x in pretrained.cards() if x.stem == "ConvNet-mnist")
    assert f"{card.test_error:.2f} % of 10,000 test images wrong" in printed


# predict


def test_predict_names_what_is_in_images(trained, photos):
    folder, _ = trained
    paths = [photos / "upright" / "3.png", photos / "lying" / "3.png"]
    code, printed, errors = run("predict", folder, *paths)
    assert code == 0, errors
    lines = printed.splitlines()
    assert lines[0] == f"{paths[0]}: upright"
    assert lines[3] == f"{paths[1]}: lying"
    assert lines[1].split()[0] == "upright" and lines[2].split()[0] == "lying"
    found = prediction(folder, paths[0])
    assert list(found) == ["image", "class", "scores"]
    assert found["image"] == str(paths[0]) and found["class"] == "upright"
    assert list(found["scores"]) == ["upright", "lying"]
    # The image as training has it.
    model = keras.saving.load_model(folder / running.MODEL)
    image = images.read(paths[0], (*SIZE, 1))
    scores = model.predict(image[None], verbose=0)[0]
    np.testing.assert_allclose(
        [*found["scores"].values()], scores[::-1], atol=2e-6
    )


@on_one_backend
def test_predict_with_named_weights(tmp_path):
    x, labels = datasets.load_arrays("digits", "test[:3]", image_size=20)
    for number, image in enumerate(x):
        padded = np.pad(image[..., 0], 4)
        path = tmp_path / f"{number}.png"
        Image.fromarray((255 * padded).astype("uint8")).save(path)
    found = [
        prediction("EfficientCapsNet-mnist", tmp_path / f"{number}.png")
        for number in range(3)
    ]
    assert [int(each["class"]) for each in found] == labels.tolist()


@on_one_backend
def test_predictions_that_are_refused(trained, tmp_path):
    folder, _ = trained
    refused("No such file", "predict", folder, tmp_path / "none.png")
    (tmp_path / "text.png").write_text("text")
    refused("text.png", "predict", folder, tmp_path / "text.png")
    refused("EfficientCapsNet-mnist", "predict", "mnist", tmp_path / "a.png")


# export


@not_on_torch
def test_export_serves_the_same(trained, photos, tmp_path):
    import tensorflow as tf

    folder, _ = trained
    path = photos / "upright" / "5.png"
    destination = tmp_path / "served"
    code, printed, errors = run("export", folder, destination)
    assert code == 0, errors
    assert printed.strip().endswith(str(destination))
    served = tf.saved_model.load(destination)
    scores = served.serve(images.read(path, (*SIZE, 1))[None])
    expected = prediction(folder, path)["scores"]
    np.testing.assert_allclose(
        scores[0], [expected["lying"], expected["upright"]], atol=1e-5
    )
    refused("overwrite=True", "export", folder, destination)


@not_on_torch
def test_export_of_what_takes_files_and_names_classes(trained, tmp_path):
    import tensorflow as tf

    folder, _ = trained
    pixels = np.random.default_rng(5).integers(256, size=(17, 23, 1))
    pixels = pixels.astype("uint8")
    path = tmp_path / "grey.png"
    path.write_bytes(tf.io.encode_png(pixels).numpy())
    named = "export", folder, tmp_path / "named", "--preprocess"
    code, _, errors = run(*named, "--class-names")
    assert code == 0, errors
    served = tf.saved_model.load(tmp_path / "named")
    found = served.serve(pixels[None])
    expected = prediction(folder, path)
    (label,) = found["labels"].numpy()
    assert label.decode() == expected["class"]
    np.testing.assert_allclose(
        found["scores"][0],
        [expected["scores"][name] for name in ("lying", "upright")],
        atol=1e-5,
    )


@on_one_backend
def test_options_of_other_formats(trained, tmp_path):
    folder, _ = trained
    onnx = "export", folder, tmp_path / "bars.onnx", "--format", "onnx"
    refused("the format saved_model, or no preprocess", *onnx, "--preprocess")
    refused("the format litert", *onnx, "--quantization", "int8")
    saved = "export", folder, tmp_path / "bars"
    refused("no quantization", *saved, "--quantization", "float16")
    assert not [*tmp_path.iterdir()]


@on_one_backend
@pytest.mark.filterwarnings(
    "ignore:.*tf.lite.Interpreter is deprecated:UserWarning",
    "ignore:In the future `np.object`:FutureWarning",
)
@pytest.mark.parametrize(
    ("format", "ending", "package", "smaller"),
    [
        ("litert", ".tflite", "tensorflow", ["--quantization", "int8"]),
        ("onnx", ".onnx", "tf2onnx", []),
    ],
)
def test_other_formats(trained, tmp_path, format, ending, package, smaller):
    import_or_skip(package)
    folder, _ = trained
    path = tmp_path / f"bars{ending}"
    command = ["export", folder, path, "--format", format]
    code, _, errors = run(*command)
    assert code == 0, errors
    size = path.stat().st_size
    assert size > 1000
    refused("overwrite=True", *command)
    code, _, errors = run(*command, "--overwrite", *smaller)
    assert code == 0, errors
    assert (path.stat().st_size < size) == bool(smaller)
    assert [each.name for each in tmp_path.iterdir()] == [path.name]
    refused(f"ends in '{ending}'", *command[:2], tmp_path / "x", *command[3:])


@on_one_backend
def test_openvino(trained, tmp_path):
    openvino = pytest.importorskip("openvino")
    folder, _ = trained
    path = tmp_path / "bars.xml"
    code, _, errors = run("export", folder, path, "--format", "openvino")
    assert code == 0, errors
    names = sorted(each.name for each in tmp_path.iterdir())
    assert names == ["bars.bin", "bars.xml"]
    # Some processors would compute in 16 bits.
    exactly = {"INFERENCE_PRECISION_HINT": "f32"}
    compiled = openvino.compile_model(path, "CPU", exactly)
    model = keras.saving.load_model(folder / running.MODEL)
    x = np.random.default_rng(3).uniform(size=(2, *SIZE, 1)).astype("float32")
    found = compiled(x)[0]
    np.testing.assert_allclose(found, model.predict(x, verbose=0), atol=1e-5)


@on_one_backend
def test_exports_that_lack_a_package(trained, tmp_path, monkeypatch):
    folder, _ = trained
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    for format, ending, remedy in (
        ("onnx", ".onnx", "keras-capsules[formats]"),
        ("openvino", ".xml", "keras-capsules[formats]"),
    ):
        path = tmp_path / f"bars{ending}"
        refused(remedy, "export", folder, path, "--format", format)
    assert not [*tmp_path.iterdir()]


# explore


@on_one_backend
def test_explore_says_what_to_install(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    refused("keras-capsules[explorer]", "explore")


@on_one_backend
def test_explore_refuses_files_that_are_missing(monkeypatch, tmp_path):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: True)
    monkeypatch.setattr(pretrained, "cards", lambda: [])
    missing = tmp_path / "missing.keras"
    refused("missing.keras", "explore", "--model", missing)
    refused("no such weights", "explore", "--two-digits", missing.stem)


@on_one_backend
def test_explore_refuses_files_that_hold_no_network(monkeypatch, tmp_path):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: True)
    monkeypatch.setattr(pretrained, "cards", lambda: [])
    path = tmp_path / "other.keras"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("a.txt", "a")
    for option in ("--model", "--two-digits"):
        refused("A network cannot be loaded", "explore", option, path)
    path = tmp_path / "text.weights.h5"
    path.write_text("text")
    refused("The weights cannot be loaded", "explore", "--two-digits", path)


@on_one_backend
def test_explore_refuses_a_port_at_once(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: True)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        for port in (taken.getsockname()[1], 70000):
            refused(f"port={port}", "explore", "--port", port)


# datasets


@on_one_backend
def test_datasets_are_listed():
    code, printed, _ = run("datasets")
    assert code == 0
    rows = {line.split()[0]: line for line in printed.splitlines()}
    assert "CC BY-SA 3.0" in rows["mnist"] and "12 MB" in rows["mnist"]
    assert "60,000" in rows["mnist"] and "28 x 28 x 1" in rows["mnist"]
    assert rows["digits"].endswith("nothing")
    assert rows["multi_mnist"].endswith("made of mnist")


@on_one_backend
def test_a_data_set_is_prepared(tmp_path):
    code, printed, errors = run("datasets", "digits")
    assert code == 0, errors
    expected = "digits is there: 1,437 training images and 360 test images\n"
    assert printed == expected
    folder = real_data_dir("mnist")
    code, printed, errors = run(
        "datasets", "affine_mnist", "--data-dir", folder
    )
    assert code == 0, errors
    assert "60,000 training images" in printed and "affine_mnist" in printed
    refused("COIL-20 is not downloaded", "datasets", "coil20")
    labels, views = np.mgrid[:20, :72].reshape(2, -1)
    file = tmp_path / "coil20.npz"
    pixels = np.zeros((1440, 5, 7), "uint8")
    np.savez(file, images=pixels, labels=labels, azimuths=5 * views)
    code, printed, errors = run("datasets", "coil20", "--data-dir", file)
    assert (code, printed) == (0, "coil20 is there: 1,440 images\n"), errors
