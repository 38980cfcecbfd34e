"""Weights in the files of Efficient-CapsNet's authors."""

import h5py
import keras
import numpy as np
import pytest

from keras_capsules.models import EfficientCapsNet
from tests.helpers.testing import numpy
from tests.helpers.testing import on_one_backend

pytestmark = on_one_backend
SMALL = {
    "image_shape": (11, 13, 2),
    "num_classes": 3,
    "filters": (5, 7),
    "num_primary_capsules": 4,
    "primary_dim": 3,
    "capsule_dim": 5,
    "decoder_units": (6,),
}


def make(**options):
    keras.utils.set_random_seed(3)
    return EfficientCapsNet(**{**SMALL, **options})


def weights_of_a_file(normalization="batch", decoder=True):
    """Names and shapes of such a file, with arrays of random numbers."""
    conv, norm = [(5, 5, 2, 5), (3, 3, 5, 7), (3, 3, 7, 12)], {}
    encoder, moving = {}, {}
    for number, shape in enumerate(conv, start=4):
        encoder[f"conv2d_{number}/kernel:0"] = shape
        encoder[f"conv2d_{number}/bias:0"] = shape[-1:]
        norm = f"{normalization}_normalization_{number}"
        encoder[f"{norm}/gamma:0"] = encoder[f"{norm}/beta:0"] = shape[-1:]
        if normalization == "batch":
            moving[f"{norm}/moving_mean:0"] = shape[-1:]
            moving[f"{norm}/moving_variance:0"] = shape[-1:]
    height, width = (
        make(normalization=normalization)
        .get_layer("primary_capsules")
        .kernel.shape[:2]
    )
    encoder["primary_caps/conv2d_9/kernel:0"] = (height, width, 1, 12)
    encoder["primary_caps/conv2d_9/bias:0"] = (12,)
    encoder["fc_caps/W:0"] = (3, 4, 3, 5)
    encoder["fc_caps/b:0"] = (3, 4, 1)
    models = {"Efficient_CapsNet": encoder | moving}
    if decoder:
        models["Generator"] = {
            "dense/kernel:0": (15, 6),
            "dense/bias:0": (6,),
            "dense_1/kernel:0": (6, 286),
            "dense_1/bias:0": (286,),
        }
    numbers = np.random.default_rng(5)
    return {
        model: {
            name: numbers.uniform(0.1, 1, shape).astype("float32")
            for name, shape in weights.items()
        }
        for model, weights in models.items()
    }


def write(path, models):
    # Layers without weights are named as well.
    with h5py.File(path, "w") as file:
        names = ["input_1", *models, "mask"]
        file.attrs["layer_names"] = [each.encode() for each in names]
        for model in names:
            group = file.create_group(model)
            weights = models.get(model, {})
            group.attrs["weight_names"] = [each.encode() for each in weights]
            for name, array in weights.items():
                group[name] = array
    return path


@pytest.mark.parametrize("decoder", [True, False])
@pytest.mark.parametrize("normalization", ["batch", "instance"])
def test_weights_are_where_they_belong(normalization, decoder, tmp_path):
    given = weights_of_a_file(normalization)
    options = {} if decoder else {"decoder_units": None}
    model = make(normalization=normalization, **options)
    model.load_published_weights(write(tmp_path / "weights.h5", given))
    encoder = given["Efficient_CapsNet"]
    found = {each.path: numpy(each) for each in model.weights}

    def check(path, expected):
        np.testing.assert_array_equal(found.pop(path), expected)

    for number in (1, 2, 3):
        for name in ("kernel", "bias"):
            check(
                f"convolution_{number}/{name}",
                encoder[f"conv2d_{number + 3}/{name}:0"],
            )
        names = ["gamma", "beta"]
        if normalization == "batch":
            names += ["moving_mean", "moving_variance"]
        for name in names:
            layer = f"{normalization}_normalization_{number + 3}"
            check(
                f"normalization_{number}/{name}", encoder[f"{layer}/{name}:0"]
            )
    kernel = found.pop("primary_capsules/kernel")
    bias = found.pop("primary_capsules/bias")
    theirs = encoder["primary_caps/conv2d_9/kernel:0"]
    for capsule, dim in np.ndindex(4, 3):
        channel = 3 * capsule + dim
        np.testing.assert_array_equal(
            kernel[:, :, channel, 0], theirs[:, :, 0, channel]
        )
        theirs_bias = encoder["primary_caps/conv2d_9/bias:0"]
        assert bias[capsule, dim] == theirs_bias[channel]
    kernel = found.pop("class_capsules/kernel")
    bias = found.pop("class_capsules/coupling_bias")
    for j, i, d, e in np.ndindex(3, 4, 3, 5):
        assert kernel[i, d, j, e] == encoder["fc_caps/W:0"][j, i, d, e]
        assert bias[j, i] == encoder["fc_caps/b:0"][j, i, 0]
    if decoder:
        for ours, theirs in (("hidden_1", "dense"), ("pixels", "dense_1")):
            for name in ("kernel", "bias"):
                check(
                    f"decoder_{ours}/{name}",
                    given["Generator"][f"{theirs}/{name}:0"],
                )
    assert found == {}


@pytest.mark.parametrize("missing", ["Generator", "Efficient_CapsNet/fc_caps"])
def test_a_file_without_what_it_lists(missing, tmp_path):
    path = write(tmp_path / "weights.h5", weights_of_a_file("batch"))
    with h5py.File(path, "a") as file:
        del file[missing]
    model = make()
    before = [numpy(each) for each in model.weights]
    with pytest.raises(ValueError, match="Expected an HDF5 file.*cannot be re"):
        model.load_published_weights(path)
    for value, each in zip(before, model.weights, strict=True):
        np.testing.assert_array_equal(value, numpy(each))


def wrong_shape(models):
    models["Efficient_CapsNet"]["fc_caps/W:0"] = np.zeros((2, 4, 3, 5))


def wrong_bias(models):
    models["Efficient_CapsNet"]["primary_caps/conv2d_9/bias:0"] = np.zeros(5)


def missing_layer(models):
    for name in ("kernel", "bias"):
        del models["Generator"][f"dense_1/{name}:0"]


def missing_weight(models):
    del models["Efficient_CapsNet"]["conv2d_4/bias:0"]


def no_decoder(models):
    del models["Generator"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (wrong_shape, "for layer 'class_capsules'. Received: .*'fc_caps'"),
        (wrong_bias, "for layer 'primary_capsules'. Received: .*conv2d_9"),
        (missing_layer, "Expected weights of 2 layers.*Received: path="),
        (missing_weight, "for layer 'convolution_1'. Received: .*conv2d_4"),
        (no_decoder, "an encoder and a decoder. Received: path="),
    ],
)
def test_what_does_not_fit_changes_nothing(change, message, tmp_path):
    given = weights_of_a_file()
    change(given)
    model = make()
    before = model.get_weights()
    with pytest.raises(ValueError, match=message):
        model.load_published_weights(write(tmp_path / "weights.h5", given))
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_other_files(tmp_path):
    path = tmp_path / "weights.h5"
    with pytest.raises(OSError, match=r"weights\.h5"):
        make().load_published_weights(path)
    path.write_text("weights")
    with pytest.raises(ValueError, match="HDF5 file.*Received: path="):
        make().load_published_weights(path)
