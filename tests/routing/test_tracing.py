"""What layers route, recorded for each iteration."""

import concurrent.futures

import keras
import numpy as np
import pytest
from keras import ops

from keras_capsules import CapsuleLayer
from keras_capsules.engine import blocks
from keras_capsules.routing import DynamicRouting
from keras_capsules.routing import Routed
from keras_capsules.routing import Routing
from keras_capsules.routing.tracing import tracing
from tests.helpers.capsules import random
from tests.helpers.capsules import route
from tests.helpers.testing import numpy

SHAPE = (5, 7, 3)
POSES = random(*SHAPE).astype("float32")


def make(routing=None, **options):
    layer = CapsuleLayer(4, 2, routing=routing or DynamicRouting(), **options)
    layer.build(SHAPE)
    return layer


@pytest.mark.parametrize("stop_gradient", [False, True])
@pytest.mark.parametrize("budget", [None, 100], ids=["at-once", "in-blocks"])
def test_each_iteration_equals_the_oracle(budget, stop_gradient, monkeypatch):
    if budget:
        monkeypatch.setattr(blocks, "_CPU_BUDGET", budget)
        monkeypatch.setattr(blocks, "_BUDGET", budget)
    layer = make(DynamicRouting(4, stop_gradient=stop_gradient))
    with tracing() as traces:
        outputs, coupling = layer(POSES, return_coupling=True)
    (trace,) = traces
    kernel, bias = numpy(layer.kernel), numpy(layer.bias)
    assert len(trace.coupling) == 4
    for number, ours in enumerate(trace.coupling, 1):
        poses, exact = route(POSES, kernel, bias, number)
        np.testing.assert_allclose(
            numpy(ours).transpose(0, 2, 1), exact, rtol=1e-4, atol=1e-6
        )
    # The results are those of the last iteration.
    np.testing.assert_allclose(numpy(outputs), poses, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(numpy(coupling), exact, rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(numpy(trace.poses)[:, :, 0], POSES)
    np.testing.assert_array_equal(numpy(trace.kernel), kernel)


def test_calls_outside_are_not_recorded():
    layer = make()
    with tracing() as traces:
        layer(POSES)
        with pytest.raises(ValueError, match="expected ndim=3"):
            layer(POSES[0])
    layer(POSES)
    assert len(traces) == 1


def test_contexts_can_be_nested():
    layer = make()
    with tracing() as outer:
        layer(POSES)
        with tracing() as inner:
            layer(POSES)
        layer(POSES)
    assert (len(outer), len(inner)) == (2, 1)


class Counted(Routing):
    """Yields as many results as it has iterations, and has no coupling."""

    def __init__(self, results):
        self.results = results

    def route(self, votes):
        for number in range(self.results):
            yield Routed(ops.mean(votes, axis=2) + number)


def test_a_routing_without_coupling():
    with tracing() as traces:
        make(Counted(3))(POSES)
    assert list(traces[0].coupling) == [None, None, None]


def test_a_routing_without_iterations_raises():
    with pytest.raises(ValueError, match="has to yield a Routed after"):
        make(Counted(0))(POSES)


def test_activations_and_weights():
    activations = np.full(SHAPE[:2], 0.25, "float32")
    with tracing() as traces:
        CapsuleLayer(4, 2, routing="self_attention")((POSES, activations))
        CapsuleLayer(4, 2)(POSES)
    # Also of a routing that has no use for them.
    np.testing.assert_array_equal(numpy(traces[0].activations), activations)
    assert traces[1].activations is None
    assert [set(each.weights) for each in traces] == [{"coupling_bias"}, set()]


def test_threads_do_not_see_each_other():
    layer = make()

    def work(number):
        with tracing() as traces:
            for _ in range(number):
                layer(POSES)
        return len(traces), numpy(traces[0].coupling[1])

    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        results = list(pool.map(work, [3, 1, 2]))
    assert [number for number, _ in results] == [3, 1, 2]
    for _, coupling in results:
        np.testing.assert_array_equal(coupling, results[0][1])


def test_a_compiled_function_works_inside():
    layer = make()
    model = keras.Sequential([keras.Input(SHAPE[1:]), layer])
    exact = numpy(model(POSES))
    with tracing():
        ours = model.predict(POSES, verbose=0)
    np.testing.assert_allclose(ours, exact, rtol=1e-5, atol=1e-6)
