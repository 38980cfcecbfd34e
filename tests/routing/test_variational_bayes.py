"""Variational-Bayes routing and digamma against NumPy and SciPy."""

import keras
import numpy as np
import pytest
import scipy.special
from keras import ops

from keras_capsules.routing import RoutingSpec
from keras_capsules.routing import VariationalBayesRouting
from keras_capsules.utils.digamma import digamma
from tests.helpers.blocks import in_blocks
from tests.helpers.blocks import set_block_size
from tests.helpers.gradients import assert_close
from tests.helpers.gradients import check_slopes
from tests.helpers.gradients import evaluate
from tests.helpers.gradients import gradient
from tests.helpers.gradients import needs_float64
from tests.helpers.mixtures import BATCH
from tests.helpers.mixtures import DIM
from tests.helpers.mixtures import INPUTS
from tests.helpers.mixtures import OUT_DIM
from tests.helpers.mixtures import OUTPUTS
from tests.helpers.mixtures import TOLERANCE
from tests.helpers.mixtures import Convolution
from tests.helpers.mixtures import check_that_inactive_inputs_count_for_nothing
from tests.helpers.mixtures import evaluate_all
from tests.helpers.mixtures import host_model
from tests.helpers.mixtures import make_arrays
from tests.helpers.mixtures import one_window_each
from tests.helpers.mixtures import shares_of_inputs
from tests.helpers.testing import QUICK
from tests.helpers.testing import invalid
from tests.helpers.testing import on_one_backend

BETA = np.random.default_rng(1).normal(size=OUTPUTS)
covariances = pytest.mark.parametrize("covariance", ["diagonal", "full"])


def plain(covariance="diagonal", **kwargs):
    """A routing without normalization."""
    return VariationalBayesRouting(
        covariance=covariance, batch_normalization=False, **kwargs
    )


def route(routing, poses, kernel, activations, beta, **kwargs):
    weights = {"beta": beta}
    return routing(
        poses, kernel, activations=activations, weights=weights, **kwargs
    )


def oracle(
    poses,
    kernel,
    activations,
    beta,
    identities=None,
    num_iterations=3,
    covariance="diagonal",
    weight_concentration_prior=1.0,
    mean_precision_prior=1.0,
    covariance_prior=1.0,
):
    """The paper's algorithm, with matrices for diagonals as well."""
    votes = np.einsum("bipd,idje->bjipe", poses, kernel)
    batch, outputs, inputs = votes.shape[:3]
    flat = votes.reshape(batch, outputs, inputs, -1)
    size = flat.shape[3]
    if identities is None:
        identities = one_window_each(poses)
    if activations is None:
        activations = np.ones((batch, inputs))
    r = shares_of_inputs(np.zeros((batch, outputs, inputs)), identities)
    means = np.empty((batch, outputs, size))
    logits = np.empty((batch, outputs))
    scores = np.empty((batch, outputs, inputs))
    for iteration in range(num_iterations):
        masses = r * activations[:, None]
        alpha = weight_concentration_prior + masses.sum(axis=2)  # [b, j]
        log_pi = scipy.special.digamma(alpha) - scipy.special.digamma(
            alpha.sum(axis=1, keepdims=True)
        )
        for j in range(outputs):
            for b in range(batch):
                mass, total = masses[b, j], masses[b, j].sum()
                kappa, nu = mean_precision_prior + total, size + 1 + total
                mean = mass @ flat[b, j] / total
                m = total * mean / kappa
                off = flat[b, j] - mean
                inverse = (
                    covariance_prior * np.eye(size)
                    + (off * mass[:, None]).T @ off
                    + mean_precision_prior
                    * total
                    / kappa
                    * np.outer(mean, mean)
                )
                if covariance == "diagonal":
                    inverse = inverse * np.eye(size)
                psi = np.linalg.inv(inverse)
                log_det = (
                    scipy.special.digamma((nu - np.arange(size)) / 2).sum()
                    + size * np.log(2)
                    + np.linalg.slogdet(psi)[1]
                )
                off = flat[b, j] - m
                distance = size / kappa + nu * np.sum(off @ psi * off, axis=1)
                scores[b, j] = (
                    log_pi[b, j]
                    + log_det / 2
                    - size / 2 * np.log(2 * np.pi)
                    - distance / 2
                )
                entropy = size / 2 * np.log(2 * np.pi * np.e) - log_det / 2
                logits[b, j] = beta[j] - np.exp(log_pi[b, j]) * entropy
                means[b, j] = m
        if iteration + 1 < num_iterations:
            r = shares_of_inputs(scores, identities)
    return means, 1 / (1 + np.exp(-logits)), r


