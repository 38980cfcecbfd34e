"""EM routing against an independent NumPy version."""

import keras
import numpy as np
import pytest
from keras import ops

from keras_capsules import CapsuleLayer
from keras_capsules.routing import EMRouting
from keras_capsules.routing import RoutingSpec
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

BETAS = np.random.default_rng(1).normal(size=(2, OUTPUTS))


def route(routing, poses, kernel, activations, beta_u, beta_a, **kwargs):
    weights = {"beta_u": beta_u, "beta_a": beta_a}
    return routing(
        poses, kernel, activations=activations, weights=weights, **kwargs
    )


def oracle(
    poses,
    kernel,
    activations,
    beta_u,
    beta_a,
    identities=None,
    num_iterations=3,
    inverse_temperature=0.01,
    inverse_temperature_decay=0.95,
    min_variance=1e-4,
    cost_scale=1.0,
):
    """As the paper has it, but for the units of `beta_a`."""
    votes = np.einsum("bipd,idje->bjipe", poses, kernel)
    batch, outputs, inputs = votes.shape[:3]
    flat = votes.reshape(batch, outputs, inputs, -1)
    if identities is None:
        identities = one_window_each(poses)
    if activations is None:
        activations = np.ones((batch, inputs))
    scale = {"normalized": 100 * outputs / inputs}.get(cost_scale, cost_scale)

    def temperature(iteration):
        return inverse_temperature * (
            1 - inverse_temperature_decay ** (iteration + 1)
        )

    beta_a = beta_a / temperature(num_iterations - 1)
    r = shares_of_inputs(np.zeros((batch, outputs, inputs)), identities)
    means = np.empty((batch, outputs, flat.shape[3]))
    variances, active = np.empty_like(means), np.empty((batch, outputs))
    for iteration in range(num_iterations):
        for j in range(outputs):
            for b in range(batch):
                mass = r[b, j] * activations[b]
                total = mass.sum()
                mean = mass @ flat[b, j] / total
                variance = mass @ (flat[b, j] - mean) ** 2 / total
                variance = variance + min_variance
                cost = scale * total * (beta_u[j] + np.log(variance) / 2)
                logit = temperature(iteration) * (beta_a[j] - cost.sum())
                active[b, j] = 1 / (1 + np.exp(-logit))
                means[b, j], variances[b, j] = mean, variance
        if iteration + 1 < num_iterations:
            off = (flat - means[:, :, None]) ** 2 / variances[:, :, None]
            heights = np.log(2 * np.pi * variances)[:, :, None]
            density = -0.5 * (off + heights).sum(axis=3)
            r = shares_of_inputs(
                np.log(active)[..., None] + density, identities
            )
    return means, active, r


def check(routing, arrays, exact):
    values = evaluate_all(lambda *x: route(routing, *x), *arrays)
    for value, expected in zip(values, exact, strict=True):
        assert_close(value, expected, TOLERANCE)


def test_golden_values():
    """Of the votes sin(1), ..., sin(18), of shape [1, 3, 2, 3]."""
    arrays = [
        np.ones((1, 3, 1, 1)),
        np.sin(np.arange(1.0, 19.0)).reshape(3, 1, 2, 3),
        np.array([[0.9, 0.4, 0.7]]),
        np.zeros(2),
        np.zeros(2),
    ]
    routing = EMRouting(inverse_temperature=1, min_variance=1e-9)
    golden = [
        [[0.631154, 0.980734, 0.428631], [-0.562857, -0.960231, -0.474773]],
        [0.651266, 0.852869],
        [[0.069143, 0.974486, 0.156794], [0.930857, 0.025514, 0.843206]],
    ]
    values = evaluate_all(lambda *x: route(routing, *x), *arrays)
    for value, expected in zip(values, golden, strict=True):
        value = value.reshape(np.shape(expected))
        np.testing.assert_allclose(value, expected, atol=1e-6)


@pytest.mark.parametrize(
    "kwargs",
    [
        {},
        {"num_iterations": 1, "cost_scale": "normalized"},
        {"inverse_temperature": 0.5, "cost_scale": 0.3, "min_variance": 0.1},
        {
            "num_iterations": 2,
            "inverse_temperature": 0.3,
            "inverse_temperature_decay": 0,
            "cost_scale": "normalized",
        },
    ],
)
@pytest.mark.parametrize("rows", [1, 2], ids=["vectors", "matrices"])
def test_equals_the_oracle(rows, kwargs):
    arrays = [*make_arrays(rows), *BETAS]
    check(EMRouting(**kwargs), arrays, oracle(*arrays, **kwargs))


