"""How fast routing is, beside the textbook forms, in one process.

    python benchmarks/speed.py

Prints tables and writes `speed.json` and `speed.png` to `benchmarks/results`:
dynamic routing with three iterations and self-attention routing at the shape of
the MNIST CapsNet, forward and with gradients, as our operator and as the
textbook form, which makes the tensor of all votes, in a TensorFlow graph,
compiled with XLA, and, where PyTorch is installed, there as well. Beside them
stands the time that the layer's matrix products alone would take at the rate of
large ones. Then all our routings, at the same shape.
"""

import functools
import importlib.util
import math

import harness
import numpy as np
import tensorflow as tf

from keras_capsules.routing import DynamicRouting
from keras_capsules.routing import SelfAttentionRouting
from keras_capsules.votes import Votes

INPUTS, DIM, OUT_DIM = 1152, 8, 16


def main():
    arguments = harness.parse(
        __doc__, repeats=15, batch=128, outputs=10, routings=6
    )
    shape = arguments.batch, INPUTS, DIM, arguments.outputs, OUT_DIM
    poses, kernel = harness.inputs(*shape)
    flops = 2 * math.prod(shape)
    rate = matrix_product_rate(arguments.repeats)
    results = {"batch": arguments.batch, "gflops_of_products": round(rate)}

    forms = {
        "textbook": harness.textbook_dynamic,
        "textbook, XLA": harness.textbook_dynamic,
        "textbook, XLA, stop_gradient": functools.partial(
            harness.textbook_dynamic, stop_gradient=True
        ),
        "operator": harness.dynamic(),
        "operator, XLA": harness.dynamic(),
        "operator, stop_gradient": harness.dynamic(stop_gradient=True),
    }
    rows = measure(forms, poses, kernel, arguments.repeats)
    if importlib.util.find_spec("torch"):
        rows |= measure_torch(poses, kernel, arguments.repeats)
    # Forward one product for the first iteration and two for each other; in
    # the gradient two for the first, for an agreement 3 and for a mixture 2.
    rows["matrix products alone"] = {
        "forward": round(5 * flops / rate / 1e6, 2),
        "with gradients": round(17 * flops / rate / 1e6, 2),
    }
    harness.show("Dynamic routing, 3 iterations", rows)
    results["dynamic_ms"] = rows

    bias = tf.zeros((arguments.outputs, INPUTS))

    def self_attention(poses, kernel):
        return SelfAttentionRouting()(
            Votes(poses, kernel), weights={"coupling_bias": bias}
        ).poses

    forms = {
        "textbook": harness.textbook_self_attention,
        "textbook, XLA": harness.textbook_self_attention,
        "operator": self_attention,
    }
    rows = measure(forms, poses, kernel, arguments.repeats)
    harness.show("Self-attention routing", rows)
    results["self_attention_ms"] = rows
    panels = {
        "Dynamic routing, 3 iterations": results["dynamic_ms"],
        "Self-attention routing": rows,
    }
    harness.draw("speed", panels, arguments.output)
    forms = {
        name: harness.named(name, shape)
        for name in harness.ROUTINGS[: arguments.routings]
    }
    rows = measure(forms, poses, kernel, max(1, arguments.repeats // 3))
    harness.show("All routings, with their default options", rows)
    results["routings_ms"] = rows
    results["largest_difference"] = difference(poses, kernel)
    harness.write("speed", results, arguments.output)


def measure(forms, poses, kernel, repeats):
    """Medians of each form, forward and with gradients, in graphs."""
    rows = {name: {} for name in forms}
    for column, wrap in (
        ("forward", lambda form: form),
        ("with gradients", harness.with_gradients),
    ):
        graphs = {
            name: tf.function(wrap(form), jit_compile="XLA" in name)
            for name, form in forms.items()
        }
        calls = {
            name: lambda graph=graph: graph(poses, kernel)
            for name, graph in graphs.items()
        }
        for name, value in harness.medians(calls, repeats).items():
            rows[name][column] = value
    return rows


def measure_torch(poses, kernel, repeats):
    """The textbook form in PyTorch, eager and compiled."""
    import torch

    u, w = (torch.tensor(x.numpy()) for x in (poses[:, :, 0], kernel))

    def textbook(u, w):
        votes = torch.einsum("bid,idje->bije", u, w)
        logits = torch.zeros(votes.shape[:3])
        for iteration in range(3):
            coupling = torch.softmax(logits, 2)
            s = torch.einsum("bij,bije->bje", coupling, votes)
            squared = (s * s).sum(-1, keepdim=True) + 1e-7
            v = s * squared.sqrt() / (1 + squared)
            if iteration < 2:
                logits = logits + torch.einsum("bije,bje->bij", votes, v)
        return v

    def gradients(form):
        def step():
            inputs = [x.detach().requires_grad_() for x in (u, w)]
            return torch.autograd.grad(form(*inputs).square().sum(), inputs)

        return step

    forms = {
        "textbook, PyTorch": textbook,
        "textbook, torch.compile": torch.compile(textbook),
    }
    with torch.no_grad():
        forward = harness.medians(
            {k: lambda f=f: f(u, w) for k, f in forms.items()}, repeats
        )
    both = harness.medians({k: gradients(f) for k, f in forms.items()}, repeats)
    return {
        name: {"forward": forward[name], "with gradients": both[name]}
        for name in forms
    }


def matrix_product_rate(repeats, size=2048):
    """What the processor's float32 matrix products reach, in GFLOP/s."""
    matrix = tf.ones((size, size))
    product = tf.function(lambda: tf.reduce_sum(tf.matmul(matrix, matrix)))
    (time,) = harness.medians({"product": product}, repeats).values()
    return 2 * size**3 / time / 1e6


def difference(poses, kernel):
    """How far the operator's values are from the textbook's at most."""
    ours = harness.ours(DynamicRouting())(poses, kernel)[:, :, 0]
    theirs = tf.transpose(harness.textbook_dynamic(poses, kernel), (1, 0, 2))
    return float(np.abs(ours - theirs).max())


if __name__ == "__main__":
    main()
