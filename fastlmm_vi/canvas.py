"""What all pictures share: colours, new Axes, and the table that was drawn."""

from typing import Any

import pandas as pd

# Okabe–Ito: tells apart for all readers.
COLORS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"]


def new_axes(ax: Any) -> Any:
    """Return `ax`, or new Axes where it is None."""
    if ax is not None:
        return ax
    try:
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise ImportError('Plots need matplotlib: pip install "fastlmm_vi[plot]".') from error
    return plt.subplots(layout="constrained")[1]


def with_data(ax: Any, data: pd.DataFrame) -> Any:
    """Return `ax` with the tidy table that it shows in `ax.fastlmm_vi_data`."""
    ax.fastlmm_vi_data = data
    return ax
