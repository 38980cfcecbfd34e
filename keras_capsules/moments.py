"""Second moments of votes, for one block of parents at a time.

Routings that fit a Gaussian to the votes for each parent need to know how far
votes are from its center. As with the sums in `keras_capsules.votes`, both
things they ask are derivatives of one form

    G(c, u, W, m, t) = sum over b i j of  c_bij D_bij' t_bj D_bij
    where  D_bij = u_bi W_ij - m_bj

namely, by the operand that each leaves out,

    scatter   dG/dt   sum_i c_bij D_bij^2    how far the votes are spread
    distance  dG/dc   D_bij' t_bj D_bij      how far each vote is off

Deviations D are computed as such, not from sums of squares, whose difference
loses all digits where votes agree. They are as large as the votes, so they
exist for one block of parents only, in the gradient as well.

Axes: as in `keras_capsules.votes`; f stands for a pose's p e numbers. The
matrices t are `[j, b, p, e]` if diagonal, and else `[j, b, f, f]`.
"""

from keras import ops

from keras_capsules._blocks import USUAL_BATCH
from keras_capsules._blocks import block_size
from keras_capsules._blocks import over_blocks
from keras_capsules._dtypes import at_least_float32


def scatter(votes, coefficients, centers, full=False):
    """Sums squared deviations of the votes from their parents' centers.

    Args:
        votes: A `keras_capsules.votes.Votes`.
        coefficients: Weights of the votes, `[j, b, i]`.
        centers: `[j, b, p, e]`.
        full: Boolean, whether to sum products of any two numbers of a
            deviation rather than squares. Defaults to `False`.

    Returns:
        `[j, b, p, e]`, or `[j, b, f, f]` if `full`, in at least float32.
    """
    u, w = _operands(votes)
    return _derivative("t", full, c=coefficients, u=u, w=w, m=centers)


def distance(votes, centers, precisions):
    """Squared distances of the votes from their parents' centers.

    Args:
        votes: A `keras_capsules.votes.Votes`.
        centers: `[j, b, p, e]`.
        precisions: What a squared deviation in each number counts for,
            `[j, b, p, e]`, or matrices `[j, b, f, f]`.

    Returns:
        `[j, b, i]`, in at least float32.
    """
    u, w = _operands(votes)
    full = precisions.shape[-1] != votes.output_dim or (
        precisions.shape[-2] != votes.num_rows
    )
    return _derivative("c", full, u=u, w=w, m=centers, t=precisions)


def _operands(votes):
    """Poses `[i, b, p, d]` and kernel `[j, i, d, e]`, in full precision."""
    dtype = at_least_float32(votes.poses.dtype)
    poses = ops.cast(votes.poses, dtype)
    kernel = ops.cast(votes.kernel, dtype)
    return ops.transpose(poses, (1, 0, 2, 3)), ops.transpose(
        kernel, (2, 0, 1, 3)
    )


def _derivative(missing, full, **operands):
    """The form's derivative by the operand `missing`, at the four others."""
    names = tuple(operands)

    @ops.custom_gradient
    def moment(*values):
        def gradient(*args, upstream=None):
            if upstream is None:
                known, (upstream,) = values, args
            else:
                known = args  # see votes.py
            filled = {**dict(zip(names, known, strict=True)), missing: upstream}
            found = _gradients(names, full, **filled)
            return tuple(found[name] for name in names)

        return _moment(
            missing, full, **dict(zip(names, values, strict=True))
        ), (gradient)

    dtype = operands["u"].dtype
    return moment(*(ops.cast(x, dtype) for x in operands.values()))


def _moment(missing, full, u, **parents):
    def one_block(slices):
        deviations = _deviations(u, slices["w"], slices["m"])
        if missing == "t":
            return (_scatter(deviations, slices["c"], full),), ()
        return (_distance(deviations, slices["t"]),), ()

    (result,) = over_blocks(one_block, parents, _block(u, parents), "w")
    if missing == "t" and not full:
        result = ops.reshape(result, ops.shape(parents["m"]))
    return result


