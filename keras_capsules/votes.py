"""Votes as a linear operator: everything routing needs, never the tensor.

Input capsule i, with pose u, votes `V_bij = u_bi W_ij` for output capsule j.
Written out, all votes of a layer are by far its largest tensor: batch x inputs
x outputs x pose. Routing never needs them all. It needs sums of votes and
inner products with votes, and those are derivatives of one quadrilinear form

    F(c, u, W, t) = sum over b i j p d e of  c_bij u_bipd W_idje t_bjpe

namely, each by the operand that it leaves out,

    mix        dF/dt   sum_i c_bij V_bij           the parents' weighted sums
    agreement  dF/dc   <V_bij, t_bj>               how well votes fit a target
    pull       dF/du   sum_j c_bij W_ij t_bj       what the poses feel of it
    outer      dF/dW   sum_b c_bij u_bi (x) t_bj   what the kernel feels of it

The gradient of any of them is made of the other three, with the upstream
gradient in the place of the operand left out. So the set is closed: first,
second and higher derivatives (in reverse mode, as training takes them) need no
tensor of votes either. The work is done parent by parent: what is at hand for
one parent is as large as the poses, and that of at most 16 parents may be at
hand at once, where the backend runs them side by side.

Axes: b batch, i input capsule, j output capsule (parent), p pose row, d input
dimension, e output dimension. Vector capsules have p = 1.
"""

from keras import ops

# Up to so many parents the loop over them is written out, so that the graph
# has no loop to step through; beyond, it is a loop of the backend's, so that
# graphs and tracing times do not grow with the number of parents.
_MAX_UNROLLED = 16


class Votes:
    """The votes of input capsules for output capsules, as an operator.

    Coefficients, such as coupling coefficients and routing logits, have shape
    `[b, j, i]`: parents before children, like attention scores. Softmax and
    products then run over contiguous children, which measured 1.4 times as
    fast as `[b, i, j]`.

    Args:
        poses: Poses of the input capsules, `[b, i, p, d]`.
        kernel: One matrix for each pair of an input and an output capsule,
            `[i, d, j, e]`, of the dtype of `poses`.

    Example:

    ```python
    import numpy as np
    from keras_capsules.votes import Votes

    poses = np.random.normal(size=(2, 5, 1, 3)).astype("float32")
    kernel = np.random.normal(size=(5, 3, 7, 4)).astype("float32")
    votes = Votes(poses, kernel)
    coupling = np.full((2, 7, 5), 1 / 7, "float32")
    parents = votes.mix(coupling)  # (2, 7, 1, 4)
    logits = votes.agreement(parents)  # (2, 7, 5)
    ```
    """

    def __init__(self, poses, kernel):
        poses = ops.convert_to_tensor(poses)
        kernel = ops.convert_to_tensor(kernel)
        if len(poses.shape) != 4 or len(kernel.shape) != 4:
            raise ValueError(
                "Votes need poses of shape [batch, inputs, rows, dim] and a "
                "kernel of shape [inputs, dim, outputs, out_dim]. Received: "
                f"poses.shape={tuple(poses.shape)}, "
                f"kernel.shape={tuple(kernel.shape)}"
            )
        if (poses.shape[1], poses.shape[3]) != tuple(kernel.shape[:2]):
            raise ValueError(
                "The poses do not fit the kernel: both must have the same "
                "number of input capsules and the same input dimension. "
                f"Received: poses.shape={tuple(poses.shape)}, "
                f"kernel.shape={tuple(kernel.shape)}"
            )
        self.poses = poses
        self.kernel = kernel
        self.num_inputs, self.input_dim, self.num_outputs, self.output_dim = (
            kernel.shape
        )
        self.num_rows = poses.shape[2]
        # Children last, so that a coefficient per child multiplies along
        # contiguous memory; parents first, so that one of them is one slice.
        self._u = ops.transpose(poses, (0, 2, 3, 1))  # [b, p, d, i]
        self._w = ops.transpose(kernel, (2, 1, 0, 3))  # [j, d, i, e]

    def mix(self, coefficients):
        """Sums the votes for each parent, weighted by `[b, j, i]`.

        Returns:
            `[b, j, p, e]`.
        """
        return _derivative("t", c=coefficients, u=self._u, w=self._w)

    def agreement(self, targets):
        """Inner product of every vote with its parent's target `[b, j, p, e]`.

        Returns:
            `[b, j, i]`.
        """
        return _derivative("c", u=self._u, w=self._w, t=targets)

    def pull(self, coefficients, targets):
        """Gradient to the poses of the sum of `coefficients * agreement`.

        Returns:
            `[b, i, p, d]`.
        """
        poses = _derivative("u", c=coefficients, w=self._w, t=targets)
        return ops.transpose(poses, (0, 3, 1, 2))

    def outer(self, coefficients, targets):
        """Gradient to the kernel of the sum of `coefficients * agreement`.

        Returns:
            `[i, d, j, e]`.
        """
        kernel = _derivative("w", c=coefficients, u=self._u, t=targets)
        return ops.transpose(kernel, (2, 1, 0, 3))

    def sum(self):
        """Sums the votes for each parent, all alike: one matrix product.

        Returns:
            `[b, j, p, e]`.
        """
        size = self.num_inputs * self.input_dim
        poses = ops.transpose(self.poses, (0, 2, 1, 3))  # [b, p, i, d]
        total = ops.matmul(
            ops.reshape(poses, (-1, size)), ops.reshape(self.kernel, (size, -1))
        )
        total = ops.reshape(
            total, (-1, self.num_rows, self.num_outputs, self.output_dim)
        )
        return ops.transpose(total, (0, 2, 1, 3))

    def dense(self):
        """The whole vote tensor, for reading, checking and small layers.

        Returns:
            `[b, i, j, p, e]`, which takes `num_outputs * output_dim /
            input_dim` times the memory of the poses.
        """
        return ops.einsum("bipd,idje->bijpe", self.poses, self.kernel)


