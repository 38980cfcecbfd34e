"""Memory stays what it is, however long a process runs."""

import gc
import os
import pathlib

import keras
import numpy as np
import pytest

from keras_capsules import MarginLoss
from tests.helpers.networks import images
from tests.helpers.networks import labels
from tests.helpers.networks import make
from tests.helpers.testing import compile_for_one_trace

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not pathlib.Path("/proc/self/statm").exists(),
        reason="memory is read from /proc",
    ),
]
MEGABYTE = 2**20


def memory():
    gc.collect()
    pages = int(pathlib.Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def growth(repeat, times):
    """Bytes that the second half of the repetitions adds."""
    for _ in range(times // 2):
        repeat()
    before = memory()
    for _ in range(times - times // 2):
        repeat()
    return memory() - before


def test_a_thousand_networks():
    def repeat():
        keras.backend.clear_session()
        make("CapsNet")(images(1))

    assert growth(repeat, 1000) < 40 * MEGABYTE  # 80 KB each


def test_two_thousand_steps_and_five_thousand_predictions():
    model = compile_for_one_trace(make("CapsNet"), "adam", MarginLoss())
    x, y = images(), labels()
    model.train_on_batch(x, y)
    assert growth(lambda: model.train_on_batch(x, y), 2000) < 20 * MEGABYTE
    model.predict_on_batch(x)
    assert growth(lambda: model.predict_on_batch(x), 5000) < 20 * MEGABYTE


def test_encoding_and_decoding():
    model = make("CapsNet")
    x = images()
    model.reconstruct(x)
    assert growth(lambda: model.reconstruct(x), 200) < 20 * MEGABYTE
    tensor = keras.ops.convert_to_tensor(x)
    assert np.isfinite(model.reconstruct(x)).all()
    assert growth(lambda: model.reconstruct(tensor), 400) < 20 * MEGABYTE
