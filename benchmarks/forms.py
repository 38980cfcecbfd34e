"""Forms of routing as functions on any backend, their times and their memory.

For the processes that measure: this module imports Keras and the backend.

A form is a function of poses, a kernel and activations, as `operands` makes
them. A shape is a dictionary of `batch`; `inputs` and `outputs`, the numbers of
capsules; `pose`, `[d]` for vectors or `[p, d]` for matrices; and `out_pose`.
"""

import functools
import json
import math
import multiprocessing
import pathlib
import tempfile
import time
from unittest import mock

import harness
import keras
import numpy as np
import textbook
from keras import ops

from keras_capsules import CapsuleLayer
from keras_capsules import routing as routings

BACKEND = keras.backend.backend()
VECTORS = {
    "batch": 128,
    "inputs": 1152,
    "pose": [8],
    "outputs": 10,
    "out_pose": [16],
}
MATRICES = {
    "batch": 128,
    "inputs": 288,
    "pose": [4, 4],
    "outputs": 10,
    "out_pose": [4, 4],
}


def names():
    """The measured routings: all that the package knows by name."""
    found = sorted(routings.ROUTINGS)
    found.insert(found.index("dynamic") + 1, "dynamic, stop_gradient")
    return found


def shape_of(name, **sizes):
    """The shape that a routing is measured at; `sizes` above 0 replace it."""
    # Routings for convolutional capsules are made for matrices.
    routing = routings.get(name.split(",")[0])
    shape = MATRICES if routing.takes("windows") else VECTORS
    return {**shape, **{key: size for key, size in sizes.items() if size}}


def make_layer(name, shape):
    """A layer with the routing of this name, built for a shape.

    Its weights are not those that it begins with, many of which are zero.
    """
    keras.utils.set_random_seed(0)
    routing = routings.get(name.split(",")[0])
    if name.endswith("stop_gradient"):
        routing = routings.DynamicRouting(stop_gradient=True)
    out_pose = tuple(shape["out_pose"])
    layer = CapsuleLayer(
        shape["outputs"],
        out_pose if len(out_pose) > 1 else out_pose[0],
        routing=routing,
        use_bias=False,
    )
    poses = (None, shape["inputs"], *shape["pose"])
    layer.build([poses, poses[:2]] if _takes_pairs(layer) else poses)
    random = np.random.default_rng(1)
    for weight in layer.trainable_variables:
        if weight is not layer.kernel:
            noise = random.normal(size=weight.shape, scale=0.1)
            weight.assign(ops.convert_to_numpy(weight) + noise)
    return layer


def _takes_pairs(layer):
    return layer.routing.activation_from == "routing"


def operands(layer, shape):
    """Poses, the kernel of a layer, and activations."""
    random = np.random.default_rng(0)
    capsules = shape["batch"], shape["inputs"]
    # As long as capsules and as matrices of unit variance are.
    scale = 0.3 if len(shape["pose"]) == 1 else 1.0
    poses = random.normal(size=(*capsules, *shape["pose"]), scale=scale)
    activations = random.uniform(0.1, 1.0, size=capsules)
    return [
        ops.convert_to_tensor(poses, layer.compute_dtype),
        ops.stop_gradient(layer.kernel),
        ops.convert_to_tensor(activations, layer.compute_dtype),
    ]


def ours(layer, training):
    """A layer as a form."""

    def function(poses, kernel, activations):
        weights = [
            kernel if weight is layer.kernel else weight.value
            for weight in layer.trainable_variables
        ]
        others = [weight.value for weight in layer.non_trainable_variables]
        inputs = (poses, activations) if _takes_pairs(layer) else poses
        outputs, _ = layer.stateless_call(
            weights, others, inputs, training=training
        )
        return outputs

    return function


def at_once(layer, training):
    """A layer whose votes are all made at once, and kept for the gradient.

    Its routing is plain code on votes in a good layout of memory. So it is a
    stronger rival than textbook forms.
    """
    from keras_capsules.routing import run

    form = ours(layer, training)

    def function(*operands):
        with (
            mock.patch.object(run, "block_size", lambda *_: None),
            # Also self-routing makes votes then.
            mock.patch.object(run, "in_xla", lambda: True),
        ):
            return form(*operands)

    return function


def labels(name):
    """The names of the forms of a routing, in tables."""
    return list(
        dict.fromkeys([*textbook.FORMS.get(name, {}), "better layout", "ours"])
    )


def all_forms(name, layer, training, which=("ours", "textbook")):
    """The forms of a routing, by their names in tables.

    Args:
        name: Of the routing.
        layer: With this routing.
        training: Boolean.
        which: The forms to make; those that there are not are left out.
    """
    makers = {"ours": ours, "better layout": at_once}
    for label, form in textbook.FORMS.get(name, {}).items():
        makers[label] = functools.partial(textbook.of_layer, form)
    return {
        label: makers[label](layer, training)
        for label in labels(name)
        if ("ours" if label == "ours" else "textbook") in which
    }


def with_xla(forms):
    """TensorFlow's graphs of these forms also compiled with XLA."""
    if BACKEND != "tensorflow":
        return forms
    return {
        f"{label}{suffix}": form
        for label, form in forms.items()
        for suffix in ("", ", XLA")
    }


