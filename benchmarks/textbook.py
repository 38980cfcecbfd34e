"""Routings as papers and other libraries write them, on any backend.

The votes of the whole batch are one tensor, with output capsules after input
capsules, and every step is a product and a sum over it. Only the routings of
the package are measured against these forms; nothing else uses them.

Axes: b example, i input capsule, j output capsule, d input dimension, e output
dimension, p pose row; h stands for all numbers of an output pose.
"""

import functools
import inspect
import math

import keras
from keras import ops

from keras_capsules.utils.digamma import digamma


def of_layer(form, layer, training):
    """A textbook form with the weights of a layer.

    Args:
        form: A function of this module.
        layer: A built `keras_capsules.CapsuleLayer`.
        training: Boolean.

    Returns:
        A function of poses, a kernel and activations.
    """

    def function(poses, kernel, activations):
        # Without the name of the layer.
        weights = {
            weight.path.split("/", 1)[1]: ops.convert_to_tensor(weight)
            for weight in layer.variables
        }
        given = {
            "activations": activations,
            "weights": weights,
            "training": training,
        }
        taken = inspect.signature(form).parameters
        given = {key: x for key, x in given.items() if key in taken}
        return form(poses, kernel, **given)

    return function


def make_votes(poses, kernel):
    """Votes `[b, i, j, h]` of vectors `[b, i, d]` or matrices `[b, i, p, d]`.

    The kernel is `[i, d, j, e]`.
    """
    if len(poses.shape) == 3:
        return ops.einsum("bid,idje->bije", poses, kernel)
    votes = ops.einsum("bipd,idje->bijpe", poses, kernel)
    return ops.reshape(votes, (*votes.shape[:3], -1))


def with_pose_shape(outputs, poses, kernel):
    """`[b, j, h]` as a layer returns it: `[b, j, e]` or `[b, j, p, e]`."""
    shape = (*outputs.shape[:2], *poses.shape[2:-1], kernel.shape[3])
    return ops.reshape(outputs, shape)


def squash(poses):
    """A length between 0 and 1, as Sabour et al. have it."""
    squared = ops.sum(poses * poses, axis=-1, keepdims=True) + 1e-7
    return poses * (ops.sqrt(squared) / (1 + squared))


def dynamic(poses, kernel, num_iterations=3, stop_gradient=False):
    """Dynamic routing."""
    votes = make_votes(poses, kernel)
    logits = ops.zeros_like(votes[..., :1])
    for iteration in range(num_iterations):
        coupling = ops.softmax(logits, axis=2)
        if stop_gradient:
            coupling = ops.stop_gradient(coupling)
        outputs = squash(ops.sum(votes * coupling, axis=1))
        if iteration + 1 < num_iterations:
            logits = logits + ops.sum(
                votes * outputs[:, None], axis=-1, keepdims=True
            )
    return outputs


def dynamic_in_better_layout(
    poses, kernel, num_iterations=3, stop_gradient=False
):
    """Dynamic routing of votes `[b, j, i, e]`, as products of matrices."""
    inputs, dim, outputs, out_dim = kernel.shape
    votes = ops.matmul(
        ops.transpose(poses, (1, 0, 2)),
        ops.reshape(kernel, (inputs, dim, outputs * out_dim)),
    )
    votes = ops.reshape(votes, (inputs, -1, outputs, out_dim))
    votes = ops.transpose(votes, (1, 2, 0, 3))
    poses = total = squash(ops.sum(votes, axis=2) / outputs)
    for _ in range(1, num_iterations):
        logits = ops.matmul(votes, total[..., None])[..., 0]
        highest = ops.max(ops.stop_gradient(logits), axis=1, keepdims=True)
        powers = ops.exp(logits - highest)
        coupling = powers / ops.sum(powers, axis=1, keepdims=True)
        if stop_gradient:
            coupling = ops.stop_gradient(coupling)
        poses = squash(ops.matmul(coupling[:, :, None], votes)[:, :, 0])
        total = total + poses
    return poses


