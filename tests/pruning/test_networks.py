"""Pruned networks are ordinary ones, of the same class where possible."""

import pathlib
import re

import keras
import numpy as np
import pytest
from keras import ops

from keras_capsules import CapsuleLayer
from keras_capsules import CapsuleLength
from keras_capsules import MarginLoss
from keras_capsules import PrimaryCapsules
from keras_capsules import pruning
from keras_capsules.models import CapsNet
from keras_capsules.models import CapsuleNetwork
from keras_capsules.models import EfficientCapsNet
from keras_capsules.routing import EMRouting
from tests.helpers import networks
from tests.helpers.pruning import CLASSES
from tests.helpers.pruning import ROUTINGS
from tests.helpers.pruning import SHAPE
from tests.helpers.pruning import assert_close
from tests.helpers.pruning import images
from tests.helpers.pruning import labels
from tests.helpers.pruning import masked
from tests.helpers.pruning import network
from tests.helpers.pruning import outputs_of
from tests.helpers.pruning import predict
from tests.helpers.pruning import set_weights
from tests.helpers.testing import BACKEND
from tests.helpers.testing import QUICK
from tests.helpers.testing import check_saving
from tests.helpers.testing import numpy
from tests.helpers.testing import only_tensorflow
from tests.helpers.testing import slow_on_jax

ROOT = pathlib.Path(__file__).parents[2]
PAPER = EMRouting(2, inverse_temperature=1.0, min_variance=1.0)

# Networks, the options that prune them, and arguments of the pruned one.
SAME_CLASS = {
    "capsnet": (
        "CapsNet",
        {"num_primary_capsules": 5},
        {"fraction": 0.4},
        {"num_primary_capsules": 3},
    ),
    "efficient": (
        "EfficientCapsNet",
        {"num_primary_capsules": 5},
        {"fraction": 0.4},
        {"num_primary_capsules": 3},
    ),
    "efficient-instance-dynamic": (
        "EfficientCapsNet",
        {
            "num_primary_capsules": 5,
            "normalization": "instance",
            "primary_kernel_size": 3,
            "routing": "dynamic",
        },
        {"fraction": 0.8},
        {"num_primary_capsules": 1},
    ),
    "matrix": (
        "MatrixCapsNet",
        {"num_primary_capsules": 5, "routing": PAPER},
        {"fraction": 0.4},
        {"num_primary_capsules": 3},
    ),
    "matrix-inner": (
        "MatrixCapsNet",
        {
            "num_conv_capsules": (3, 5),
            "capsule_strides": (1, 1),
            "routing": PAPER,
        },
        {"fraction": 0.4, "layer": "conv_capsules_2"},
        {"num_conv_capsules": (3, 3)},
    ),
    "normalized-in-one-layer": (
        "CapsNet",
        {
            "num_primary_capsules": 5,
            "decoder_units": None,
            "routing": EMRouting(2, 0.1, cost_scale="normalized"),
        },
        {"fraction": 0.4},
        {"num_primary_capsules": 3},
    ),
}


@slow_on_jax
@pytest.mark.parametrize("case", SAME_CLASS)
def test_the_same_class(case, tmp_path):
    name, options, arguments, expected = SAME_CLASS[case]
    model, x = set_weights(networks.make(name, **options)), networks.images()
    before = [numpy(weight).copy() for weight in model.weights]
    result = pruning.prune(model, x, **arguments)
    new = result.model
    assert type(new) is type(model) and new.name == model.name
    for key, value in expected.items():
        assert getattr(new, key) == value
    above = "conv_capsules_1" if name == "MatrixCapsNet" else "class_capsules"
    if "layer" not in arguments:  # those compete, see test_exactness.py
        assert_close(
            outputs_of(new, above, x),
            masked(model, above, x, result.kept),
            1e-4,
        )
    # The old network is as it was.
    for weight, value in zip(model.weights, before, strict=True):
        np.testing.assert_array_equal(numpy(weight), value)
    if model.decoder is not None:
        for one, other in zip(
            new.decoder.weights, model.decoder.weights, strict=True
        ):
            assert one is not other
            np.testing.assert_array_equal(numpy(one), numpy(other))
    check_saving(new, x, tmp_path)


