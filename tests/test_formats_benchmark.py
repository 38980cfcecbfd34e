"""The benchmarks of formats and of serving: what they compare and write."""

import contextlib
import functools
import http.server
import importlib
import json
import pathlib
import sys
import threading
import urllib.error
import urllib.request

import keras
import numpy as np
import pytest

from keras_capsules import datasets
from keras_capsules import models
from keras_capsules.export import export_onnx
from keras_capsules.export import export_saved_model
from keras_capsules.pruning import freeze_routing
from keras_capsules.routing import FixedRouting
from keras_capsules.training.augmentation import Augmentation
from keras_capsules.training.settings import Settings
from tests.helpers.capsnet import small
from tests.helpers.testing import import_or_skip

ROOT = pathlib.Path(__file__).parents[1]
pytestmark = [
    pytest.mark.skipif(
        keras.backend.backend() != "tensorflow", reason="measures TensorFlow"
    ),
]


@pytest.fixture
def formats(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return importlib.import_module("formats")


@pytest.fixture
def serving(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return importlib.import_module("serving")


def test_every_network_and_routing_is_there(formats):
    from keras_capsules import models
    from keras_capsules import routing

    names = set(formats.UNTRAINED)
    networks = {name.split(",")[0] for name in names}
    assert networks == {
        name
        for name, each in vars(models).items()
        if isinstance(each, type) and issubclass(each, keras.Model)
    } - {"CapsuleNetwork"}
    routings = {name.split(", ")[1] for name in names if ", " in name}
    # Fixed coupling is what freezing makes of another routing.
    assert routings == {*routing.ROUTINGS, "fixed"}


NAMES = [
    "EfficientCapsNet, MNIST",
    "EfficientCapsNet, MNIST, half of the types pruned",
    "ConvNet, MNIST",
    "CapsNet, dynamic",
    "CapsNet, self_attention",
    "CapsNet, inverted_attention",
    "CapsNet, fixed",
    "MatrixCapsNet, em",
    "MatrixCapsNet, variational_bayes",
    "MatrixCapsNet, self_routing",
    "EfficientCapsNet",
    "DeepCaps",
    "InvertedAttentionCapsNet",
    "ConvNet",
    "SqueezeExcitationNet",
]


def test_these_are_all_cases(formats):
    assert [*formats.TRAINED, *formats.UNTRAINED] == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_every_case_can_be_made(formats, name, monkeypatch):
    images = np.random.default_rng(1).uniform(size=(600, 28, 28, 1))
    given = images.astype("float32"), np.arange(600) % 10
    monkeypatch.setattr(datasets, "load_arrays", lambda *_: given)
    model = {**formats.TRAINED, **formats.UNTRAINED}[name]()
    assert model.input_shape == (None, 28, 28, 1)
    assert model.output_shape == (None, 10)
    if name == "CapsNet, fixed":
        layer = model.get_layer("class_capsules")
        assert isinstance(layer.routing, FixedRouting)


UNSUPPORTED = """Traceback (most recent call last):
    raise ValueError('Unsupported Ops in the model before optimization\n' +
ValueError: Unsupported Ops in the model before optimization
Cholesky, Qr
"""


def test_what_tensorflow_js_lacks_is_a_cell(formats, monkeypatch):
    images = np.random.default_rng(1).uniform(size=(600, 28, 28, 1))
    given = images.astype("float32"), np.arange(600) % 10
    monkeypatch.setattr(datasets, "load_arrays", lambda *_: given)

    def call(*_):
        raise RuntimeError(f"tensorflowjs_converter failed:\n{UNSUPPORTED}")

    monkeypatch.setattr(formats, "_call", call)
    arguments = "ConvNet", ["TensorFlow.js"], "runtimes", 8, 0
    assert formats.measure(*arguments) == {
        "TensorFlow.js": {
            "cannot": "TensorFlow.js has no operator Cholesky, Qr"
        }
    }
    # Anything else is a fault of the environment.
    monkeypatch.setattr(sys.modules[__name__], "UNSUPPORTED", "No such file")
    with pytest.raises(RuntimeError, match="No such file"):
        formats.measure(*arguments)


def test_what_is_compared(formats):
    scores = np.eye(4, 3, dtype="float32")
    ours = scores.copy()
    ours[1] = [0.5, 0.25, 0]
    found = formats.compare((ours.ravel(), {}), scores, np.array([0, 1, 2, 1]))
    assert found == {
        "largest_difference": 0.75,
        "images": 4,
        "accuracy": 50.0,
        "accuracy_lost": 25.0,
    }
    found = formats.compare((scores.ravel(), {}), scores)
    assert found == {"largest_difference": 0.0}


def test_sizes_of_files_and_folders(formats, tmp_path):
    for name, size in (("a.xml", 2), ("a.bin", 3), ("b.tflite", 5)):
        (tmp_path / name).write_bytes(bytes(size))
    assert formats.size_of(tmp_path / "a.xml") == 5
    assert formats.size_of(tmp_path / "b.tflite") == 5
    assert formats.size_of(tmp_path) == 10


def test_a_file_runs_in_its_own_process(formats, tmp_path, monkeypatch):
    import_or_skip("onnxruntime")
    import_or_skip("tf2onnx")
    model = small(decoder_units=None)
    path = export_onnx(model, tmp_path / "model.onnx")
    images = np.random.default_rng(1).uniform(size=(11, 8, 8, 1))
    images = images.astype("float32")

    call = formats._call

    def with_this_python(command, *arguments):
        return call([sys.executable, *command[1:]], *arguments)

    monkeypatch.setattr(formats, "_call", with_this_python)
    run = functools.partial(formats.run, tmp_path, "onnx", path, images)
    scores, times = run()
    expected = model.predict(images, verbose=0)
    np.testing.assert_allclose(scores.reshape(11, 3), expected, atol=1e-5)
    assert times == {}
    _, times = run(threads=1, repeats=3)
    assert set(times) == {"1", "256"} and min(times.values()) > 0


def test_the_environment_is_checked(formats, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="Expected one that `make formats`"):
        formats.check_runtimes(tmp_path)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python").touch()
    monkeypatch.setattr(formats, "_call", lambda *_: "ModuleSpec(...)")
    with pytest.raises(ValueError, match="without keras_capsules. Received"):
        formats.check_runtimes(tmp_path)
    monkeypatch.setattr(formats, "_call", lambda *_: "None\n")
    formats.check_runtimes(tmp_path)


def test_tables(formats, tmp_path):
    text = (ROOT / "docs" / "formats.md").read_text()
    page = tmp_path / "formats.md"
    page.write_text(text)
    trained = {
        "bytes": 12_345,
        "largest_difference": 0.025,
        "accuracy_lost": -0.0,
        "latency_ms": {
            "one": {"1": 0.5, "256": 60.0},
            "default": {"1": 0.25, "256": 30.0},
        },
    }
    cases = {
        "ConvNet, MNIST": {"ONNX": trained, "LiteRT": {"cannot": "Cholesky"}},
        "ConvNet": {
            "ONNX": {"bytes": 7654, "largest_difference": 2e-7},
            "LiteRT": {"cannot": "Cholesky"},
        },
    }
    formats.render(cases, page)
    made = page.read_text()
    row = "| ConvNet, MNIST | ONNX | 12 | 0.03 | 0.0 | 0.50 | 0.25 | 60.00 |"
    assert row in made
    assert "| ConvNet, MNIST | LiteRT | cannot |" in made
    assert "| ConvNet | – | cannot | – | – | – | 2e-07 | – | – |" in made
    # With random weights, there is no accuracy to lose.
    assert "| ConvNet | ONNX | 8 | 2e-07 | – | – | – | – | – |" in made


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers the sum of the pixels, wrongly for one image."""

    def do_POST(self):
        content = self.rfile.read(int(self.headers["Content-Length"]))
        total = sum(content)
        scores = [total / 1000, 0.0]
        if total == 4:
            scores = [0.0, 0.5]
        if total == 99:
            scores = [np.nan, 0.5]
        label = str(int(np.argmax(scores)))
        answer = json.dumps({"label": label, "scores": scores}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_):
        pass


@contextlib.contextmanager
def server():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as it:
        thread = threading.Thread(target=it.serve_forever)
        thread.start()
        try:
            yield it.server_address[1]
        finally:
            it.shutdown()
            thread.join()


def test_answers_are_counted_and_compared(serving):
    pixels = np.arange(1, 6, dtype="uint8").reshape(5, 1, 1, 1)
    scores = np.stack([pixels.ravel() / 1000, np.zeros(5)], axis=-1)

    class Process:
        pid = "self"

    with server() as port:
        found = serving.ask(port, Process, pixels, scores, 3, 23)
    assert found["requests"] == 23 and found["clients"] == 3
    assert found["largest_difference"] == pytest.approx(0.5)
    assert found["other_labels"] == 4  # the fourth of five, in 23 requests
    memory = found["resident_mib"]
    assert 0 < memory["before"] <= memory["most"]


def test_scores_that_are_no_numbers_are_noticed(serving):
    pixels = np.array([1, 2, 99], "uint8").reshape(3, 1, 1, 1)
    scores = np.stack([pixels.ravel() / 1000, np.zeros(3)], axis=-1)

    class Process:
        pid = "self"

    before = threading.active_count()
    with server() as port:
        with pytest.raises(ValueError, match="numbers. Received: for image 2 "):
            serving.ask(port, Process, pixels, scores, 2, 9)
    assert threading.active_count() == before  # none reads the memory


# The server of examples/serve_http.py, in the environment of the runtimes.


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    runtimes = ROOT / ".venv-formats"
    if not (runtimes / "bin" / "uvicorn").exists():
        pytest.skip("`make .venv-formats/ready` has not been called")
    inputs = keras.Input((4, 4, 1))
    x = keras.layers.GlobalAveragePooling2D()(inputs)
    # No number for a black image.
    outputs = keras.layers.Concatenate()([x / x, 2 * x])
    path = export_saved_model(
        keras.Model(inputs, outputs),
        tmp_path_factory.mktemp("served") / "model",
        preprocess=True,
        class_names=["one", "two"],
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "benchmarks")
        patch.setenv("LARGEST_IMAGE", "5000")
        module = importlib.import_module("serving")
        with module.serving(runtimes, path) as (port, _):
            yield f"http://127.0.0.1:{port}/predict"


def post(address, pixels, shape):
    """The status and the text of an answer."""
    headers = {} if shape is None else {"Image-Shape": shape}
    request = urllib.request.Request(address, bytes(pixels), headers)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def test_images_are_served(address):
    status, text = post(address, [51] * 16, "4,4,1")
    assert status == 200
    found = json.loads(text)
    assert found["label"] == "one"
    np.testing.assert_allclose(found["scores"], [1, 0.4], atol=1e-5)


@pytest.mark.parametrize(
    ("number", "shape"),
    [
        (16, None),
        (16, ""),
        (16, "4,4"),
        (16, "4,4,1,1"),
        (16, "1,4,4,1"),
        (48, "4,4,3"),
        (16, "-1,4,1"),
        (16, "4,4,x"),
        (15, "4,4,1"),
        (0, "0,4,1"),
        (0, "4,4,1"),
    ],
)
def test_wrong_requests_are_answered_with_400(address, number, shape):
    status, text = post(address, [51] * number, shape)
    assert status == 400
    assert text.startswith("Expected an image and its shape in the header")


def test_large_bodies_are_not_read(address):
    assert post(address, bytes(4900), "70,70,1")[0] == 500  # black
    status, text = post(address, bytes(5041), "71,71,1")
    assert (status, text) == (413, "Expected at most 5000 bytes.")


def test_scores_that_are_no_numbers_are_not_served(address):
    answer = post(address, [0] * 16, "4,4,1")
    assert answer == (500, "The scores are not finite.")


def test_table_of_pruned_networks(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    pruning = importlib.import_module("pruning")
    row = {
        "capsules": 8,
        "parameters": 98765,
        "error": 0.47,
        "error_tuned": 0.4,
        "kilobytes": 146,
        "error_int8": 0.41,
        "milliseconds": 0.31,
    }
    second = {**row, "capsules": 36, "routing": "fixed", "milliseconds": 0.1}
    second["dependence"] = 0.0123
    for name, rows in (
        ("pruning", [row]),
        ("pruning-capsnet", [{**row, "routing": "dynamic"}, second]),
        ("pruning-capsnet-longer", [row]),
    ):
        path = tmp_path / f"{name}.json"
        path.write_text(json.dumps({"networks": rows}))
    page = tmp_path / "page.md"
    page.write_text(pruning.formats.PAGE.read_text())
    options = ["--redraw", f"--output={tmp_path}", f"--page={page}"]
    monkeypatch.setattr("sys.argv", ["pruning", *options])
    pruning.main()
    text = page.read_text()
    # Results from before the routing was written; nothing was fine-tuned.
    assert "| 8 | 98,765 | 0.47 | 146 | 0.41 | 0.31 | 1.0 |\n" in text
    assert "| 8 | dynamic | – | 98,765 | 0.47 | – | 146 | " in text
    assert (
        "| 36 | fixed | 0.0123 | 98,765 | 0.47 | 0.4 | 146 | 0.41 | 0.1 | 3.1 "
        "|\n"
    ) in text
    assert text.count("| dependence of the coupling |") == 1
    scores = np.eye(3)[[0, 1, 1, 2]]
    assert pruning.percent(scores, np.array([0, 1, 2, 2])) == 25.0


def test_networks_whose_pruning_is_measured(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    pruning = importlib.import_module("pruning")
    options = {"filters": 8, "num_primary_capsules": 4, "decoder_units": [5]}
    trained = models.CapsNet(**options)
    trained.save_weights(tmp_path / "model.weights.h5")
    labels = np.arange(30) // 3  # three of each class
    for number, expected in ((None, 30), (2, 20), (3, 30)):
        settings = Settings(
            "capsnet",
            "mnist",
            options,
            per_class=number,
            augmentation=Augmentation(shift=2.0),
        )
        record = json.dumps({"settings": settings.as_record(is_folder=False)})
        (tmp_path / "record.json").write_text(record)
        model, chosen, change = pruning.of_run(tmp_path, labels)
        assert len(labels[chosen]) == expected
        assert (np.diff(labels[chosen]) >= 0).all()  # as in the data
        assert change == settings.augmentation
    assert model.decoder is None
    images = np.random.default_rng(1).uniform(size=(30, 28, 28, 1))
    images = images.astype("float32")
    tuned = pruning.of_run(tmp_path, labels)[0]
    many = np.repeat(images, 5, axis=0)
    steps = []
    pruning.fine_tune(
        tuned,
        many,
        np.repeat(labels, 5).astype("int32"),
        lambda x, seed, step: steps.append(step) or x,
        epochs=5,
    )
    assert tuned.optimizer.iterations == 5 * 150 // 64
    assert len(steps) == 1  # in the graph of the data
    np.testing.assert_allclose(
        model.predict(images, verbose=0),
        trained.predict(images, verbose=0),
        atol=1e-6,
    )
    assert pruning.number_of(model) == 4 * 36
    found = [
        (pruning.number_of(each), pruning.routing_of(each), dependence)
        for each, dependence in (
            pruning.changed(model, images, **case)
            for case in pruning.NETWORKS["CapsNet"].cases[:5]
        )
    ]
    (layer,) = freeze_routing(model, images, limit=1).layers
    assert 0 < layer.dependence < 1
    assert found == [
        (144, "dynamic", None),
        (144, "fixed", round(layer.dependence, 4)),
        (7, "dynamic", None),
        (72, "dynamic", None),
        (36, "dynamic", None),
    ]