def self_attention(poses, kernel, weights):
    """Self-attention routing of Efficient-CapsNet."""
    votes = make_votes(poses, kernel)
    total = ops.sum(votes, axis=1, keepdims=True)
    logits = ops.sum(votes * total, axis=-1) / math.sqrt(votes.shape[3])
    coupling = ops.softmax(logits, axis=2)
    coupling = coupling + ops.transpose(weights["coupling_bias"])
    sums = ops.sum(votes * coupling[..., None], axis=1)
    length = ops.sqrt(ops.sum(sums * sums, axis=-1, keepdims=True) + 1e-7)
    return (1 - ops.exp(-length)) * sums / length


def inverted_attention(poses, kernel, weights, num_iterations=2):
    """Inverted dot-product attention routing."""
    votes = make_votes(poses, kernel)
    coupling = ops.ones_like(votes[..., :1]) / votes.shape[2]
    gamma, beta = (
        ops.reshape(weights[name], (-1,)) for name in ("gamma", "beta")
    )
    for iteration in range(num_iterations):
        sums = ops.sum(votes * coupling, axis=1)
        centered = sums - ops.mean(sums, axis=-1, keepdims=True)
        variance = ops.mean(ops.square(centered), axis=-1, keepdims=True)
        outputs = centered / ops.sqrt(variance + 1e-5) * gamma + beta
        if iteration + 1 < num_iterations:
            logits = ops.sum(votes * outputs[:, None], axis=-1, keepdims=True)
            coupling = ops.softmax(logits, axis=2)
    return with_pose_shape(outputs, poses, kernel)


def self_routing(poses, kernel, activations, weights):
    """Self-routing."""
    votes = make_votes(poses, kernel)
    flat = ops.reshape(poses, (*poses.shape[:2], -1))
    logits = ops.einsum("big,igj->bij", flat, weights["routing_kernel"])
    logits = logits + ops.transpose(weights["routing_bias"])
    shares = ops.softmax(logits, axis=2) * activations[..., None]
    received = ops.sum(shares, axis=1)
    outputs = ops.sum(votes * shares[..., None], axis=1) / received[..., None]
    outputs = with_pose_shape(outputs, poses, kernel)
    return outputs, received / ops.sum(activations, axis=1, keepdims=True)


def em(
    poses,
    kernel,
    activations,
    weights,
    num_iterations=3,
    inverse_temperature=0.01,
    min_variance=1e-4,
):
    """EM routing of Hinton et al."""
    votes = make_votes(poses, kernel)
    temperatures = [
        inverse_temperature * (1 - 0.95 ** (iteration + 1))
        for iteration in range(num_iterations)
    ]
    shares = ops.ones_like(votes[..., :1]) / votes.shape[2]
    for iteration, temperature in enumerate(temperatures):
        masses = shares * activations[:, :, None, None]
        total = ops.sum(masses, axis=1, keepdims=True)
        means = ops.sum(masses * votes, axis=1, keepdims=True) / total
        squares = ops.square(votes - means)
        variances = ops.sum(masses * squares, axis=1, keepdims=True) / total
        variances = variances + min_variance
        costs = weights["beta_u"][:, None] + 0.5 * ops.log(variances)
        costs = ops.sum(total * costs, axis=-1)  # [b, 1, j]
        # The layer stores the last of these products.
        bias = temperature / temperatures[-1] * weights["beta_a"]
        logits = bias - temperature * costs
        if iteration + 1 < num_iterations:
            densities = -0.5 * ops.sum(
                squares / variances + ops.log(2 * math.pi * variances), axis=-1
            )
            shares = ops.softmax(ops.log_sigmoid(logits) + densities, axis=2)
            shares = shares[..., None]
    outputs = with_pose_shape(means[:, 0], poses, kernel)
    return outputs, ops.sigmoid(logits[:, 0])


