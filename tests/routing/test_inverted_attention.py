"""Inverted attention routing against an independent NumPy version."""

import json

import numpy as np
import pytest
from keras import ops

from keras_capsules import CapsuleLayer
from keras_capsules.routing.inverted_attention import InvertedAttentionRouting
from tests.helpers.blocks import in_blocks
from tests.helpers.blocks import set_block_size
from tests.helpers.gradients import assert_close
from tests.helpers.gradients import check_slopes
from tests.helpers.gradients import evaluate
from tests.helpers.gradients import gradient
from tests.helpers.gradients import needs_float64
from tests.helpers.testing import NOT_BOOLEANS
from tests.helpers.testing import NOT_POSITIVE_INTEGERS
from tests.helpers.testing import invalid
from tests.helpers.testing import values

# Distinct primes, so that no axis can be taken for another. Matrices have 2
# rows.
BATCH, INPUTS, DIM, OUTPUTS, OUT_DIM = 3, 5, 13, 7, 11


def make_arrays(rows=1, dtype="float64", out_dim=OUT_DIM):
    """Poses, kernel, gamma, beta and earlier outputs."""
    random = np.random.default_rng(0)
    return [
        random.normal(0, deviation, shape).astype(dtype)
        for deviation, shape in (
            (1, (BATCH, INPUTS, rows, DIM)),
            (DIM**-0.5, (INPUTS, DIM, OUTPUTS, out_dim)),
            (1, (rows, out_dim)),
            (1, (rows, out_dim)),
            (1, (BATCH, OUTPUTS, rows * out_dim)),
        )
    ]


def route(poses, kernel, gamma=None, beta=None, outputs=None, **options):
    weights = {"gamma": gamma, "beta": beta}
    return InvertedAttentionRouting(**options)(
        poses,
        kernel,
        weights={k: v for k, v in weights.items() if v is not None},
        outputs=outputs,
    )


def evaluated(*arrays, **options):
    return tuple(
        evaluate(
            lambda *x, field=field: getattr(route(*x, **options), field),
            *arrays,
        )
        for field in ("poses", "coupling")
    )


def oracle(
    poses,
    kernel,
    gamma=1.0,
    beta=0.0,
    outputs=None,
    num_iterations=2,
    scale_agreement=False,
    epsilon=1e-5,
):
    """For one example after the other, with all its votes."""
    all_poses, all_coupling = [], []
    for b, example in enumerate(poses):
        votes = np.einsum("ipd,idje->jipe", example, kernel)
        votes = votes.reshape(*votes.shape[:2], -1)
        numbers = votes.shape[2]
        given = outputs is not None
        p = outputs[b] if given else np.zeros_like(votes[:, 0])
        for _ in range(1 if given else num_iterations):
            logits = (votes * p[:, None]).sum(axis=2)  # [j, i]
            if scale_agreement:
                logits = logits / np.sqrt(numbers)
            q = np.exp(logits) / np.exp(logits).sum(axis=0)
            p = (q[:, :, None] * votes).sum(axis=1)
            for j, pose in enumerate(p):
                if numbers > 1:
                    p[j] = (pose - pose.mean()) / np.sqrt(pose.var() + epsilon)
                    p[j] = p[j] * np.ravel(gamma) + np.ravel(beta)
        all_poses.append(p)
        all_coupling.append(q)
    return np.stack(all_poses), np.stack(all_coupling)


def test_golden_values():
    """Of the votes sin(1), ..., sin(18), of shape [1, 3, 2, 3]."""
    kernel = np.sin(np.arange(1.0, 19.0)).reshape(3, 1, 2, 3)

    poses, coupling = evaluated(
        np.ones((1, 3, 1, 1)), kernel, scale_agreement=True
    )

    golden = [
        [-0.081171, 1.263263, -1.182092],
        [0.735327, -1.413759, 0.678432],
    ]
    np.testing.assert_allclose(poses[0], golden, atol=1e-6)
    np.testing.assert_allclose(
        coupling[0, 0], [0.538417, 0.508588, 0.478015], atol=1e-6
    )


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"num_iterations": 1},
        {"num_iterations": 3, "scale_agreement": True, "epsilon": 0.1},
    ],
    ids=["default", "uniform", "other"],
)
@pytest.mark.parametrize("rows", [1, 2], ids=["vectors", "matrices"])
def test_equals_the_oracle(rows, options):
    arrays = make_arrays(rows)[:4]
    ours = evaluated(*arrays, **options)
    for one, exact in zip(ours, oracle(*arrays, **options), strict=True):
        assert_close(one, exact)


def test_outputs_give_one_iteration():
    arrays = make_arrays()
    exact = oracle(*arrays)
    for number in (1, 3):
        ours = evaluated(*arrays, num_iterations=number)
        assert_close(ours[0], exact[0])
        assert_close(ours[1], exact[1])


def test_iterations_are_steps_from_their_own_outputs():
    arrays = make_arrays()[:4]
    poses, _ = evaluated(*arrays, num_iterations=1)
    for _ in range(2):
        poses, coupling = evaluated(*arrays, poses)
    together = evaluated(*arrays, num_iterations=3)
    assert_close(poses, together[0])
    assert_close(coupling, together[1])