def check(routing, arrays, exact):
    values = evaluate_all(lambda *x: route(routing, *x), *arrays)
    for value, expected in zip(values, exact, strict=True):
        assert_close(value, expected, TOLERANCE)


@needs_float64
def test_digamma():
    x = np.concatenate([np.linspace(0.01, 30, 1000), 10.0 ** np.arange(-5, 9)])
    exact = scipy.special.digamma(x)
    value = evaluate(digamma, x)
    np.testing.assert_allclose(value, exact, rtol=1e-12, atol=1e-12)
    slopes = gradient(lambda x: ops.sum(digamma(x)), x)
    exact = scipy.special.polygamma(1, x)
    np.testing.assert_allclose(slopes, exact, rtol=1e-9)


def test_digamma_in_float32():
    x = np.float32([0.5, 1, 1.4616321, 2.5, 7, 100, 1e5])
    value = evaluate(digamma, x)
    assert value.dtype == "float32"
    exact = scipy.special.digamma(x.astype("float64"))
    np.testing.assert_allclose(value, exact, rtol=1e-6, atol=1e-6)


def test_golden_values():
    """Of the votes sin(1), ..., sin(18), of shape [1, 3, 2, 3]."""
    arrays = [
        np.ones((1, 3, 1, 1)),
        np.sin(np.arange(1.0, 19.0)).reshape(3, 1, 2, 3),
        np.array([[0.9, 0.4, 0.7]]),
        np.zeros(2),
    ]
    golden = [
        [[0.330686, 0.478349, 0.186220], [-0.272999, -0.482315, -0.248194]],
        1 / (1 + np.exp([1.305505, 1.296521])),
        [[0.508710, 0.503464, 0.496776], [0.491290, 0.496536, 0.503224]],
    ]
    values = evaluate_all(lambda *x: route(plain(), *x), *arrays)
    for value, expected in zip(values, golden, strict=True):
        value = value.reshape(np.shape(expected))
        np.testing.assert_allclose(value, expected, atol=1e-6)


@pytest.mark.parametrize(
    "kwargs",
    [
        {},
        {"num_iterations": 1},
        {
            "weight_concentration_prior": 0.5,
            "mean_precision_prior": 2.0,
            "covariance_prior": 3.0,
        },
    ],
)
@pytest.mark.parametrize("rows", [1, 2], ids=["vectors", "matrices"])
@covariances
def test_equals_the_oracle(covariance, rows, kwargs):
    arrays = [*make_arrays(rows), BETA]
    exact = oracle(*arrays, covariance=covariance, **kwargs)
    check(plain(covariance, **kwargs), arrays, exact)


def test_inputs_without_activations_are_fully_active():
    poses, kernel, _ = make_arrays()
    value = evaluate(
        lambda *x: route(plain(), x[0], x[1], None, x[2]).poses,
        poses,
        kernel,
        BETA,
    )
    assert_close(value, oracle(poses, kernel, None, BETA)[0], TOLERANCE)


def test_one_output_and_one_example():
    arrays = [*make_arrays(1, 1, INPUTS, 1), BETA[:1]]
    exact = oracle(*arrays)
    assert (exact[2] == 1).all()
    check(plain(), arrays, exact)


@on_one_backend
@pytest.mark.parametrize(
    ("grid", "strides", "padding", "covariance"),
    [
        ((5, 4), (1, 1), "valid", "diagonal"),
        ((7, 4), (2, 1), "valid", "full"),
        ((5, 3), (2, 1), "same", "diagonal"),
    ],
)
@in_blocks
def test_outputs_at_all_positions_compete_for_an_input(
    grid, strides, padding, covariance, size, monkeypatch
):
    set_block_size(monkeypatch, size)
    convolution = Convolution(grid, (3, 2), strides, padding)
    arrays = [*convolution.make_arrays(images=3), BETA]
    routing = plain(covariance)

    def routed(*x):
        weights = {"beta": x[3]}
        return convolution.route(routing, *x[:3], weights=weights)

    identities = convolution.identities(images=3)
    exact = oracle(
        convolution.unfold(arrays[0]),
        arrays[1],
        convolution.unfold(arrays[2]),
        BETA,
        identities=identities,
        covariance=covariance,
    )
    values = evaluate_all(routed, *arrays)
    for value, expected in zip(values, exact, strict=True):
        assert_close(value, expected, TOLERANCE)
    for capsule in np.unique(identities):
        shares = np.moveaxis(values.coupling, 1, 2)[identities == capsule]
        total = shares.sum()
        assert total == pytest.approx(1, abs=1e-5)


