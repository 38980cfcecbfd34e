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
tensor of votes either. Two products make all four: the poses weighted by a
parent's coefficients, and a parent's target seen from each child. Both are as
large as the poses, and are made for one block of parents at a time.

Axes: b batch, i input capsule, j output capsule (parent), p pose row, d input
dimension, e output dimension. Vector capsules have p = 1.
"""

from keras import ops

from keras_capsules._blocks import USUAL_BATCH
from keras_capsules._blocks import block_size
from keras_capsules._blocks import over_blocks


class Votes:
    """The votes of input capsules for output capsules, as an operator.

    What belongs to a parent has the parents first: coefficients, such as
    coupling coefficients and routing logits, are `[j, b, i]`, and targets and
    sums of votes `[j, b, p, e]`. A parent's share is then one piece of memory,
    and softmax runs over a leading axis, which measured 1.4 times as fast as
    `[b, i, j]`.

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
    coupling = np.full((7, 2, 5), 1 / 7, "float32")
    parents = votes.mix(coupling)  # (7, 2, 1, 4)
    logits = votes.agreement(parents)  # (7, 2, 5)
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
        """Sums the votes for each parent, weighted by `[j, b, i]`.

        Returns:
            `[j, b, p, e]`.
        """
        return _derivative("t", c=coefficients, u=self._u, w=self._w)

    def agreement(self, targets):
        """Inner product of every vote with its parent's target `[j, b, p, e]`.

        Returns:
            `[j, b, i]`.
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
            `[j, b, p, e]`.
        """
        size = self.num_inputs * self.input_dim
        poses = ops.transpose(self.poses, (0, 2, 1, 3))  # [b, p, i, d]
        total = ops.matmul(
            ops.reshape(poses, (-1, size)), ops.reshape(self.kernel, (size, -1))
        )
        total = ops.reshape(
            total, (-1, self.num_rows, self.num_outputs, self.output_dim)
        )
        return ops.transpose(total, (2, 0, 1, 3))

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

        value = _contract(missing, **dict(zip(names, values, strict=True)))
        return value, gradient

    return contraction(*(ops.convert_to_tensor(x) for x in operands.values()))


def _contract(missing, u=None, **parents):
    """Computes a derivative, one block of parents after the other.

    Layouts: c `[j, b, i]`, u `[b, p, d, i]`, w `[j, d, i, e]`, t
    `[j, b, p, e]`.
    """
    if u is not None:
        batch, rows, dim, inputs = u.shape
    else:
        _, batch, rows, _ = parents["t"].shape
        _, dim, inputs, _ = parents["w"].shape
    if not isinstance(batch, int) or batch < USUAL_BATCH:
        # Of fewer examples more parents would fit, but even for one, products
        # parent by parent measured faster than batched ones.
        batch = USUAL_BATCH

    def one_block(slices):
        value = _contract_block(missing, u=u, **slices)
        return ((), (value,)) if missing == "u" else ((value,), ())

    block = block_size(batch * rows * dim * inputs)
    begin = "c" if u is not None and missing != "c" else "t"
    (result,) = over_blocks(one_block, parents, block, begin)
    return result


def _contract_block(missing, c=None, u=None, w=None, t=None):
    """The derivative for a block of n parents."""
    number = (t if c is None else c).shape[0]  # n
    out_dim = (t if w is None else w).shape[3]
    rows, dim, inputs = (
        (t.shape[2], *w.shape[1:3]) if u is None else u.shape[1:]
    )
    if c is not None:
        c = c[:, :, None, None]  # [n, b, 1, 1, i]
    if w is not None:
        w = ops.reshape(w, (number, dim * inputs, out_dim))
    if t is not None:
        t = ops.reshape(t, (number, -1, out_dim))  # [n, b p, e]
    if missing in "tw":
        weighted = ops.reshape(c * u, (number, -1, dim * inputs))
        if missing == "t":
            mixed = _matmul(weighted, w)
            return ops.reshape(mixed, (number, -1, rows, out_dim))
        total = _matmul(weighted, t, transpose_first=True)
        return ops.reshape(total, (number, dim, inputs, out_dim))
    # The parents' targets, as they look from each child.
    seen = _matmul(t, w, transpose_second=True)
    seen = ops.reshape(seen, (number, -1, rows, dim, inputs))
    if missing == "c":
        return ops.sum(seen * u, axis=(2, 3))  # [n, b, i]
    return ops.sum(c * seen, axis=0)  # [b, p, d, i]


def _matmul(first, second, transpose_first=False, transpose_second=False):
    """Products of n pairs of matrices; of one, as a plain matrix product."""
    single = first.shape[0] == 1
    axes = (1, 0) if single else (0, 2, 1)
    if single:
        first, second = first[0], second[0]
    if transpose_first:
        first = ops.transpose(first, axes)
    if transpose_second:
        second = ops.transpose(second, axes)
    product = ops.matmul(first, second)
    return product[None] if single else product
