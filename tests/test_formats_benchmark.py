"""The benchmarks of formats and of serving: what they compare and write."""

import contextlib
import functools
import http.server
import importlib
import json
import pathlib
import sys
import threading

import keras
import numpy as np
import pytest

from keras_capsules.export import export_onnx
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
    # Fixed coupling is what freezing makes of another routing.
    routings = {name.split(", ")[1] for name in names if ", " in name}
    assert routings == set(routing.ROUTINGS) - {"fixed"}


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
    run = functools.partial(formats._run, tmp_path, "onnx", path, images)
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
            "ONNX": {"largest_difference": 2e-7},
            "LiteRT": {"cannot": "Cholesky"},
        },
    }
    formats.render(cases, page)
    made = page.read_text()
    row = "| ConvNet, MNIST | ONNX | 12 | 0.03 | 0.0 | 0.50 | 0.25 | 60.00 |"
    assert row in made
    assert "| ConvNet, MNIST | LiteRT | cannot |" in made
    assert "| ConvNet | – | cannot | – | – | – | 2e-07 | – | – |" in made


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers the sum of the pixels, wrongly for one image."""

    def do_POST(self):
        content = self.rfile.read(int(self.headers["Content-Length"]))
        total = sum(content)
        scores = [total / 1000, 0.0]
        if total == 4:
            scores = [0.0, 0.5]
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