@pytest.mark.parametrize("column", ["type", "capsule", "freeze"])
def test_the_table_of_networks(column):
    """In the reference: which networks can be made smaller."""
    text = (ROOT / "docs" / "api" / "pruning.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \| (.*) \|$", text, re.MULTILINE)
    names = {name for name in networks.NAMES if "Caps" in name}
    assert {name for name, _ in rows} == names
    for name, cells in rows:
        model, x = networks.make(name), networks.images()
        try:
            if column == "freeze":
                pruning.freeze_routing(model, x)
            else:
                pruning.prune(model, x, 0.5, column)
            found = "yes"
        except ValueError:
            found = "no"
        said = cells.split(" | ")[["type", "capsule", "freeze"].index(column)]
        assert said == found, name


def test_options_stay():
    model = networks.make(
        "EfficientCapsNet", num_primary_capsules=4, decoder_units=None
    )
    model.get_layer("convolution_1").trainable = False
    model.compile("adam", MarginLoss())
    new = pruning.prune(model, networks.images(), 0.5).model
    config = {**model.get_config(), "num_primary_capsules": 2}
    assert new.get_config() == config
    assert not new.get_layer("convolution_1").trainable
    assert not new.compiled


def test_default_matrix_capsules_become_a_capsule_network():
    """Their layers have different costs, which one argument cannot express."""
    model, x = networks.make("MatrixCapsNet"), networks.images()
    set_weights(model)
    result = pruning.prune(model, x, 0.5)
    assert type(result.model) is CapsuleNetwork
    assert_close(
        outputs_of(result.model, "conv_capsules_1", x),
        masked(model, "conv_capsules_1", x, result.kept),
        1e-4,
    )
    assert result.model.reconstruction_weight == model.reconstruction_weight


@pytest.mark.parametrize("unit", ["type", "capsule"])
def test_a_network_of_own_layers(unit, tmp_path):
    model, x = network(ROUTINGS["dynamic"]), images()
    model.get_layer("primary_capsules").trainable = False
    new = pruning.prune(model, x, 0.5, unit).model
    assert type(new) is CapsuleNetwork and new.name == model.name
    assert new.reconstruction_weight == model.reconstruction_weight == 0.25
    assert new.input.name == "images"
    assert not new.get_layer("primary_capsules").trainable
    assert new.get_layer("class_capsules").trainable
    poses = np.ones((2, CLASSES, 7), "float32")
    np.testing.assert_array_equal(new.decode(poses), model.decode(poses))
    # The decoders do not share weights.
    new.decoder.set_weights([0 * each for each in new.decoder.get_weights()])
    assert np.ptp(new.decode(poses)) == 0 < np.ptp(model.decode(poses))
    # A pixel that is NaN still makes its scores NaN.
    x[0, 1, 2] = np.nan
    assert np.isnan(predict(new, x)[0]).all()
    assert np.isfinite(predict(new, x)[1:]).all()
    x[0] = 0
    check_saving(new, x, tmp_path)


@pytest.mark.parametrize("unit", ["type", "capsule"])
def test_trains(unit):
    model, x = network(ROUTINGS["self_attention"]), images()
    new = pruning.prune(model, x, 0.5, unit).model
    new.compile("adam", MarginLoss(), metrics=["accuracy"], **QUICK)
    before = [numpy(each).copy() for each in new.trainable_weights]
    history = new.fit(x, labels(), epochs=1, verbose=0).history
    assert np.isfinite(history["loss"]).all()
    assert "reconstruction_error" in history
    for weight, value in zip(new.trainable_weights, before, strict=True):
        assert np.abs(numpy(weight) - value).max() > 0, weight.path


