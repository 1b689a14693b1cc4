"""What the plot sheets share: colours, names that fit, and the way to a PNG."""

from __future__ import annotations

import io
import textwrap
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BLUE, ORANGE, RED, GREY, GREEN, INK = "#31688e", "#e08214", "#c51b1b", "#9a9a9a", "#35924a", "#444444"
PURPLE = "#7b3294"
WIDTH = 11.0  # inches, which people see at 100 pixels each
CHARACTER = 0.062  # inches, of text of 8 points on average
SMALL, NORMAL, LARGE = 8, 9, 12  # points
LINE = 0.16  # inches from one line of small text to the next
DPI = 130
SCRIPTS = (
    "Noto Sans CJK JP",
    "Noto Sans CJK SC",
    "WenQuanYi Zen Hei",
    "Noto Sans Arabic",
    "Noto Sans Devanagari",
)  # for letters that the usual font lacks, where they are installed


def png(draw: Callable[[], Figure]) -> bytes:
    """Draw a figure and return its PNG. Names are text, never formulas, and a letter that the font lacks is no fault."""
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.font_manager import fontManager

    installed = {font.name for font in fontManager.ttflist}
    fonts = [*mpl.rcParams["font.family"], *(font for font in SCRIPTS if font in installed)]
    with mpl.rc_context({"text.parse_math": False, "font.family": fonts}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from", UserWarning)
        figure = draw()
        FigureCanvasAgg(figure)
        sink = io.BytesIO()
        figure.savefig(sink, format="png", dpi=DPI)
    return sink.getvalue()


def wrapped(text: str, inches: float, lines: int) -> list[str]:
    """Break a sentence into lines of small text, at most so many."""
    plain = "".join(letter if letter.isprintable() else " " for letter in text)
    return textwrap.wrap(plain, max(int(inches / CHARACTER), 20), max_lines=lines, placeholder=" …")
