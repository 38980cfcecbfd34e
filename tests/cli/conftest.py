"""Images of two classes in a folder, and a network that was trained on them."""

import contextlib
import io
import json

import numpy as np
import pytest
from PIL import Image

from keras_capsules_cli import main

SMALL = {
    "filters": [7, 11],
    "kernel_sizes": 3,
    "conv_strides": [1, 1, 2],
    "num_primary_capsules": 5,
    "primary_dim": 3,
    "capsule_dim": 5,
    "decoder_units": [17],
}
SIZE = (13, 11)


def make_image(name, numbers):
    """A bright bar on noise, upright or lying, (17, 19, 3)."""
    pixels = numbers.uniform(0, 60, (17, 19, 3))
    place = numbers.integers(5, 9)
    if name == "upright":
        pixels[:, place : place + 4] += 180
    else:
        pixels[place : place + 4] += 180
    return Image.fromarray(pixels.astype("uint8"))


def make_folder(folder, number, seed=0):
    """A folder with images of two classes, of a number each."""
    generator = np.random.default_rng(seed)
    for name in ("lying", "upright"):
        (folder / name).mkdir(parents=True)
        for index in range(number):
            path = folder / name / f"{index}.png"
            make_image(name, generator).save(path)
    return folder


def run(*arguments):
    """The exit code, what was printed, and what was said of errors."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = main([*map(str, arguments)])
        except SystemExit as stopped:
            code = stopped.code
    return code, out.getvalue(), err.getvalue()


def training(photos, output, *further):
    """The arguments of a training that takes some seconds."""
    return [
        *("train", "efficient_capsnet", photos, "--image-size", "13x11"),
        *("--color-mode", "grayscale", "--options", json.dumps(SMALL)),
        *("--epochs", 7, "--batch-size", 9, "--learning-rate", 0.01),
        *("--output", output, "--name", "bars", *further),
    ]


@pytest.fixture(scope="package")
def photos(tmp_path_factory):
    return make_folder(tmp_path_factory.mktemp("images") / "photos", 19)


@pytest.fixture(scope="package")
def trained(photos, tmp_path_factory):
    """The folder of a run, and what was printed."""
    output = tmp_path_factory.mktemp("runs")
    code, printed, errors = run(*training(photos, output))
    assert code == 0, errors
    return output / "bars", printed
