"""Training history: loss and validation score of every epoch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from .._checks.calls import public
from . import _errors as check
from ._style import NEUTRAL, category, look, panels, tidy

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

    class HasHistory(Protocol):
        """Anything with a training history, such as a `Predictor`."""

        @property
        def history(self) -> pd.DataFrame:
            """One row an epoch."""


CALL = "`stp.tl.fit` leaves in `predictor.history`"
SCORE = "val_pearson"
DASHES: Any = (0, (3, 1.5))


@public
def history(history: pd.DataFrame | HasHistory, *, ax: Axes | Sequence[Axes] | None = None) -> NDArray[Any]:
    """Loss and validation score (Pearson correlation of a gene over spots, mean over genes) by epoch.

    Each member of the ensemble has a colour. Solid lines are the training loss, dashed lines the validation loss. A
    ring marks the epoch whose weights were kept.

    Parameters
    ----------
    history
        A predictor, or its ``history``: columns ``"epoch"`` and ``"train_loss"`` and, if they are known,
        ``"member"``, ``"val_loss"`` and ``"val_pearson"``.
    ax
        Two axes to draw on, or one if there was no validation; a new figure by default.

    Returns
    -------
    ``(2,)`` axes, loss and score; ``(1,)`` if there is no ``"val_pearson"``.

    Examples
    --------
    >>> import pandas as pd
    >>> import stpredict as stp
    >>> epochs = pd.DataFrame({"epoch": [0, 1, 2], "train_loss": [1.0, 0.8, 0.7], "val_pearson": [0.1, 0.3, 0.2]})
    >>> axes = stp.pl.history(epochs)
    >>> axes[1].get_ylabel()
    'validation Pearson r'
    """
    table: Any = getattr(history, "history", history)
    check.require_table(table, ["epoch", "train_loss"], "history", CALL)
    members = list(table.groupby("member")) if "member" in table.columns else [(0, table)]
    validated = _has_values(table, SCORE)
    with look():
        axes = panels(ax, 1 + validated, panel_in=(2.9, 2.2))
        for i, (_, part) in enumerate(members):
            rows, color = part.sort_values("epoch"), category(i)
            best = rows[rows[SCORE] == rows[SCORE].max()].head(1) if validated else rows.head(0)  # the first of equals
            axes[0].plot(rows["epoch"], rows["train_loss"], color=color)
            curves: list[Any] = [(axes[1], SCORE, "-")] if validated else []
            if _has_values(rows, "val_loss"):
                curves.append((axes[0], "val_loss", DASHES))
            for panel, column, style in curves:
                panel.plot(rows["epoch"], rows[column], color=color, linestyle=style)
                if len(best):
                    ring: dict[str, Any] = {
                        "markersize": 6,
                        "markerfacecolor": "none",
                        "markeredgecolor": color,
                        "gid": "best",
                    }
                    panel.plot(best["epoch"], best[column], "o", **ring)
        _finish(axes, [str(name) for name, _ in members], has_val_loss=_has_values(table, "val_loss"))
    return axes


def _has_values(table: pd.DataFrame, column: str) -> bool:
    return column in table.columns and bool(table[column].notna().any())


def _finish(axes: NDArray[Any], members: list[str], *, has_val_loss: bool) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.ticker import MaxNLocator

    for ax in axes:
        tidy(ax)
        ax.set_xlabel("epoch")
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes[0].set_ylabel("loss")
    if has_val_loss:
        styles = {"training": "-", "validation": DASHES}
        lines = [Line2D([], [], color=NEUTRAL, linestyle=style, label=name) for name, style in styles.items()]
        axes[0].legend(handles=lines)
    if len(axes) > 1:
        axes[1].set_ylabel("validation Pearson r")
    if len(members) > 1:
        lines = [Line2D([], [], color=category(i), label=f"member {name}") for i, name in enumerate(members)]
        axes[-1].legend(handles=lines)