def test_single_numbers_are_not_normalized():
    arrays = make_arrays(out_dim=1)[:2]
    ours = evaluated(*arrays)
    for one, exact in zip(ours, oracle(*arrays), strict=True):
        assert_close(one, exact)


@needs_float64
@pytest.mark.parametrize(
    "number", [4, 5], ids=["from-the-start", "from-outputs"]
)
@in_blocks
def test_gradients_equal_numeric_ones(size, number, monkeypatch):
    set_block_size(monkeypatch, size)
    arrays = make_arrays()[:number]

    def loss(*x):
        return ops.sum(ops.sin(route(*x, num_iterations=3).poses))

    gradients = gradient(loss, *arrays)
    check_slopes(loss, gradients, *arrays, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("size", [0.0, 1e-30, 1e15], ids=["0", "tiny", "huge"])
def test_extreme_votes_stay_finite(size):
    poses, *others = make_arrays(dtype="float32")[:4]
    poses = (poses * size).astype("float32")

    value, coupling = evaluated(poses, *others)
    assert np.isfinite(value).all()
    assert_close(coupling.sum(axis=1), np.ones((BATCH, INPUTS)), 1e-6)
    if size < 1:  # a softmax of huge logits is saturated
        slopes = gradient(lambda *x: ops.sum(route(*x).poses), poses, *others)
        assert all(np.isfinite(each).all() for each in slopes)


@pytest.mark.parametrize("scale", [True, False])
@pytest.mark.parametrize("center", [True, False])
def test_weights_of_the_layer(scale, center):
    routing = InvertedAttentionRouting(scale=scale, center=center)
    layer = CapsuleLayer(7, (2, 4), routing=routing)
    layer.build((None, 5, 2, 3))
    weights = {w.name: ops.convert_to_numpy(w) for w in layer.weights}
    assert weights.pop("kernel").shape == (5, 3, 7, 4)
    if scale:
        np.testing.assert_array_equal(weights.pop("gamma"), np.ones((2, 4)))
    if center:
        np.testing.assert_array_equal(weights.pop("beta"), np.zeros((2, 4)))
    assert not weights


def test_single_numbers_need_no_weights():
    layer = CapsuleLayer(7, 1, routing=InvertedAttentionRouting())
    layer.build((None, 5, 3))
    assert [weight.name for weight in layer.weights] == ["kernel"]


def test_poses_of_a_new_layer_are_normalized():
    layer = CapsuleLayer(7, 11, routing=InvertedAttentionRouting(1))
    # So long that epsilon makes no difference.
    poses = layer(1e3 * make_arrays(dtype="float32")[0][:, :, 0])
    poses = ops.convert_to_numpy(poses)
    assert_close(poses.std(axis=-1), np.ones((BATCH, OUTPUTS)), 1e-5)
    np.testing.assert_allclose(poses.mean(axis=-1), 0, atol=1e-6)


def test_config():
    options = {
        "num_iterations": 3,
        "scale_agreement": True,
        "epsilon": 0.5,
        "scale": False,
        "center": False,
    }
    config = InvertedAttentionRouting(**options).get_config()
    assert json.loads(json.dumps(config)) == options
    assert InvertedAttentionRouting.from_config(config).get_config() == config


@values(NOT_POSITIVE_INTEGERS)
def test_bad_number_of_iterations(value):
    message = invalid("num_iterations", "a positive integer")
    with pytest.raises(ValueError, match=message):
        InvertedAttentionRouting(value)


@pytest.mark.parametrize("value", [0, -1, None, "1", np.inf], ids=str)
def test_bad_epsilon(value):
    message = invalid("epsilon", "a finite number greater than 0")
    with pytest.raises(ValueError, match=message):
        InvertedAttentionRouting(epsilon=value)


@pytest.mark.parametrize("name", ["scale_agreement", "scale", "center"])
@values(NOT_BOOLEANS)
def test_bad_switch(name, value):
    with pytest.raises(ValueError, match=invalid(name, "True or False")):
        InvertedAttentionRouting(**{name: value})


# Limits.


@pytest.mark.parametrize("exponent", [10, 20, 30, 37])
def test_poses_of_any_magnitude_are_normalized(exponent):
    """Their squares are infinite from 1e20 on in float32."""
    arrays = make_arrays(dtype="float32")[:2]
    expected, _ = evaluated(*arrays, num_iterations=1)
    arrays[0] *= np.float32(10.0**exponent / 20)
    poses, _ = evaluated(*arrays, num_iterations=1)
    # Epsilon counts for less and less.
    np.testing.assert_allclose(poses, expected, rtol=1e-3, atol=1e-3)


def test_three_layers_of_zeros_in_float16():
    """Each would multiply the gradient by 316, a million times float16's."""
    layers = [
        CapsuleLayer(5, 7, routing="inverted_attention", dtype="float16")
        for _ in range(3)
    ]
    zeros = np.zeros((2, 3, 4), "float16")
    for layer in layers:
        layer.build((2, 3, 4) if layer is layers[0] else (2, 5, 7))

    def stack(x):
        for layer in layers:
            x = layer(x)
        return x

    assert np.isfinite(evaluate(stack, zeros)).all()
    slopes = gradient(lambda x: ops.sum(ops.sin(stack(x))), zeros)
    assert np.isfinite(slopes).all()
