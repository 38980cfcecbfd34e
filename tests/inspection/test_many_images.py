"""10,000 images: memory that does not grow with them, and a progress bar."""

import os
import pathlib
import subprocess
import sys

import pytest

# Prints the growth of the memory in MiB between 1,000 images and 10,000.
SCRIPT = """
import pathlib
import re

import keras
import numpy as np

from keras_capsules import inspection, pruning
from keras_capsules.models import CapsNet

keras.utils.set_random_seed(0)
model = CapsNet((14, 14, 1), 3, filters=4, num_primary_capsules=8,
                kernel_size=3, decoder_units=None)
images = np.random.uniform(size=(10000, 14, 14, 1)).astype("float32")
labels = np.arange(10000) % 3


def peak():
    text = pathlib.Path("/proc/self/status").read_text()
    return int(re.search(r"VmHWM:\\s+(\\d+)", text)[1]) / 1024


def measure(images, labels):
    {call}


measure(images[:1000], labels[:1000])
before = peak()
measure(images, labels)
print(f"growth={{peak() - before:.1f}}")
"""
# The longest arrays that these keep of all images have some numbers an image.
CALLS = {
    "capsule_health": "inspection.capsule_health(model, images, labels, "
    "verbose=1)",
    "couplings": "inspection.couplings(model, images, reduce='mean', "
    "verbose=1)",
    "equivariance": "inspection.equivariance(model, images, 'shift_x', "
    "[-1, 1], verbose=1)",
    "prune": "pruning.prune(model, images, 0.5, verbose=1)",
}


@pytest.mark.slow
@pytest.mark.skipif(
    not pathlib.Path("/proc/self/status").exists(), reason="needs Linux's /proc"
)
@pytest.mark.parametrize("name", list(CALLS))
def test_memory_does_not_grow_with_images(name):
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(call=CALLS[name])],
        env={**os.environ, "MALLOC_ARENA_MAX": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "10000/10000" in done.stdout  # Keras's progress bar
    growth = float(done.stdout.rsplit("growth=", 1)[1])
    # The input capsules of 9,000 more images are 55 MiB, and their votes 330.
    assert growth < 32, done.stdout