def _derivative(missing, **operands):
    """The form's derivative by the operand `missing`, at the three others."""
    names = tuple(operands)

    @ops.custom_gradient
    def contraction(*values):
        def gradient(*args, upstream=None):
            if upstream is None:
                known, (upstream,) = values, args
            else:
                # PyTorch hands the operands over anew, and only these are
                # part of the graph that second derivatives go through.
                known = args
            filled = {**dict(zip(names, known, strict=True)), missing: upstream}
            return tuple(
                _derivative(
                    name, **{k: v for k, v in filled.items() if k != name}
                )
                for name in names
            )

        value = _CONTRACTIONS[missing](**dict(zip(names, values, strict=True)))
        return value, gradient

    return contraction(*(ops.convert_to_tensor(x) for x in operands.values()))


# The four contractions. Layouts: c [b, j, i], u [b, p, d, i], w [j, d, i, e],
# t [b, j, p, e].


def _mix(c, u, w):
    _, rows, dim, inputs = u.shape
    out_dim = w.shape[-1]

    def one_parent(c, w):  # [b, i], [d, i, e]
        weighted = ops.reshape(c[:, None, None] * u, (-1, dim * inputs))
        mixed = ops.matmul(weighted, ops.reshape(w, (dim * inputs, out_dim)))
        return ops.reshape(mixed, (-1, rows, out_dim))  # [b, p, e]

    return _stack_parents(one_parent, (c, w), (1, 0), 1)


def _agreement(u, w, t):
    def one_parent(w, t):  # [d, i, e], [b, p, e]
        return ops.sum(_back_project(w, t) * u, axis=(1, 2))  # [b, i]

    return _stack_parents(one_parent, (w, t), (0, 1), 1)


def _pull(c, w, t):
    def one_parent(c, w, t):  # [b, i], [d, i, e], [b, p, e]
        return c[:, None, None] * _back_project(w, t)  # [b, p, d, i]

    return _sum_parents(one_parent, (c, w, t), (1, 0, 1))


def _outer(c, u, t):
    _, _, dim, inputs = u.shape
    out_dim = t.shape[-1]

    def one_parent(c, t):  # [b, i], [b, p, e]
        weighted = ops.reshape(c[:, None, None] * u, (-1, dim * inputs))
        total = ops.matmul(
            ops.transpose(weighted), ops.reshape(t, (-1, out_dim))
        )
        return ops.reshape(total, (dim, inputs, out_dim))

    return _stack_parents(one_parent, (c, t), (1, 1), 0)


_CONTRACTIONS = {"t": _mix, "c": _agreement, "u": _pull, "w": _outer}


def _back_project(w, t):
    """A parent's target `[b, p, e]`, seen from each child: `[b, p, d, i]`."""
    dim, inputs, out_dim = w.shape
    rows = t.shape[1]
    seen = ops.matmul(
        ops.reshape(t, (-1, out_dim)),
        ops.transpose(ops.reshape(w, (dim * inputs, out_dim))),
    )
    return ops.reshape(seen, (-1, rows, dim, inputs))


def _stack_parents(function, tensors, axes, output_axis):
    """Stacks `function` of each parent's slices of `tensors`."""
    number = tensors[0].shape[axes[0]]
    if number <= _MAX_UNROLLED:
        slices = _slice_parents(tensors, axes, number)
        return ops.stack([function(*each) for each in slices], output_axis)
    tensors = _parents_first(tensors, axes)
    stacked = ops.map(lambda each: function(*each), tensors)
    return ops.moveaxis(stacked, 0, output_axis)


def _sum_parents(function, tensors, axes):
    """Sums `function` of each parent's slices of `tensors`."""
    number = tensors[0].shape[axes[0]]
    if number <= _MAX_UNROLLED:
        first, *rest = _slice_parents(tensors, axes, number)
        total = function(*first)
        for each in rest:
            total = total + function(*each)
        return total
    tensors = _parents_first(tensors, axes)
    return ops.fori_loop(
        1,
        number,
        lambda j, total: total + function(*(x[j] for x in tensors)),
        function(*(x[0] for x in tensors)),
    )


def _slice_parents(tensors, axes, number):
    return zip(
        *(
            ops.unstack(x, number, axis)
            for x, axis in zip(tensors, axes, strict=True)
        ),
        strict=True,
    )


def _parents_first(tensors, axes):
    return tuple(
        ops.moveaxis(x, axis, 0) for x, axis in zip(tensors, axes, strict=True)
    )
