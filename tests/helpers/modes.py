"""Values and gradients of a function, in all ways in which it may be run."""

import keras
from keras import ops

from tests.helpers.testing import BACKEND

# How functions are run: operation by operation; in a graph, or compiled; and in
# a graph that does not know how many examples there are.
MODES = {
    "tensorflow": ["eager", "graph", "unknown"],
    "jax": ["compiled"],
    "torch": ["eager"],
}[BACKEND]


def run(mode, function, examples, shared):
    """Runs a function and its gradient once; see `prepare`."""
    return prepare(mode, function)(examples, shared)


def prepare(mode, function):
    """A function that runs another one and its gradient.

    It is called with dictionaries of arrays: `examples`, which have the
    examples first, and `shared`. It returns a dictionary of arrays: all that
    `function` returns by number, and the gradients of the sum of its sines by
    name. Compiled functions are used again.

    Args:
        mode: One of `MODES`.
        function: Function of dictionaries of tensors, `examples` and `shared`,
            that returns a tensor or a structure of them.
    """
    names = []

    def call(*tensors):
        examples, shared = (
            dict(zip(each, part, strict=True))
            for each, part in zip(
                names,
                (tensors[: len(names[0])], tensors[len(names[0]) :]),
                strict=True,
            )
        )
        results = keras.tree.flatten(function(examples, shared))
        loss = sum(ops.sum(ops.sin(ops.cast(x, "float32"))) for x in results)
        return loss, results

    step = {
        "tensorflow": _step_in_tensorflow,
        "jax": _step_in_jax,
        "torch": _step_in_torch,
    }[BACKEND](mode, call)

    def prepared(examples, shared):
        names[:] = list(examples), list(shared)
        arrays = {**examples, **shared}
        results, slopes = step(list(arrays.values()), len(examples))
        named = dict(enumerate(results)) | dict(
            zip(arrays, slopes, strict=True)
        )
        return {key: ops.convert_to_numpy(x) for key, x in named.items()}

    return prepared


def of_layer(layer, names=None, **options):
    """A function of inputs and weights that calls a layer, and its weights.

    Args:
        layer: A layer that is built.
        names: Names of the inputs, if the layer takes several.
        **options: Arguments of the call.

    Returns:
        The function, as `run` takes it, and a dictionary of its weights.
    """
    weights = {
        f"{index} {weight.name}": ops.convert_to_numpy(weight)
        for index, weight in enumerate(layer.trainable_variables)
    }

    def function(examples, shared):
        inputs = [examples[name] for name in names or ["inputs"]]
        results, _ = layer.stateless_call(
            list(shared.values()),
            [variable.value for variable in layer.non_trainable_variables],
            inputs if names else inputs[0],
            **options,
        )
        return results

    return function, weights


def _step_in_tensorflow(mode, call):
    import tensorflow as tf

    def step(*tensors):
        with tf.GradientTape() as tape:
            tape.watch(tensors)
            loss, results = call(*tensors)
        zero = tf.UnconnectedGradients.ZERO
        return results, tape.gradient(
            loss, list(tensors), unconnected_gradients=zero
        )

    prepared = {}

    def run_step(arrays, number):
        if mode == "eager":
            return step(*map(tf.constant, arrays))
        sizes = [x.shape for x in arrays]
        if mode == "unknown":
            sizes[:number] = [(None, *size[1:]) for size in sizes[:number]]
        specs = tuple(
            tf.TensorSpec(size, x.dtype)
            for size, x in zip(sizes, arrays, strict=True)
        )
        if specs not in prepared:
            prepared[specs] = tf.function(
                step, input_signature=specs, autograph=False
            )
        return prepared[specs](*arrays)

    return run_step


def _step_in_jax(mode, call):
    import jax

    del mode

    @jax.jit
    def step(arrays):
        return jax.value_and_grad(lambda arrays: call(*arrays), has_aux=True)(
            arrays
        )

    def run_step(arrays, number):
        del number
        (_, results), slopes = step(arrays)
        return results, slopes

    return run_step


def _step_in_torch(mode, call):
    import torch

    del mode

    def run_step(arrays, number):
        del number
        tensors = [torch.tensor(x, requires_grad=True) for x in arrays]
        loss, results = call(*tensors)
        slopes = torch.autograd.grad(
            loss, tensors, allow_unused=True, materialize_grads=True
        )
        return [x.detach() for x in results], slopes

    return run_step