@on_one_backend
@pytest.mark.parametrize("dtype", ["float32", "float16"])
@covariances
def test_inactive_inputs_count_for_nothing(covariance, dtype):
    check_that_inactive_inputs_count_for_nothing(
        lambda *x: route(plain(covariance), *x, BETA.astype(dtype)), dtype
    )


@needs_float64
@covariances
@pytest.mark.parametrize("is_convolution", [False, True])
@in_blocks
def test_gradients_equal_numeric_ones(
    size, is_convolution, covariance, monkeypatch
):
    set_block_size(monkeypatch, size)
    routing = plain(covariance)
    convolution = Convolution((3, 4), (2, 2), (1, 2))
    arrays = make_arrays(2)
    if is_convolution:
        arrays = convolution.make_arrays(images=3)
    arrays = [*arrays, BETA]

    def loss(*x):
        if is_convolution:
            weights = {"beta": x[3]}
            routed = convolution.route(routing, *x[:3], weights=weights)
        else:
            routed = route(routing, *x)
        return ops.sum(ops.sin(routed.poses)) + ops.sum(
            ops.cos(3 * routed.activations[:, :, None] * routed.coupling)
        )

    gradients = gradient(loss, *arrays)
    assert all(np.abs(each).max() > 1e-3 for each in gradients)
    check_slopes(loss, gradients, *arrays, step=1e-6, rtol=1e-5, atol=1e-6)


@on_one_backend
def test_the_order_of_input_capsules_does_not_matter():
    poses, kernel, activations = make_arrays()
    order = np.random.default_rng(3).permutation(INPUTS)

    def value(*x):
        routed = route(plain(), *x)
        return routed.poses * routed.activations[:, :, None]

    assert_close(
        evaluate(
            value, poses[:, order], kernel[order], activations[:, order], BETA
        ),
        evaluate(value, poses, kernel, activations, BETA),
        TOLERANCE,
    )


@on_one_backend
@pytest.mark.parametrize(
    ("votes", "active", "dtype"),
    [
        (1.0, 0.0, "float32"),
        (0.0, 0.0, "float32"),
        (1e4, 1.0, "float32"),
        (1.0, 0.0, "float16"),
        (100.0, 1.0, "float16"),
    ],
)
@covariances
def test_extremes_stay_finite(covariance, votes, active, dtype):
    poses, kernel, activations = make_arrays()
    arrays = [votes * poses, kernel, active * activations, BETA]
    arrays = [each.astype(dtype) for each in arrays]
    routing = plain(covariance)

    values = evaluate_all(lambda *x: route(routing, *x), *arrays)
    for value in values:
        assert value.dtype == "float32"
        assert np.isfinite(value.astype(dtype)).all()  # as a layer returns it
    if not active:  # the prior's
        assert np.abs(values.poses).max() < 1e-2

    def loss(*x):
        routed = route(routing, *x)
        return ops.sum(routed.poses) + ops.sum(ops.square(routed.activations))

    for slope in gradient(loss, *arrays):
        assert np.isfinite(slope).all()


def test_normalization_of_activations_and_poses():
    model = host_model(VariationalBayesRouting(), rows=2)
    layer = model.layers[-1]
    normalizations = layer.routing_weights
    assert {
        weight.path.split("/", 1)[1]: tuple(weight.shape)
        for weight in model.trainable_weights
    } == {
        "kernel": (INPUTS, DIM, OUTPUTS, OUT_DIM),
        "activation_normalization/gamma": (OUTPUTS,),
        "activation_normalization/beta": (OUTPUTS,),
    }
    assert len(model.non_trainable_weights) == 4
    for weight in model.trainable_weights[1:]:
        weight.assign(np.random.default_rng(2).normal(size=OUTPUTS))
    poses, _, activations = (each.astype("float32") for each in make_arrays(2))
    kernel = ops.convert_to_numpy(layer.kernel).astype("float64")
    exact = oracle(poses.astype("float64"), kernel, activations, np.zeros(5))
    exact_poses = exact[0].reshape(BATCH, OUTPUTS, 2, OUT_DIM)
    logits = np.log(exact[1] / (1 - exact[1]))
    scale, offset = (
        ops.convert_to_numpy(weight) for weight in model.trainable_weights[1:]
    )

    def close(outputs, exact_poses, exact_logits):
        values = [ops.convert_to_numpy(each) for each in outputs]
        assert_close(values[0], exact_poses, 1e-4)
        exact = 1 / (1 + np.exp(-(exact_logits * scale + offset)))
        assert_close(values[1], exact, 1e-3)

    # Not in training, at first: to a mean of 0 and a variance of 1.
    close(model([poses, activations]), exact_poses, logits)
    outputs = model([poses, activations], training=True)
    mean = exact_poses.mean(axis=(0, 2, 3), keepdims=True)
    variance = exact_poses.var(axis=(0, 2, 3), keepdims=True) + 1e-5
    spread = np.sqrt(logits.var(axis=0) + 1e-5)
    close(
        outputs,
        (exact_poses - mean) / np.sqrt(variance),
        (logits - logits.mean(axis=0)) / spread,
    )
    moving = normalizations["activation_normalization"].moving_mean
    assert_close(ops.convert_to_numpy(moving), 0.1 * logits.mean(axis=0), 1e-4)


