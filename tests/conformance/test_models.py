"""The contract of all models."""

import json

import numpy as np
import pytest

from keras_capsules.losses import MarginLoss
from tests.conformance.objects import MODELS
from tests.helpers.testing import QUICK
from tests.helpers.testing import as_json
from tests.helpers.testing import check_saving
from tests.helpers.testing import numpy
from tests.helpers.testing import on_one_backend

models = pytest.mark.parametrize("model_class, kwargs", MODELS)


def images_for(model):
    rng = np.random.default_rng(7)
    return rng.uniform(size=(4, *model.image_shape)).astype("float32")


@models
def test_model_config_round_trip(model_class, kwargs):
    model = model_class(**kwargs, name="other", dtype="mixed_bfloat16")
    config = model.get_config()
    assert set(kwargs) <= set(config)
    loaded = model_class.from_config(json.loads(json.dumps(config)))
    assert loaded.name == "other"
    assert loaded.dtype_policy.name == "mixed_bfloat16"
    assert as_json(loaded.get_config()) == as_json(config)
    assert [(weight.name, weight.shape) for weight in loaded.weights] == [
        (weight.name, weight.shape) for weight in model.weights
    ]


@models
def test_model_fits_and_is_saved(model_class, kwargs, tmp_path):
    model = model_class(**kwargs)
    images = images_for(model)
    labels = np.array([0, 2, 1, 1])
    # In a graph they are trained in test_robustness.py.
    model.compile("adam", loss=MarginLoss(), metrics=["accuracy"], **QUICK)
    before = [numpy(weight) for weight in model.trainable_weights]
    history = model.fit(images, labels, batch_size=4, verbose=0).history
    assert np.isfinite(history["loss"]).all()
    for old, weight in zip(before, model.trainable_weights, strict=True):
        assert np.isfinite(numpy(weight)).all()
        assert not np.array_equal(numpy(weight), old), weight.path
    loaded = check_saving(model, images, tmp_path)
    assert loaded.loss.get_config() == model.loss.get_config()


@on_one_backend
@models
@pytest.mark.parametrize("dtype", ["mixed_bfloat16", "mixed_float16"])
def test_model_trains_in_16_bits(model_class, kwargs, dtype):
    model = model_class(**kwargs, dtype=dtype)
    images = images_for(model)
    model.compile("sgd", MarginLoss(), **QUICK)
    losses = model.train_on_batch(images, np.array([0, 2, 1, 1]))
    assert np.isfinite(losses).all()
    assert all(np.isfinite(numpy(weight)).all() for weight in model.weights)
    scores = model.predict_on_batch(images)
    assert scores.shape == (4, 3) and np.isfinite(scores).all()
    # A batch of one.
    single = model.predict_on_batch(images[1:2])
    np.testing.assert_allclose(single, scores[1:2], rtol=0.02, atol=0.01)