def test_inputs_without_activations_are_fully_active():
    poses, kernel, _ = make_arrays()
    value = evaluate(
        lambda *x: route(EMRouting(), x[0], x[1], None, *x[2:]).poses,
        poses,
        kernel,
        *BETAS,
    )
    exact = oracle(poses, kernel, None, *BETAS)
    assert_close(value, exact[0], TOLERANCE)


def test_one_output_and_one_example():
    arrays = [*make_arrays(1, 1, INPUTS, 1), *BETAS[:, :1]]
    exact = oracle(*arrays)
    assert (exact[2] == 1).all()
    check(EMRouting(), arrays, exact)


@on_one_backend
@pytest.mark.parametrize(
    ("grid", "strides", "padding"),
    [
        ((5, 4), (1, 1), "valid"),
        ((7, 4), (2, 1), "valid"),
        ((3, 4), (1, 1), "same"),
        ((5, 3), (2, 1), "same"),
    ],
)
@in_blocks
def test_outputs_at_all_positions_compete_for_an_input(
    grid, strides, padding, size, monkeypatch
):
    set_block_size(monkeypatch, size)
    convolution = Convolution(grid, (3, 2), strides, padding)
    arrays = [*convolution.make_arrays(images=3), *BETAS]
    routing = EMRouting(inverse_temperature=0.5)

    def routed(*x):
        weights = {"beta_u": x[3], "beta_a": x[4]}
        return convolution.route(routing, *x[:3], weights=weights)

    identities = convolution.identities(images=3)
    exact = oracle(
        convolution.unfold(arrays[0]),
        arrays[1],
        convolution.unfold(arrays[2]),
        *BETAS,
        identities=identities,
        inverse_temperature=0.5,
    )
    values = evaluate_all(routed, *arrays)
    for value, expected in zip(values, exact, strict=True):
        assert_close(value, expected, TOLERANCE)
    for capsule in np.unique(identities):
        shares = np.moveaxis(values.coupling, 1, 2)[identities == capsule]
        total = shares.sum()
        assert total == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_inactive_inputs_count_for_nothing(dtype):
    check_that_inactive_inputs_count_for_nothing(
        lambda *x: route(EMRouting(), *x, *BETAS.astype(dtype)), dtype
    )


def test_padding_takes_no_part():
    """A window of padding and one input capsule: its vote is the pose."""
    convolution = Convolution((2, 1), (2, 1), (2, 1), "same", types=1)
    padded = Convolution((1, 1), (2, 1), (2, 1), "same", types=1)
    poses, kernel, activations = convolution.make_arrays()

    def value(*x):
        weights = dict(zip(("beta_u", "beta_a"), BETAS, strict=True))
        return padded.route(EMRouting(), *x, weights=weights).poses

    value = evaluate(value, poses[:, :1], kernel, activations[:, :1])

    votes = np.einsum("bd,dje->bje", poses[:, 0, 0, 0, 0], kernel[0])
    assert_close(value, votes, 1e-5)


@needs_float64
@pytest.mark.parametrize("is_convolution", [False, True])
@in_blocks
def test_gradients_equal_numeric_ones(size, is_convolution, monkeypatch):
    set_block_size(monkeypatch, size)
    routing = EMRouting(inverse_temperature=1.0)
    convolution = Convolution((3, 4), (2, 2), (1, 2))
    arrays = make_arrays(2)
    if is_convolution:
        arrays = convolution.make_arrays(images=3)

    def loss(poses, kernel, activations, beta_u, beta_a):
        arguments = poses, kernel, activations
        weights = {"beta_u": beta_u, "beta_a": beta_a}
        if is_convolution:
            routed = convolution.route(routing, *arguments, weights=weights)
        else:
            routed = route(routing, *arguments, beta_u, beta_a)
        return ops.sum(ops.sin(routed.poses)) + ops.sum(
            ops.cos(3 * routed.activations[:, :, None] * routed.coupling)
        )

    arrays = [*arrays, *BETAS]
    gradients = gradient(loss, *arrays)
    assert all(np.abs(each).max() > 1e-3 for each in gradients)
    check_slopes(loss, gradients, *arrays, step=1e-6, rtol=1e-5, atol=1e-6)


