"""The frame of the page: its head, its look, and what keeps it from ever asking a network."""

from __future__ import annotations

from graft.report.markup import Html, Piece, element, join

# nothing is fetched, nothing runs; pictures are data inside the page
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"

_LOOK = """
:root{color-scheme:light dark;--ink:#1b2430;--soft:#5a6675;--paper:#fdfefe;--card:#f3f6f9;--line:#d9dfe6;
--graft:#0072b2;--tuned:#b94f00;--strong:#e4f0f8}
@media(prefers-color-scheme:dark){:root{--ink:#e6eaef;--soft:#a3aebb;--paper:#14181d;--card:#1d232a;--line:#343d48;
--graft:#5db4ee;--tuned:#f3985a;--strong:#1b3140}}
*{box-sizing:border-box}
body{margin:0 auto;padding:1.2rem clamp(.9rem,3vw,2.5rem) 4rem;max-width:72rem;background:var(--paper);
color:var(--ink);font:16px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif;
overflow-wrap:break-word}
h1{font-size:clamp(1.5rem,5vw,2.1rem);line-height:1.2;margin:.6rem 0 .3rem}
h2{font-size:clamp(1.3rem,4vw,1.6rem);line-height:1.25;margin:3rem 0 .4rem;padding-top:1.2rem;
border-top:3px solid var(--graft)}
h3{font-size:1.1rem;margin:2.2rem 0 .3rem}
p,ul{margin:.4rem 0 .8rem;max-width:46rem}
ul{padding-left:1.2rem}
a{color:var(--graft)}
.lead{font-size:1.15rem}
.note,figcaption,nav{color:var(--soft);font-size:.9rem}
nav a{display:inline-block;margin:.15rem .9rem .15rem 0}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(9.5rem,1fr));gap:.7rem;margin:1rem 0}
.tile{background:var(--card);border-radius:.6rem;padding:.7rem .9rem}
.tile b{display:block;font-size:1.5rem;line-height:1.2;color:var(--graft);font-variant-numeric:tabular-nums}
.tile span{display:block;font-size:.85rem;color:var(--soft)}
.tile i{font-style:normal}
.scroll{overflow-x:auto;margin:.6rem 0;border:1px solid var(--line);border-radius:.5rem;max-width:max-content}
.scroll:focus-visible{outline:2px solid var(--graft)}
table{border-collapse:collapse;font-size:.92rem;font-variant-numeric:tabular-nums}
th,td{padding:.42rem .75rem;text-align:right;white-space:nowrap;border-bottom:1px solid var(--line)}
tbody tr:last-child>*{border-bottom:0}
th:first-child{text-align:left;position:sticky;left:0;background:var(--paper);border-right:1px solid var(--line)}
tbody th{font-weight:500}
thead th{white-space:normal;color:var(--soft);font-weight:600;font-size:.84rem;vertical-align:bottom;
background:var(--card)}
thead th:first-child{background:var(--card)}
tr.strong>*{background:var(--strong);font-weight:600}
.words :is(th,td){text-align:left;white-space:normal;min-width:6rem}
.range{color:var(--soft);font-weight:400;font-size:.92em}
.tie{color:var(--soft)}
.ahead{color:var(--graft);font-weight:600}
.behind{color:var(--tuned);font-weight:600}
figure{margin:1rem 0}
figure .scroll{border:0;max-width:100%}
img{display:block;height:auto;max-width:none}
details{margin:.8rem 0;border:1px solid var(--line);border-radius:.5rem;padding:.45rem .9rem}
summary{cursor:pointer;font-weight:600}
@media(max-width:34rem){th:first-child{max-width:9.5rem;white-space:normal}th,td{padding:.4rem .55rem}}
@media print{body{max-width:none}.scroll{overflow:visible}}
"""


def render_page(title: str, *children: Piece) -> str:
    """A whole document, ready to be written."""
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("title", title),
        element("style", Html(_LOOK)),
    )
    body = element("body", element("main", *children))
    return f"<!doctype html>\n{element('html', join([head, body]), lang='en')}\n"


def section(anchor: str | None, title: str, *children: Piece, level: int = 3) -> Html:
    """A titled part of the page."""
    return element("section", element(f"h{level}", title, id=anchor), *children)


def note(*children: Piece) -> Html:
    """A small remark: units, what was measured on what."""
    return element("p", *children, klass="note")
