"""How plots look, and how they become files: SVG or PNG that comes out byte for byte the same each time.

matplotlib is imported when something is drawn, never by importing this module.
"""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sttrack_deploy.errors import MissingDependencyError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["GRID", "INK", "PAPER", "SHADE", "Plot", "TrackerStyle", "drawing", "new_figure", "tracker_style"]

INK, GRID, PAPER, SHADE = "#1b2530", "#dde2e7", "#fefefe", "#8a97a5"
"""Text, grid, background, and what is shaded. No tracker has one of them, so that a page may replace them."""

# Okabe and Ito's hues, without the green of the ground truth, their lightness moved to where each keeps a
# contrast of 3:1 on white and on a dark page.
_COLORS = ("#2072b2", "#d55e00", "#b8629a", "#3a9bd0", "#a97400", "#76818c", "#6a5acd")
_DASHES: tuple[tuple[float, ...], ...] = ((), (5.0, 1.6), (5.0, 1.4, 1.2, 1.4), (1.4, 1.4))
_HATCHES = ("", "////", "....", "xxxx")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")


@dataclass(frozen=True, slots=True)
class TrackerStyle:
    """How one tracker looks everywhere.

    Attributes:
        color: ``#rrggbb``.
        dashes: on and off lengths in line widths; empty: solid.
        marker: matplotlib's letter.
        hatch: of its bars, as matplotlib writes it; empty: none.
    """

    color: str
    dashes: tuple[float, ...]
    marker: str
    hatch: str

    @property
    def bgr(self) -> tuple[int, int, int]:
        """The color for OpenCV."""
        red, green, blue = (int(self.color[i : i + 2], 16) for i in (1, 3, 5))
        return blue, green, red


def tracker_style(index: int) -> TrackerStyle:
    """The look of the tracker at ``index`` of a comparison; 28 differ from each other, then it starts again."""
    cycle, place = divmod(index, len(_COLORS))
    return TrackerStyle(
        color=_COLORS[place],
        dashes=_DASHES[index % len(_DASHES)],
        marker=_MARKERS[(place + cycle) % len(_MARKERS)],
        hatch=_HATCHES[cycle % len(_HATCHES)],
    )


@dataclass(frozen=True, slots=True)
class Plot:
    """A drawn plot.

    Attributes:
        name: to file it under; letters, digits, ``_`` and ``-``.
        title: as the plot shows it.
        alt: what it shows, in words, for whoever cannot see it.
        figure: matplotlib's.
    """

    name: str
    title: str
    alt: str
    figure: Figure

    def svg(self) -> str:
        """An SVG document; its text is text, in DejaVu Sans or the reader's own font."""
        out = io.StringIO()
        with drawing(self.name):
            _settle(self.figure)
            # Without a date and a version number, equal plots are equal files.
            self.figure.savefig(
                out, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None}
            )
        return out.getvalue()

    def png(self, dpi: int = 150) -> bytes:
        out = io.BytesIO()
        with drawing(self.name):
            _settle(self.figure)
            self.figure.savefig(out, format="png", dpi=dpi, metadata={"Software": "sttrack-deploy"})
        return out.getvalue()


@contextlib.contextmanager
def drawing(salt: str = "") -> Iterator[None]:
    """matplotlib's defaults and the plots' own settings, whatever the user's configuration says.

    Args:
        salt: of the ids in an SVG; one for each plot, so that several in a page share none.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    try:
        import matplotlib as mpl
    except ImportError as error:
        raise MissingDependencyError(
            "matplotlib", "drawing plots", "pip install 'sttrack-deploy[report]'"
        ) from error
    with mpl.rc_context(), warnings.catch_warnings():
        # A label in a script that DejaVu lacks: SVG readers have it in their own fonts.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        mpl.rcdefaults()
        mpl.rcParams.update(
            {
                "font.size": 9,
                "text.color": INK,
                "text.parse_math": False,  # a "$" in a label is a dollar sign
                "axes.edgecolor": SHADE,
                "axes.labelcolor": INK,
                "axes.facecolor": PAPER,
                "axes.grid": True,
                "axes.axisbelow": True,
                "axes.spines.top": False,
                "axes.spines.right": False,
                "axes.titlesize": 10.5,
                "axes.titleweight": "bold",
                "axes.titlelocation": "left",
                "figure.facecolor": PAPER,
                "grid.color": GRID,
                "grid.linewidth": 0.7,
                "xtick.color": SHADE,
                "xtick.labelcolor": INK,
                "ytick.color": SHADE,
                "ytick.labelcolor": INK,
                "legend.frameon": False,
                "legend.handlelength": 2.6,
                "path.simplify_threshold": 0.3,
                "svg.fonttype": "none",
                "svg.hashsalt": f"sttrack {salt}",
            }
        )
        yield


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of that size in inches; to be filled and saved inside :func:`drawing`."""
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    return Figure(figsize=(width, height), layout=ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.08))


def _settle(figure: Figure) -> None:
    """Fix the layout, once, at positions that do not depend on where in memory its solver's variables lie.

    That moves them by rounding errors, and ids in an SVG are hashes of positions.
    """
    if figure.get_layout_engine() is None:
        return
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    for axes in figure.axes:
        x, y, width, height = axes.get_position().bounds
        axes.set_position((round(x, 6), round(y, 6), round(width, 6), round(height, 6)))