def test_training(tmp_path):
    routing = VariationalBayesRouting(2)
    model = host_model(routing)
    model.compile("sgd", ["mse", "mse"], **QUICK)
    before = [ops.convert_to_numpy(weight) for weight in model.weights]
    poses, _, activations = make_arrays()
    targets = [np.ones((BATCH, OUTPUTS, 1, OUT_DIM)), np.ones((BATCH, OUTPUTS))]
    model.fit([poses, activations], targets, verbose=0)
    for old, weight in zip(before, model.weights, strict=True):
        assert np.abs(ops.convert_to_numpy(weight) - old).max() > 0
    # Statistics of normalizations are saved with the layer.
    model.save_weights(tmp_path / "a.weights.h5")
    other = host_model(routing)
    other.load_weights(tmp_path / "a.weights.h5")
    for one, two in zip(model.weights, other.weights, strict=True):
        assert_close(ops.convert_to_numpy(one), ops.convert_to_numpy(two))


@on_one_backend
def test_half_of_the_capsules_start_active():
    poses, kernel, activations = make_arrays()
    weights = plain().build(
        keras.layers.Layer(),
        RoutingSpec(INPUTS, OUTPUTS, (1, OUT_DIM), (1, DIM)),
    )
    beta = ops.convert_to_numpy(weights["beta"])
    arrays = [poses, kernel, activations, beta]
    arrays = [each.astype("float32") for each in arrays]
    value = evaluate(lambda *x: route(plain(), *x).activations, *arrays)
    assert 0.35 < value.mean() < 0.65


def test_configuration():
    kwargs = {
        "num_iterations": 2,
        "covariance": "full",
        "batch_normalization": False,
        "weight_concentration_prior": 0.5,
        "mean_precision_prior": 2.0,
        "covariance_prior": 3.0,
    }
    routing = VariationalBayesRouting(**kwargs)
    assert routing.get_config() == kwargs
    loaded = keras.saving.deserialize_keras_object(
        keras.saving.serialize_keras_object(routing)
    )
    assert loaded.get_config() == kwargs


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("num_iterations", 1.5, "a positive integer"),
        ("covariance", "spherical", "one of 'diagonal', 'full'"),
        ("batch_normalization", "yes", "True or False"),
        ("weight_concentration_prior", 0, "a finite number greater than 0"),
        ("mean_precision_prior", -1.0, "a finite number greater than 0"),
        ("covariance_prior", None, "a finite number greater than 0"),
    ],
)
def test_bad_options(name, value, expected):
    with pytest.raises(ValueError, match=invalid(name, expected)):
        VariationalBayesRouting(**{name: value})


def test_outputs_are_refused():
    arrays = [each.astype("float32") for each in (*make_arrays(), BETA)]
    outputs = np.zeros((BATCH, OUTPUTS, OUT_DIM), "float32")
    with pytest.raises(ValueError, match="cannot start from earlier outputs"):
        route(plain(), *arrays, outputs=outputs)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@covariances
def test_a_broken_example_is_broken_by_itself(covariance, value):
    """Factorizations of matrices raise errors, also for those of others."""
    arrays = [each.astype("float32") for each in (*make_arrays(), BETA)]
    arrays[0][1].flat[3] = value
    whole = route(plain(covariance), *arrays)
    arrays = [arrays[0][:1], arrays[1], arrays[2][:1], BETA.astype("float32")]
    alone = route(plain(covariance), *arrays)
    for one, other in zip(
        (whole.poses, whole.activations),
        (alone.poses, alone.activations),
        strict=True,
    ):
        one, other = map(ops.convert_to_numpy, (one, other))
        np.testing.assert_allclose(one[:1], other, rtol=1e-4, atol=1e-5)
        assert np.isnan(one[1]).any()