@only_tensorflow
@pytest.mark.parametrize("unit", ["type", "capsule"])
def test_exports(unit, tmp_path):
    import tensorflow as tf

    x = images()
    new = pruning.prune(network(ROUTINGS["dynamic"]), x, 0.5, unit).model
    new.export(tmp_path / "model", verbose=False)
    loaded = tf.saved_model.load(tmp_path / "model")
    np.testing.assert_allclose(
        loaded.serve(x), predict(new, x), rtol=1e-5, atol=1e-6
    )


@slow_on_jax
def test_functional_and_sequential_models(tmp_path):
    model = keras.Sequential(
        [
            keras.Input(SHAPE),
            keras.layers.Conv2D(3, 2, activation="relu"),
            PrimaryCapsules(5, 2, kernel_size=2, name="primary"),
            CapsuleLayer(CLASSES, 3, name="classes"),
            CapsuleLength(),
        ]
    )
    set_weights(model)
    x = images()
    functional = keras.Model(model.inputs[0], model.outputs[0])
    for each in (model, functional):
        for unit in ("type", "capsule"):
            result = pruning.prune(each, x, 0.4, unit, labels=labels())
            assert type(result.model) is type(functional)
            expected = masked(each, "classes", x, result.kept, unit)
            lengths = CapsuleLength()(ops.convert_to_tensor(expected[0]))
            assert_close([predict(result.model, x)], [numpy(lengths)])
    check_saving(result.model, x, tmp_path)


def test_sixteen_bits():
    policy = keras.dtype_policies.get("mixed_bfloat16")
    model = EfficientCapsNet(
        networks.SHAPE,
        3,
        filters=(4,),
        num_primary_capsules=4,
        decoder_units=None,
        dtype=policy,
    )
    x = networks.images()
    for unit in ("type", "capsule"):
        new = pruning.prune(model, x, 0.5, unit).model
        for layer in new.layers[1:]:
            if layer.name != "primary_capsules_selection":
                old = model.get_layer(layer.name)
                assert layer.dtype_policy.name == old.dtype_policy.name
        assert new.output.dtype == "float32"
        assert np.isfinite(predict(new, x)).all()


def test_weights_by_name():
    model = EfficientCapsNet(weights="mnist", decoder_units=None)
    x = np.random.default_rng(3).uniform(size=(3, 28, 28, 1)).astype("float32")
    result = pruning.prune(model, x, 0.25)
    assert result.model.num_primary_capsules == 12
    assert result.model.get_layer("convolution_4").filters == 96
    assert_close(
        outputs_of(result.model, "class_capsules", x),
        masked(model, "class_capsules", x, result.kept),
        1e-4,
    )


class WithExtra(CapsNet):
    """A class of one's own, whose constructor has other arguments."""

    def __init__(self, extra=1, **kwargs):
        self.extra = extra
        super().__init__(**{**networks.OPTIONS["CapsNet"], **kwargs})


def test_a_class_of_ones_own():
    """Its constructor does not take the number of capsules."""
    model = CapsNet(networks.SHAPE, 3, filters=4, num_primary_capsules=4)
    result = pruning.prune(model, networks.images(), 0.5)
    assert type(result.model) is CapsNet
    model = WithExtra(image_shape=networks.SHAPE, num_classes=3)
    result = pruning.prune(model, networks.images(), 0.5)
    assert type(result.model) is CapsuleNetwork
    assert result.model.get_layer("primary_capsules").num_capsules == 1


@pytest.mark.filterwarnings("ignore:Layer .* does not have a `quantize`")
@pytest.mark.skipif(BACKEND == "torch", reason="does not quantize there")
def test_a_quantized_network_raises():
    model = networks.make("MatrixCapsNet", routing=PAPER)
    model.quantize("int8")
    message = (
        "A quantized network cannot be changed. Expected `quantize` to be "
        r"called afterwards. Received: a network with the .*'decoder/"
    )
    with pytest.raises(ValueError, match=message):
        pruning.prune(model, networks.images(), 0.5)
    with pytest.raises(ValueError, match=message):
        pruning.freeze_routing(model, networks.images())
