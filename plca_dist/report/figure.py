"""The style of charts, and charts as PNG files."""

import io
from collections.abc import Callable, Sequence
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

CHART_SIZE = (440, 286)  # px, width and height
COLOURS = ("#3b6fb6", "#d1603d", "#3f8f5b", "#8a5fa8", "#b58a2b", "#5c6670")
GREY = "#9aa0a6"
_DPI = 110
_STYLE: dict[Any, Any] = {
    "font.size": 8, "axes.titlesize": 9, "axes.titleweight": "bold", "axes.titlelocation": "left",
    "axes.spines.top": False, "axes.spines.right": False, "axes.edgecolor": GREY, "axes.labelcolor": "#5f6368",
    "xtick.color": "#5f6368", "ytick.color": "#5f6368", "axes.grid": True, "grid.color": "#eceff1",
    "grid.linewidth": 0.8, "axes.axisbelow": True, "legend.frameon": False, "legend.fontsize": 7.5,
    "lines.linewidth": 1.4, "lines.solid_capstyle": "round", "text.parse_math": False,
}  # fmt: skip


def render(charts: Sequence[Callable[[Axes], None]], *, columns: int = 1) -> bytes:
    """One PNG file of charts, `columns` beside each other. Each function draws one chart, of `CHART_SIZE`."""
    rows = -(-len(charts) // columns)

    def draw_all(figure: Figure) -> None:
        for k, draw in enumerate(charts):
            draw(figure.add_subplot(rows, columns, k + 1))

    return painted(draw_all, (CHART_SIZE[0] * columns, CHART_SIZE[1] * rows))


def painted(draw: Callable[[Figure], None], size: tuple[int, int]) -> bytes:
    """One PNG file of `size` (width, height) in pixels, drawn by `draw`."""
    with matplotlib.rc_context(_STYLE):
        # Without pyplot, which keeps every figure in a global list and looks for a display.
        figure = Figure((size[0] / _DPI, size[1] / _DPI), _DPI, layout="constrained")
        FigureCanvasAgg(figure)
        draw(figure)
        stream = io.BytesIO()
        figure.savefig(stream, format="png", dpi=_DPI)
    return stream.getvalue()