def _gradients(names, full, u, **parents):
    """Derivatives of the form by all operands in `names`, at all five."""

    def one_block(slices):
        c, w, m, t = (slices[name] for name in "cwmt")
        deviations = _deviations(u, w, m)
        found = {}
        if "c" in names:
            found["c"] = _distance(deviations, t)
        if "t" in names:
            found["t"] = _scatter(deviations, c, full)
        # The gradient to the votes, [n, b, f, i].
        if full:
            both = t + ops.transpose(t, (0, 1, 3, 2))
            slopes = ops.matmul(both, deviations)
        else:
            slopes = 2.0 * _flat(t)[:, :, :, None] * deviations
        slopes = slopes * c[:, :, None]
        found["m"] = -ops.sum(slopes, axis=3)
        number, inputs, dim, out_dim = w.shape
        rows = u.shape[2]
        slopes = ops.reshape(slopes, (number, -1, rows, out_dim, inputs))
        slopes = ops.transpose(slopes, (4, 1, 2, 0, 3))  # [i, b, p, n, e]
        slopes = ops.reshape(slopes, (inputs, -1, number * out_dim))
        poses = ops.reshape(u, (inputs, -1, dim))
        slope = ops.matmul(ops.transpose(poses, (0, 2, 1)), slopes)
        slope = ops.reshape(slope, (inputs, dim, number, out_dim))
        found["w"] = ops.transpose(slope, (2, 0, 1, 3))
        slope = ops.matmul(slopes, ops.transpose(_side_by_side(w), (0, 2, 1)))
        slope = ops.reshape(slope, (inputs, -1, rows, dim))
        return tuple(found[name] for name in names if name != "u"), (slope,)

    *joined, slope = over_blocks(one_block, parents, _block(u, parents), "w")
    others = [name for name in names if name != "u"]
    found = {"u": slope, **dict(zip(others, joined, strict=True))}
    for name in "mt":
        if name in found and not (full and name == "t"):
            found[name] = ops.reshape(found[name], ops.shape(parents["m"]))
    return found


def _block(u, parents):
    inputs, batch, rows, _ = u.shape
    if not isinstance(batch, int):
        batch = USUAL_BATCH
    # Four times as much as the cache holds: fewer, larger products measured
    # faster here.
    return block_size(inputs * batch * rows * parents["w"].shape[3] // 4)


def _deviations(u, w, m):
    """How far votes are from the centers, [n, b, f, i]."""
    number, inputs, dim, out_dim = w.shape
    rows = u.shape[2]
    votes = ops.matmul(ops.reshape(u, (inputs, -1, dim)), _side_by_side(w))
    votes = ops.reshape(votes, (inputs, -1, rows, number, out_dim))
    votes = ops.transpose(votes, (3, 1, 2, 4, 0))  # [n, b, p, e, i]
    votes = ops.reshape(votes, (number, -1, rows * out_dim, inputs))
    return votes - _flat(m)[:, :, :, None]


def _side_by_side(w):
    """The matrices of n parents as one for each child, [i, d, n e]."""
    number, inputs, dim, out_dim = w.shape
    w = ops.transpose(w, (1, 2, 0, 3))
    return ops.reshape(w, (inputs, dim, number * out_dim))


def _flat(x):
    """[n, b, p, e] as [n, b, f]."""
    number, _, rows, out_dim = x.shape
    return ops.reshape(x, (number, -1, rows * out_dim))


def _scatter(deviations, c, full):
    """[n, b, f], or [n, b, f, f] if `full`."""
    if full:
        transposed = ops.transpose(deviations, (0, 1, 3, 2))
        return ops.matmul(deviations * c[:, :, None], transposed)
    return ops.matmul(ops.square(deviations), c[..., None])[..., 0]


def _distance(deviations, t):
    """[n, b, i]."""
    if t.shape[-1] == t.shape[-2] == deviations.shape[2]:
        return ops.sum(deviations * ops.matmul(t, deviations), axis=2)
    return ops.matmul(_flat(t)[:, :, None], ops.square(deviations))[:, :, 0]