@on_one_backend
def test_the_order_of_input_capsules_does_not_matter():
    poses, kernel, activations = make_arrays()
    order = np.random.default_rng(3).permutation(INPUTS)

    def value(*x):
        routed = route(EMRouting(), *x)
        return routed.poses * routed.activations[:, :, None]

    assert_close(
        evaluate(
            value, poses[:, order], kernel[order], activations[:, order], *BETAS
        ),
        evaluate(value, poses, kernel, activations, *BETAS),
        TOLERANCE,
    )


@on_one_backend
@pytest.mark.parametrize(
    ("votes", "active", "dtype"),
    [
        (1.0, 0.0, "float32"),
        (0.0, 0.0, "float32"),
        (0.0, 1.0, "float32"),
        (1e4, 1.0, "float32"),
        (1e4, 1e-30, "float32"),
        (1.0, 0.0, "float16"),
        (100.0, 1.0, "float16"),
    ],
)
def test_extremes_stay_finite(votes, active, dtype):
    poses, kernel, activations = make_arrays()
    arrays = [votes * poses, kernel, active * activations, *BETAS]
    arrays = [each.astype(dtype) for each in arrays]
    routing = EMRouting(cost_scale="normalized")

    for value in evaluate_all(lambda *x: route(routing, *x), *arrays):
        assert value.dtype == "float32"
        assert np.isfinite(value.astype(dtype)).all()  # as a layer returns it

    def loss(*x):
        routed = route(routing, *x)
        return ops.sum(routed.poses) + ops.sum(ops.square(routed.activations))

    for slope in gradient(loss, *arrays):
        assert np.isfinite(slope).all()


def test_votes_that_nearly_agree_keep_their_digits():
    """A difference of sums of squares of float32 would have none of them."""
    random = np.random.default_rng(0)
    arrays = [
        1000 + random.normal(0, 0.01, (BATCH, INPUTS, 1, 1)),
        np.ones((INPUTS, 1, OUTPUTS, OUT_DIM)),
        np.ones((BATCH, INPUTS)),
        *np.zeros((2, OUTPUTS)),
    ]
    arrays = [each.astype("float32") for each in arrays]
    kwargs = {"inverse_temperature": 0.5, "min_variance": 1e-6}
    values = evaluate_all(lambda *x: route(EMRouting(**kwargs), *x), *arrays)
    exact = oracle(*(each.astype("float64") for each in arrays), **kwargs)
    assert exact[1].max() < 1 - 1e-3
    assert_close(values.activations, exact[1], 1e-3)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_16_bits_are_squared_in_32(dtype):
    """Squares of these votes would overflow a float16."""
    poses, kernel, activations = make_arrays()
    arrays = [1000 * poses, kernel, activations, *BETAS]
    arrays = [ops.cast(each, dtype) for each in arrays]
    routed = route(EMRouting(1), *arrays)
    exact = oracle(
        *(
            ops.convert_to_numpy(ops.cast(each, "float32")).astype("float64")
            for each in arrays
        ),
        num_iterations=1,
    )
    for value, expected in zip(routed, exact, strict=True):
        assert keras.backend.standardize_dtype(value.dtype) == "float32"
        assert_close(ops.convert_to_numpy(value), expected, 1e-5)


def test_inactive_inputs_leave_their_mean_and_no_evidence():
    poses, kernel, activations = make_arrays()
    arrays = [poses, kernel, 0 * activations, BETAS[0], BETAS[1]]
    value = evaluate(lambda *x: route(EMRouting(1), *x).poses, *arrays)
    mean = np.einsum("bid,idje->bje", poses[:, :, 0], kernel) / INPUTS
    assert_close(value, mean, 1e-5)
    value = evaluate(lambda *x: route(EMRouting(), *x).activations, *arrays)
    expected = np.tile(1 / (1 + np.exp(-BETAS[1])), (BATCH, 1))
    assert_close(value, expected, 1e-5)


