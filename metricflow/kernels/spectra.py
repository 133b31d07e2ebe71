"""What a tangent kernel looks like, in a few numbers: spectra, and how far two kernels differ.

Theta has the shape (N1, N2, c, c) of :func:`metricflow.kernels.metric_ntk`.
"""

import jax.numpy as jnp
from jaxtyping import Array, Complex, Float


def block_eigenvalues(theta: Float[Array, "b1 b2 c c"]) -> Complex[Array, "c c b1"]:
    """The eigenvalues of the N x N matrix Theta_IJ(x1_a, x2_b) of every pair (I, J).

    With x1 the training and x2 the test points these matrices have no symmetry and their
    eigenvalues are complex; they also change with the order of the points.  They are the statistic
    that the paper prints.  On accelerators they are computed where jax has an eigenvalue solver.

    Raises:
        ValueError: unequal numbers of points.

    Source: MF section 3.3 (Fig. 4)
    """
    if theta.shape[0] != theta.shape[1]:
        raise ValueError(
            f"theta: eigenvalues need as many points x1 as x2, got shape {theta.shape}; use "
            "block_singular_values"
        )
    return jnp.linalg.eigvals(jnp.moveaxis(theta, (0, 1), (2, 3)))


def imaginary_share(eigenvalues: Complex[Array, "*s"]) -> Float[Array, ""]:
    """sum |Im| / sum |lambda|: how much the real parts of eigenvalues leave out."""
    total = jnp.sum(jnp.abs(eigenvalues))
    return jnp.sum(jnp.abs(eigenvalues.imag)) / jnp.where(total > 0, total, 1)


def block_singular_values(theta: Float[Array, "b1 b2 c c"]) -> Float[Array, "c c k"]:
    """The singular values of the matrix of every pair (I, J), largest first: real, and the same
    for every order of the points.
    """
    return jnp.linalg.svd(jnp.moveaxis(theta, (0, 1), (2, 3)), compute_uv=False)


def joint_matrix(theta: Float[Array, "b1 b2 c c"]) -> Float[Array, "m k"]:
    """Theta as one matrix of shape (N1 c, N2 c), rows (x1, I) and columns (x2, J)."""
    rows, columns, c, _ = theta.shape
    return theta.swapaxes(1, 2).reshape(rows * c, columns * c)


def joint_spectrum(theta: Float[Array, "b b c c"]) -> Float[Array, " m"]:
    """The N c eigenvalues of the kernel of a point set with itself, in ascending order.

    They are real and not negative (up to rounding), independent of the order of the points and of
    the basis of components: the rates of the linearised flow.

    Raises:
        ValueError: two sets of different sizes.
    """
    matrix = joint_matrix(theta)
    if matrix.shape[0] != matrix.shape[1]:
        raise ValueError(f"theta: expected the kernel of one point set, got shape {theta.shape}")
    return jnp.linalg.eigvalsh(matrix, symmetrize_input=True)


def wasserstein_distance(
    first: Float[Array, "*s"], second: Float[Array, "*s"], *, scale: Float[Array, ""] | float = 1.0
) -> Float[Array, ""]:
    """W_1 of two sets of equally many numbers, mean |sorted difference| / scale.

    Args:
        first, second: the numbers, in any shape and order.
        scale: 1 for the distance as it is; the mean of the first spectrum makes kernels of
            different size comparable.

    Raises:
        ValueError: unequal numbers of numbers.
    """
    if first.size != second.size:
        raise ValueError(f"second: expected {first.size} numbers like first, got {second.size}")
    return jnp.mean(jnp.abs(jnp.sort(first.ravel()) - jnp.sort(second.ravel()))) / scale


def kernel_alignment(
    first: Float[Array, "b1 b2 c c"], second: Float[Array, "b1 b2 c c"]
) -> Float[Array, ""]:
    """<Theta, Theta'> / (|Theta| |Theta'|), Frobenius: 1 if they differ by a factor only.

    0 if one of them vanishes.
    """
    return _ratio(jnp.vdot(first, second), jnp.linalg.norm(first) * jnp.linalg.norm(second))


def target_alignment(
    theta: Float[Array, "b b c c"], values: Float[Array, "b c"]
) -> Float[Array, ""]:
    """y^T Theta y / (|Theta| |y|^2): 1 if y is the only direction in which the kernel learns.

    0 if one of them vanishes.
    """
    pushed = jnp.einsum("xyij,yj->xi", theta, values)
    size = jnp.linalg.norm(theta) * jnp.vdot(values, values)
    return _ratio(jnp.vdot(values, pushed), size)


def effective_rank(eigenvalues: Float[Array, " m"]) -> Float[Array, ""]:
    """exp of the entropy of the eigenvalues as shares of their sum; m if all are equal.

    Eigenvalues below zero are rounding and count as zero; the rank of a kernel that vanishes is 0.
    """
    positive = jnp.maximum(eigenvalues, 0)
    total = jnp.sum(positive)
    share = _ratio(positive, total)
    logarithm = jnp.log(jnp.where(share > 0, share, 1))
    return jnp.where(total > 0, jnp.exp(-jnp.sum(share * logarithm)), 0)


def _ratio(part: Array, whole: Array) -> Array:
    """part / whole, and 0 where there is nothing to divide by."""
    return jnp.where(whole > 0, part / jnp.where(whole > 0, whole, 1), 0)
