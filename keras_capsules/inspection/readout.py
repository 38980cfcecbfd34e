"""Linear read-outs, which predict a number from features."""

import numpy as np

# A class whose read-out would be fitted on fewer images gets none: with some
# sixteen features to fit, it would say nothing of other images.
FEWEST_IMAGES = 10
# Penalties of a ridge regression to choose from, as parts of the mean variance
# of the features.
PENALTIES = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)
# How many rows are made float64 at a time, or as many as there are features.
BLOCK = 2000
# The square of rounding errors, as a part of the mean square of the features.
ROUNDING = 1e-12


def predict_held_out(
    features: np.ndarray,
    classes: np.ndarray,
    amounts: np.ndarray,
    places: np.ndarray,
    folds: int,
    components: int | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Predicts the amounts of images from read-outs of other images.

    There is a read-out for each fold and each class, fitted on the images of
    all other folds that are of this class.

    Args:
        features: `(images, amounts, features)`.
        classes: Integers `(images, amounts)`.
        amounts: `(amounts,)`, how much each image was changed.
        places: Integers `(images,)`, the images' places in a random order.
        folds: Integer, the number of folds.
        components: See `fit`.

    Returns:
        The predictions `(images, amounts)`, and whether a read-out made them.
        Other predictions are the mean of the amounts.
    """
    targets = np.broadcast_to(amounts, classes.shape)
    predictions = np.full(classes.shape, amounts.mean())
    found = np.zeros(classes.shape, bool)
    for fold in range(folds):
        held_out = (places % folds == fold)[:, None]
        for each in np.unique(classes[held_out[:, 0]]):
            train = (classes == each) & ~held_out
            test = (classes == each) & held_out
            if train.any(axis=1).sum() < FEWEST_IMAGES:
                continue
            # Which of them are of the first half, in the random order.
            images, of_row = np.unique(
                places[np.nonzero(train)[0]], return_inverse=True
            )
            weights, offset = fit(
                features[train],
                targets[train],
                of_row < len(images) // 2,
                components,
            )
            predictions[test] = features[test] @ weights + offset
            found |= test
    return predictions, found


def fit(
    features: np.ndarray,
    targets: np.ndarray,
    first_half: np.ndarray,
    components: int | None = None,
) -> tuple[np.ndarray, float]:
    """Fits the weights of a ridge regression.

    The penalty is that with which each half of the rows is predicted best from
    the other. Features keep their relative sizes: one that hardly changes in
    these rows, but does in others, would have a say in the prediction beyond
    measure if it was standardized.

    Args:
        features: `(rows, features)`.
        targets: `(rows,)`.
        first_half: Booleans `(rows,)`, the rows of one half.
        components: Integer, of how many principal components of the features
            the prediction is made; or `None`, of the features themselves.

    Returns:
        Weights `(features,)` and an offset: predictions are
        `features @ weights + offset`.
    """
    errors = np.zeros(len(PENALTIES))
    for half in (first_half, ~first_half):
        weights, offsets = _fit_all(features[half], targets[half], components)
        others = np.flatnonzero(~half)
        for part in _blocks(features):
            rows = others[part]
            predictions = features[rows] @ weights + offsets
            errors += np.sum((predictions - targets[rows, None]) ** 2, axis=0)
    best = int(np.argmin(errors))
    weights, offsets = _fit_all(features, targets, components)
    return weights[:, best], offsets[best]


def _fit_all(features, targets, components):
    """Weights `(features, penalties)` and offsets `(penalties,)`."""
    mean = features.mean(axis=0, dtype="float64")
    level = targets.mean()
    rows, answers = _reduced(features, targets, mean, level)
    # The principal components are the rows of `axes`, the largest first.
    scores, lengths, axes = np.linalg.svd(rows, full_matrices=False)
    chosen = slice(components)
    scores, axes = scores[:, chosen], axes[chosen]
    # Of features that never change, nothing but the offset is left.
    squares = np.sum(rows**2) + len(features) * mean @ mean
    penalties = ROUNDING * squares + np.finfo("float64").tiny
    penalties = penalties + np.array(PENALTIES) * np.sum(lengths**2)
    lengths = lengths[chosen, None]
    shrunk = lengths / (lengths**2 + penalties / features.shape[1])
    weights = axes.T @ (shrunk * (scores.T @ answers)[:, None])
    return weights, level - mean @ weights


def _reduced(features, targets, mean, level):
    """Centred features and targets, turned into as many rows as features.

    Least squares do not change if all rows are turned by the same rotation.
    That of a QR decomposition leaves zeros alone below the first rows.
    """
    width = features.shape[1]
    rows = np.empty((0, width + 1))
    for part in _blocks(features):
        block = np.column_stack([features[part] - mean, targets[part] - level])
        rows = np.concatenate([rows, block])
        if part.start:
            rows = np.linalg.qr(rows, mode="r")
    if len(features) > len(rows):
        rows = rows[:width]  # below is what no feature explains
    return rows[:, :width], rows[:, width]


def _blocks(features):
    """Slices of so many rows that they take no more than a read-out does."""
    number, width = features.shape
    size = max(BLOCK, width)
    return [slice(start, start + size) for start in range(0, number, size)]
