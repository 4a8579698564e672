"""What reports are made of: pages of HTML that stand alone, tables, drawings."""

import html as markup
import io
from collections.abc import Callable, Iterable, Sequence
from typing import Any


def page(title: str, *parts: str) -> str:
    """A page of `parts`, which are HTML; nothing in it comes from elsewhere."""
    heading = element("h1", title)
    return _PAGE.format(title=escape(title), body="\n".join([heading, *parts]))


def table(
    rows: Iterable[Sequence[Any]], heads: Sequence[Any] = (), kind: str = ""
) -> str:
    """A table; `kind` is a class of the styles below."""
    head = f"<thead>{_row('th', heads)}</thead>\n" if heads else ""
    body = "\n".join(_row("td", row) for row in rows)
    opening = f'<div class="box"><table class="{kind}">'
    return f"{opening}\n{head}<tbody>\n{body}\n</tbody>\n</table></div>"


def element(tag: str, text: Any, kind: str = "") -> str:
    """`text`, escaped, between tags; `kind` is a class of the styles below.

    Example:
      >>> element("p", "a < b", "note")
      '<p class="note">a &lt; b</p>'
    """
    opening = f'{tag} class="{kind}"' if kind else tag
    return f"<{opening}>{escape(text)}</{tag}>"


def escape(text: Any) -> str:
    """`text` with its special characters as HTML writes them."""
    return markup.escape(str(text))


def drawing(draw: Callable[[Any], None], size: tuple[float, float]) -> str:
    """An SVG element, the same for the same drawing.

    Args:
      draw: draws into the matplotlib figure that it is given.
      size: width and height in inches.
    """
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_DRAWING):
        figure = Figure(figsize=size, layout="constrained")
        draw(figure)
        out = io.StringIO()
        figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
    drawn = out.getvalue()
    return drawn[drawn.index("<svg") :]


def _row(tag: str, cells: Sequence[Any]) -> str:
    return f"<tr>{''.join(element(tag, cell) for cell in cells)}</tr>"


_DRAWING = {
    "svg.fonttype": "none",
    "svg.hashsalt": "jaxprune",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.3,
    "axes.titlelocation": "left",
    "legend.frameon": False,
}

_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; color: #111827; background: #f8fafc;
  max-width: 80rem; margin: 2rem auto; padding: 0 1rem; }}
h1 {{ font-size: 1.6rem; margin-bottom: 1rem; }}
h2 {{ font-size: 1rem; color: #6b7280; margin: 2rem 0 .5rem; }}
.box, figure {{ background: #fff; border: 1px solid #e5e7eb; border-radius: .6rem;
  margin: 1rem 0; overflow-x: auto; }}
figure {{ padding: 1rem; }}
figure svg {{ width: 100%; height: auto; }}
table {{ border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }}
th, td {{ padding: .5rem .8rem; text-align: right; white-space: nowrap; }}
th {{ color: #6b7280; font-weight: 500; font-size: .85rem; }}
th:first-child, td:first-child {{ text-align: left; font-weight: 600; }}
tr + tr td, tbody tr td {{ border-top: 1px solid #e5e7eb; }}
.told td:last-child, .told th:last-child, .about td {{ text-align: left;
  white-space: normal; font-size: .85rem; }}
.certificate {{ padding: .6rem 1rem; border-radius: .6rem; }}
.exact {{ background: #dcfce7; }}
.other {{ background: #fef3c7; }}
</style>
{body}
</html>
"""