def with_gradients(form):
    """The gradients of a loss of all outputs to poses and kernel."""

    def loss(*tensors):
        # Not squares, whose sum is the same for all normalized outputs.
        outputs = keras.tree.flatten(form(*tensors))
        return sum(ops.sum(ops.sin(x)) for x in outputs)

    if BACKEND == "jax":
        import jax

        return jax.grad(loss, argnums=(0, 1))
    if BACKEND == "tensorflow":
        import tensorflow as tf

        def step(*tensors):
            with tf.GradientTape() as tape:
                tape.watch(tensors[:2])
                value = loss(*tensors)
            return tape.gradient(value, tensors[:2])

        return step
    import torch

    def step(*tensors):
        leaves = [x.detach().requires_grad_() for x in tensors[:2]]
        with torch.enable_grad():
            return torch.autograd.grad(loss(*leaves, *tensors[2:]), leaves)

    return step


def compiled(function, xla=False):
    """A function as its backend usually runs it.

    That is a graph of TensorFlow, with XLA if `xla`, a jitted function of JAX,
    and PyTorch's eager mode.
    """
    if BACKEND == "jax":
        import jax

        return jax.jit(function)
    if BACKEND == "tensorflow":
        import tensorflow as tf

        return tf.function(function, jit_compile=xla, autograph=False)
    import torch

    return torch.no_grad()(function)


# Times.


def wait(outputs):
    """Waits until a backend has finished its computations."""
    if BACKEND == "jax":
        import jax

        jax.block_until_ready(outputs)
    elif BACKEND == "tensorflow":
        import tensorflow as tf

        tf.test.experimental.sync_devices()
    else:
        import torch

        if torch.cuda.is_available():
            torch.cuda.synchronize()


def warm_up():
    """Runs a first operation, at which a backend loads its libraries."""
    x = ops.ones((64, 64))
    for xla in (False, True):
        wait(compiled(ops.matmul, xla)(x, x))


def timed(functions, repeats):
    """Times functions in turn, so that a drifting machine is fair to all.

    Args:
        functions: Dictionary of functions without arguments.
        repeats: How often each is timed, after the first call.

    Returns:
        Dictionary of dictionaries: `first`, the seconds of the first call,
        which traces and compiles; and `ms`, a list of times.
    """
    found = {name: {"first": None, "ms": []} for name in functions}
    for repeat in range(repeats + 1):
        for name, function in functions.items():
            started = time.perf_counter()
            wait(function())
            seconds = time.perf_counter() - started
            if repeat:
                found[name]["ms"].append(1e3 * seconds)
            else:
                found[name]["first"] = round(seconds, 3)
    return found


def times_of(forms, tensors, repeats):
    """Times of forms that take the same tensors; see `timed`."""
    return timed(
        {
            label: functools.partial(
                compiled(form, label.endswith("XLA")), *tensors
            )
            for label, form in forms.items()
        },
        repeats,
    )


# Memory.


def memory_of(name, label, shape, xla=False):
    """MiB that a step takes in addition to its arguments and the gradients.

    TensorFlow is asked for the peak of what it allocates, for a process of its
    own; JAX for the size of the temporary buffers of the compiled step; and of
    PyTorch, the profiler notes the peak of all tensors.

    Args:
        name: Of the routing.
        label: Of the form.
        shape: Of the layer.
        xla: Boolean, for TensorFlow.
    """
    layer = make_layer(name, shape)
    form = all_forms(name, layer, training=True)[label]
    tensors = operands(layer, shape)
    step = compiled(with_gradients(form), xla)
    if BACKEND == "jax":
        analysis = step.lower(*tensors).compile().memory_analysis()
        return _mebibytes(analysis.temp_size_in_bytes)
    if BACKEND == "tensorflow":
        peak = _peak_of_tensorflow(step, tensors)
    else:
        peak = _peak_of_torch(step, tensors)
    gradients = sum(4 * math.prod(x.shape) for x in tensors[:2])
    return _mebibytes(max(0, peak - gradients))


def _mebibytes(number):
    return round(number / harness.MEBIBYTE, 3)


def _peak_of_tensorflow(step, tensors):
    import tensorflow as tf

    step.get_concrete_function(*tensors)
    # Not what the process takes: TensorFlow keeps what it has ever taken.
    try:
        tf.config.experimental.reset_memory_stats("CPU:0")
    except ValueError as error:
        raise RuntimeError(
            "TensorFlow counts memory where it uses oneDNN only."
        ) from error
    before = tf.config.experimental.get_memory_info("CPU:0")["current"]
    wait(step(*tensors))
    return tf.config.experimental.get_memory_info("CPU:0")["peak"] - before


def _peak_of_torch(step, tensors):
    import torch

    step(*tensors)
    with torch.profiler.profile(profile_memory=True) as profile:
        step(*tensors)
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "trace.json"
        profile.export_chrome_trace(str(path))
        events = json.loads(path.read_text())["traceEvents"]
    # It counts from zero when it begins.
    return max(
        event["args"]["Total Allocated"]
        for event in events
        if event["name"] == "[memory]"
    )


def in_own_process(function, *arguments, **options):
    """The result of a function of a module, called in a new process.

    For TensorFlow only, the others need none: how it cuts its memory depends
    on what it was used for before.
    """
    if BACKEND != "tensorflow":
        return function(*arguments, **options)
    # A copy of one that has imported what takes long, and done nothing else.
    multiprocessing.set_forkserver_preload(["tensorflow", "keras_capsules"])
    context = multiprocessing.get_context("forkserver")
    with context.Pool(1) as pool:
        return pool.apply(function, arguments, options)


def difference(forms, tensors):
    """How far our outputs are from the textbook's, at most."""
    ours, theirs = (
        [
            ops.convert_to_numpy(x)
            for x in keras.tree.flatten(compiled(forms[label])(*tensors))
        ]
        for label in ("ours", "textbook")
    )
    return max(
        float(np.abs(x - y).max()) for x, y in zip(ours, theirs, strict=True)
    )