def variational_bayes(
    poses, kernel, activations, weights, training, num_iterations=3
):
    """Variational-Bayes routing, with diagonal covariances and priors of 1."""
    votes = make_votes(poses, kernel)
    size = votes.shape[3]
    places = ops.arange(size, dtype=votes.dtype)
    shares = ops.ones_like(votes[..., :1]) / votes.shape[2]
    for iteration in range(num_iterations):
        masses = shares * activations[:, :, None, None]
        total = ops.sum(masses, axis=1, keepdims=True)  # [b, 1, j, 1]
        means = ops.sum(masses * votes, axis=1, keepdims=True) / total
        strengths = 1 + total
        degrees = size + 1 + total
        fitted = total * means / strengths
        scatter = 1 + ops.sum(
            masses * ops.square(votes - means), axis=1, keepdims=True
        )
        scatter = scatter + total / strengths * ops.square(means)
        log_pi = digamma(1 + total) - digamma(
            ops.sum(1 + total, axis=2, keepdims=True)
        )
        log_det = size * math.log(2) + ops.sum(
            digamma((degrees - places) / 2) - ops.log(scatter),
            axis=-1,
            keepdims=True,
        )
        if iteration + 1 < num_iterations:
            distances = size / strengths + degrees * ops.sum(
                ops.square(votes - fitted) / scatter, axis=-1, keepdims=True
            )
            shares = ops.softmax(
                log_pi + 0.5 * log_det - 0.5 * distances, axis=2
            )
    entropies = 0.5 * size * math.log(2 * math.pi * math.e) - 0.5 * log_det
    logits = (-ops.exp(log_pi) * entropies)[:, 0, :, 0]
    outputs = normalized(
        fitted[:, 0], (0, 2), "pose_normalization", weights, training
    )
    logits = normalized(
        logits, (0,), "activation_normalization", weights, training
    )
    return with_pose_shape(outputs, poses, kernel), ops.sigmoid(logits)


def normalized(x, axes, name, weights, training):
    """Batch normalization over some axes, all but the second."""
    mean, variance = (
        _beside_capsules(
            ops.cast(weights[f"{name}/moving_{which}"], x.dtype), x
        )
        for which in ("mean", "variance")
    )
    if training:
        mean, variance = ops.moments(x, axes, keepdims=True)
    x = (x - mean) / ops.sqrt(variance + 1e-5)
    if f"{name}/gamma" in weights:
        gamma, beta = (
            _beside_capsules(weights[f"{name}/{which}"], x)
            for which in ("gamma", "beta")
        )
        x = x * gamma + beta
    return x


def _beside_capsules(weight, x):
    """`[j]` as `[1, j]` or `[1, j, 1]`."""
    return ops.reshape(weight, (1, -1) + (1,) * (len(x.shape) - 2))


FORMS = {
    "dynamic": {
        "textbook": dynamic,
        "better layout": dynamic_in_better_layout,
    },
    "dynamic, stop_gradient": {
        "textbook": functools.partial(dynamic, stop_gradient=True),
        "better layout": functools.partial(
            dynamic_in_better_layout, stop_gradient=True
        ),
    },
    "self_attention": {"textbook": self_attention},
    "self_routing": {"textbook": self_routing},
    "inverted_attention": {"textbook": inverted_attention},
    "em": {"textbook": em},
    "variational_bayes": {"textbook": variational_bayes},
}


class TextbookCapsules(keras.layers.Layer):
    """A layer of capsules with dynamic routing in its textbook form."""

    def __init__(self, num_capsules, capsule_dim, **kwargs):
        super().__init__(**kwargs)
        self.num_capsules = num_capsules
        self.capsule_dim = capsule_dim

    def build(self, input_shape):
        self.kernel = self.add_weight(
            name="kernel",
            shape=(*input_shape[1:], self.num_capsules, self.capsule_dim),
            initializer=keras.initializers.TruncatedNormal(stddev=0.1),
        )

    def call(self, inputs):
        return dynamic(inputs, ops.convert_to_tensor(self.kernel))