@on_one_backend
@pytest.mark.parametrize("scale", [1.0, "normalized"])
def test_half_of_the_capsules_start_active(scale):
    poses, kernel, activations = make_arrays()
    routing = EMRouting(cost_scale=scale)
    weights = routing.build(
        keras.layers.Layer(),
        RoutingSpec(INPUTS, OUTPUTS, (1, OUT_DIM), (1, DIM)),
    )
    betas = [ops.convert_to_numpy(weights[x]) for x in ("beta_u", "beta_a")]
    arrays = [poses, kernel, activations, *betas]
    arrays = [each.astype("float32") for each in arrays]
    value = evaluate(lambda *x: route(routing, *x).activations, *arrays)
    assert 0.35 < value.mean() < 0.65


def test_weights_of_a_layer_and_training():
    routing = EMRouting(
        2, inverse_temperature=1.0, beta_u_initializer="random_normal"
    )
    model = host_model(routing)
    assert {weight.name: tuple(weight.shape) for weight in model.weights} == {
        "kernel": (INPUTS, DIM, OUTPUTS, OUT_DIM),
        "beta_u": (OUTPUTS,),
        "beta_a": (OUTPUTS,),
    }
    before = [ops.convert_to_numpy(weight) for weight in model.weights]
    assert before[1].any() and not before[2].any()
    model.compile("sgd", ["mse", "mse"], **QUICK)
    poses, _, activations = make_arrays()
    targets = [np.ones((BATCH, OUTPUTS, 1, OUT_DIM)), np.ones((BATCH, OUTPUTS))]
    model.fit([poses, activations], targets, verbose=0)
    for old, weight in zip(before, model.weights, strict=True):
        assert np.abs(ops.convert_to_numpy(weight) - old).max() > 0


def test_configuration():
    kwargs = {
        "num_iterations": 2,
        "inverse_temperature": 1.0,
        "inverse_temperature_decay": 0.5,
        "min_variance": 0.01,
        "cost_scale": "normalized",
        "beta_u_initializer": keras.initializers.Constant(2.0),
        "beta_a_initializer": "ones",
    }
    config = EMRouting(**kwargs).get_config()
    assert set(config) == set(kwargs)
    loaded = keras.saving.deserialize_keras_object(
        keras.saving.serialize_keras_object(EMRouting(**kwargs))
    )
    assert loaded.get_config() == config
    assert loaded.beta_u_initializer.value == 2.0
    assert EMRouting(cost_scale=3).get_config()["cost_scale"] == 3.0


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("num_iterations", 0, "a positive integer"),
        ("inverse_temperature", 0, "a finite number greater than 0"),
        ("inverse_temperature_decay", 1.0, "a finite number of at least 0"),
        ("inverse_temperature_decay", -0.1, "a finite number of at least 0"),
        ("min_variance", 0.0, "a finite number greater than 0"),
        ("cost_scale", "ibm", "'normalized' or a finite number"),
        ("cost_scale", -1, "'normalized' or a finite number"),
    ],
)
def test_bad_options(name, value, expected):
    with pytest.raises(ValueError, match=invalid(name, expected)):
        EMRouting(**{name: value})


def test_bad_initializer():
    with pytest.raises(ValueError, match="initializer"):
        EMRouting(beta_a_initializer="sevens")


def test_outputs_are_refused():
    arrays = [each.astype("float32") for each in (*make_arrays(), *BETAS)]
    outputs = np.zeros((BATCH, OUTPUTS, OUT_DIM), "float32")
    with pytest.raises(ValueError, match="cannot start from earlier outputs"):
        route(EMRouting(), *arrays, outputs=outputs)


def test_no_initializer_is_the_default():
    routing = EMRouting(beta_u_initializer=None, beta_a_initializer=None)
    assert routing.get_config() == EMRouting().get_config()


def test_inactive_inputs_count_in_the_normalized_scale():
    """They are no padding: an activation of 0 is the limit of tiny ones."""
    poses = np.random.default_rng(1).normal(size=(2, 10, 4)).astype("float32")
    layer = CapsuleLayer(3, 5, routing=EMRouting(cost_scale="normalized"))
    results = []
    for tiny in (1e-20, 0.0):
        activations = np.full((2, 10), tiny, "float32")
        activations[:, :3] = 1
        results.append(ops.convert_to_numpy(layer((poses, activations))[1]))
    np.testing.assert_allclose(results[1], results[0], rtol=1e-5)
