"""A batch that `keras.distribution` shards over devices is worked on by all.

Each of several devices does its share of every block, and nothing goes from
one to the other but the sums of gradients.
"""

import json
import os
import subprocess
import sys

import keras
import pytest

import keras_capsules

pytestmark = pytest.mark.skipif(
    keras.backend.backend() != "jax",
    reason="Keras shards batches with JAX's compiler",
)

SCRIPT = r"""
import json
import re
import sys

import jax
import keras
import numpy as np

from keras_capsules import CapsuleLayer
from keras_capsules import ConvCapsules2D
from keras_capsules.routing import run

DEVICES, CASES = int(sys.argv[1]), json.loads(sys.argv[2])
assert len(jax.devices()) == DEVICES
# On one device as well, so that programs compare.
run.block_size = lambda *_: 7 * DEVICES
COLLECTIVES = (
    "all-reduce",
    "all-gather",
    "all-to-all",
    "collective-broadcast",
    "collective-permute",
    "ragged-all-to-all",
    "reduce-scatter",
)
PARALLEL = keras.distribution.DataParallel(auto_shard_dataset=False)


def make(kind, routing):
    if kind == "dense":
        layer, shape = CapsuleLayer(7, 16, routing=routing), (31, 8)
    else:
        layer = ConvCapsules2D(7, 8, 3, routing=routing)
        shape = (5, 5, 3, 8)
    layer.build((None, *shape))
    numbers = np.random.default_rng(1)
    for weight in layer.trainable_variables:
        weight.assign(numbers.normal(0, 0.1, weight.shape))
    return layer, shape


def loops_of(text):
    # The text of all computations that loops of a program call.
    pattern = r"^(?:ENTRY )?%?([\w.-]+) [^\n]*[{]\n(.*?)^[}]"
    computations = dict(re.findall(pattern, text, re.M | re.S))
    todo, seen = re.findall(r"body=%?([\w.-]+)", text), set()
    assert set(todo) <= set(computations)
    while todo:
        name = todo.pop()
        if name in computations and name not in seen:
            seen.add(name)
            called = r"(?:calls|to_apply|body|condition)=%?([\w.-]+)"
            todo += re.findall(called, computations[name])
    return "".join(map(computations.get, seen))


def step(kind, routing, batch):
    batch *= DEVICES
    layer, shape = make(kind, routing)
    numbers = np.random.default_rng(2)
    inputs = numbers.normal(size=(batch, *shape)).astype("float32")
    shape = keras.tree.flatten(layer.compute_output_spec(
        keras.KerasTensor(inputs.shape)
    ))[0].shape
    targets = numbers.normal(size=shape).astype("float32")
    if keras.distribution.distribution() is not None:
        inputs, targets = (
            keras.distribution.distribute_tensor(
                jax.numpy.asarray(x), PARALLEL.get_data_layout(x.shape)
            )
            for x in (inputs, targets)
        )
        assert len(inputs.sharding.device_set) == DEVICES
    state = [each.value for each in layer.non_trainable_variables]

    @jax.jit
    @jax.value_and_grad
    def loss(weights, inputs, targets):
        outputs, _ = layer.stateless_call(
            weights, state, inputs, training=True
        )
        outputs = keras.tree.flatten(outputs)[0]
        return keras.ops.mean(keras.ops.square(outputs - targets))

    weights = [each.value for each in layer.trainable_variables]
    program = loss.lower(weights, inputs, targets).compile()
    text = program.as_text()
    counts = {
        name: len(re.findall(rf"= .* {name}(?:-start)?[(]", text))
        for name in COLLECTIVES
    }
    counts["in loops"] = len(re.findall("= .* all-reduce", loops_of(text)))
    results = keras.tree.flatten(program(weights, inputs, targets))
    results = [np.asarray(x) for x in results]
    costs = program.cost_analysis()
    if isinstance(costs, list):  # older versions
        (costs,) = costs
    return counts, costs["flops"], results


def difference(ours, exact):
    return float(np.abs(ours - exact).max() / np.abs(exact).max())


found = []
for case in CASES:
    _, flops, exact = step(*case)
    with PARALLEL.scope():
        counts, flops_of_each, ours = step(*case)
    assert len(ours) == len(exact) > 1
    found.append({
        "counts": counts,
        "share": flops_of_each / flops,
        "difference": max(map(difference, ours, exact)),
    })
print(json.dumps(found))
"""

ROUTINGS = sorted(keras_capsules.routing.ROUTINGS)
# Its last sum is over one output capsule after the other.
STOPPED = keras_capsules.routing.serialize(
    keras_capsules.routing.DynamicRouting(stop_gradient=True)
)


# Devices, and layers, routings and examples for each device: in a block, in
# several, and in several and a rest.
CASES = [
    (4, [("dense", "dynamic", number) for number in (3, 14, 16)]),
    pytest.param(8, [("dense", "dynamic", 16)], marks=pytest.mark.slow),
    (4, [("conv", "em", 16), ("dense", STOPPED, 16)]),
    pytest.param(
        4,
        [("dense", each, 16) for each in ROUTINGS if each != "dynamic"],
        marks=pytest.mark.slow,
    ),
]


@pytest.mark.parametrize(
    ("devices", "cases"), CASES, ids=["four", "eight", "others", "routings"]
)
def test_every_device_does_its_share(devices, cases):
    # LLVM need not optimize XLA's code.
    flags = (
        f"--xla_force_host_platform_device_count={devices} "
        "--xla_backend_optimization_level=0"
    )
    environment = {
        name: value
        for name, value in os.environ.items()
        # That would leave out XLA's passes for collective operations.
        if name != "JAX_DISABLE_MOST_OPTIMIZATIONS"
    }
    run = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(devices), json.dumps(cases)],
        env={**environment, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
        check=False,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    found = json.loads(run.stdout.splitlines()[-1])
    for case, each in zip(cases, found, strict=True):
        counts = each["counts"]
        assert counts.pop("all-reduce") > 0, case
        # Each device adds up the gradients of its blocks by itself.
        assert counts.pop("in loops") == 0, case
        assert not any(counts.values()), (case, counts)
        assert each["share"] == pytest.approx(1 / devices, rel=0.1), case
        assert each["difference"] < 1e-5, case
