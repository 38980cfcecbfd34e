"""Figures of matplotlib that belong to nobody."""

import io

from matplotlib.figure import Figure


class _Picture(Figure):
    # Notebooks know only how the figures of pyplot look.
    def _repr_png_(self):
        file = io.BytesIO()
        self.savefig(file, format="png", bbox_inches="tight")
        return file.getvalue()


def empty(width: float, height: float) -> Figure:
    """A figure that a notebook shows when it is the value of a cell.

    It is not registered with pyplot, so nothing shows it unasked, and it is
    freed with its last reference.

    Args:
        width: Inches.
        height: Inches.
    """
    return _Picture(figsize=(width, height), layout="constrained")
