"""The report: one HTML page that needs nothing else, neither files nor a network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any

__all__ = ["Chapter", "Table", "render"]


@dataclass(frozen=True)
class Table:
    """A small table: names of columns, rows of text or numbers, and where to fold it away."""

    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]
    title: str = ""
    folded: bool = False


@dataclass
class Chapter:
    """One part of the story.

    Attributes:
        title: a few words.
        text: what is going on, for a reader who knows nothing yet.
        command: what one would type, if it is an answer.
        verdict: the result in one sentence.
        good: whether the verdict is as promised (None: it is not judged).
        figures: SVG elements.
        tables: small tables.
        note: what the reader should not overlook.
        tables_first: whether the tables stand before the figures.
        fact: (number, what it is) for the cards on top of the page.
    """

    title: str
    text: str = ""
    command: str = ""
    verdict: str = ""
    good: bool | None = None
    figures: list[str] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    note: str = ""
    tables_first: bool = False
    fact: tuple[str, str] | None = None


_CSS = """
:root { --ink:#1b2333; --soft:#5b6577; --line:#e3e8ef; --paper:#fff; --ground:#f5f7fa;
  --blue:#2563eb; --green:#0f766e; --amber:#b45309; }
* { box-sizing:border-box } html { scroll-behavior:smooth }
body { margin:0; background:var(--ground); color:var(--ink);
  font:16px/1.6 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",sans-serif }
header { background:linear-gradient(135deg,#0f172a,#1e3a5f 60%,#0f766e); color:#fff; padding:3.6rem 0 5.4rem }
header > div, main, footer { max-width:1000px; margin:0 auto; padding-left:1.5rem; padding-right:1.5rem }
header p.kind { letter-spacing:.14em; text-transform:uppercase; font-size:.78rem; color:#99f6e4; margin:0 0 .6rem }
h1 { font-size:2.35rem; line-height:1.18; margin:0 0 .8rem; font-weight:700; letter-spacing:-.015em }
header p { max-width:46rem; color:#dbe5f1; margin:0 }
main { padding-bottom:3rem }
.facts { display:grid; grid-template-columns:repeat(auto-fit,minmax(165px,1fr)); gap:.9rem; margin:-3.2rem 0 2.4rem }
.fact { background:var(--paper); border-radius:12px; padding:1rem 1.1rem; box-shadow:0 6px 20px #0f172a14 }
.fact b { display:block; font-size:1.55rem; letter-spacing:-.02em; line-height:1.25 }
.fact span { color:var(--soft); font-size:.86rem; line-height:1.35; display:block }
nav { display:flex; flex-wrap:wrap; gap:.45rem; margin:0 0 2rem }
nav a { color:var(--soft); text-decoration:none; font-size:.85rem; border:1px solid var(--line);
  background:var(--paper); border-radius:99px; padding:.2rem .8rem }
nav a:hover { color:var(--blue); border-color:var(--blue) }
section { background:var(--paper); border:1px solid var(--line); border-radius:14px;
  padding:1.6rem 1.8rem; margin:0 0 1.3rem }
h2 { margin:0 0 .5rem; font-size:1.28rem; letter-spacing:-.01em }
h2 small { color:#9aa6b8; font-weight:500; margin-right:.55rem; font-size:1rem }
p { margin:.4rem 0 .8rem } .soft { color:var(--soft) } .note { color:var(--soft); font-size:.9rem }
pre { background:#0f172a; color:#e2e8f0; border-radius:9px; padding:.65rem 1rem; overflow-x:auto;
  font:.86rem/1.5 ui-monospace,"SF Mono",Menlo,Consolas,"DejaVu Sans Mono",monospace; margin:.7rem 0 1rem }
pre i { color:#5eead4; font-style:normal }
.verdict { border-left:4px solid var(--blue); background:#eff5ff; padding:.6rem 1rem; border-radius:0 8px 8px 0; margin:.9rem 0 }
.verdict.good { border-color:var(--green); background:#edfaf6 }
.verdict.bad { border-color:var(--amber); background:#fff7ed }
.figures { display:flex; flex-wrap:wrap; gap:1rem; margin:.6rem 0 }
.figures > div { flex:1 1 100%; min-width:0 } svg { width:100%; height:auto; display:block }
svg text { font-family:inherit !important }
.tables { display:flex; flex-wrap:wrap; gap:1.6rem; align-items:flex-start }
table { border-collapse:collapse; font-size:.88rem; font-variant-numeric:tabular-nums; margin:.3rem 0 }
caption { text-align:left; font-weight:600; padding:0 0 .3rem }
th { text-align:right; color:var(--soft); font-weight:500; border-bottom:1px solid var(--line); padding:.25rem .7rem }
td { text-align:right; padding:.22rem .7rem; border-bottom:1px solid #f1f4f8 }
th:first-child, td:first-child { text-align:left; padding-left:0 } td.words, th.words { text-align:left }
td.line { white-space:pre; font-family:ui-monospace,Menlo,Consolas,monospace; border:0; padding:0 }
details { margin:.5rem 0 } summary { cursor:pointer; color:var(--blue); font-size:.9rem }
footer { color:var(--soft); font-size:.85rem; padding-bottom:3rem }
@media (max-width:600px) { h1 { font-size:1.7rem } section { padding:1.1rem } }
@media print { header { background:#fff; color:#000 } header p { color:#333 } section { break-inside:avoid } }
"""  # noqa: E501


def render(
    title: str, lead: str, facts: Sequence[tuple[str, str]], chapters: Sequence[Chapter], end: str
) -> str:
    """Return the page.

    Args:
        title: the headline.
        lead: the sentence below it.
        facts: (number, what it is) for the cards on top.
        chapters: the story.
        end: the last line.
    """
    cards = "".join(
        f'<div class="fact"><b>{escape(value)}</b><span>{escape(name)}</span></div>'
        for value, name in facts
    )
    links = "".join(
        f'<a href="#c{n}">{escape(c.title)}</a>' for n, c in enumerate(chapters, start=1)
    )
    body = "".join(_chapter(n, c) for n, c in enumerate(chapters, start=1))
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{escape(title)}</title><style>{_CSS}</style></head><body>"
        f'<header><div><p class="kind">Recollect</p><h1>{escape(title)}</h1>'
        f"<p>{escape(lead)}</p></div></header><main><div class='facts'>{cards}</div>"
        f"<nav>{links}</nav>{body}</main><footer>{escape(end)}</footer></body></html>\n"
    )


def _chapter(number: int, c: Chapter) -> str:
    parts = [f'<section id="c{number}"><h2><small>{number}</small>{escape(c.title)}</h2>']
    if c.text:
        parts.append(f'<p class="soft">{escape(c.text)}</p>')
    if c.command:
        parts.append(f"<pre><i>$</i> {escape(c.command)}</pre>")
    if c.tables_first:
        parts.append(_open_tables(c))
    if c.figures:
        parts.append('<div class="figures">')
        parts += [f"<div>{svg}</div>" for svg in c.figures]
        parts.append("</div>")
    if c.verdict:
        kind = {True: " good", False: " bad", None: ""}[c.good]
        parts.append(f'<div class="verdict{kind}">{escape(c.verdict)}</div>')
    if not c.tables_first:
        parts.append(_open_tables(c))
    parts += [
        f"<details><summary>{escape(t.title or 'the numbers')}</summary>"
        f"{_table(t, titled=False)}</details>"
        for t in c.tables
        if t.folded
    ]
    if c.note:
        parts.append(f'<p class="note">{escape(c.note)}</p>')
    return "".join([*parts, "</section>"])


def _open_tables(c: Chapter) -> str:
    shown = [t for t in c.tables if not t.folded]
    return f'<div class="tables">{"".join(map(_table, shown))}</div>' if shown else ""


def _table(t: Table, titled: bool = True) -> str:
    # Sentences stand to the left, numbers to the right; a single column is a drawing.
    wordy = [any(len(str(row[i])) > 18 for row in t.rows) for i in range(len(t.columns))]
    kinds = [
        ' class="line"' if len(t.columns) == 1 else ' class="words"' if w else "" for w in wordy
    ]
    head = "".join(f"<th{k}>{escape(c)}</th>" for c, k in zip(t.columns, kinds, strict=True))
    rows = "".join(
        "<tr>"
        + "".join(f"<td{k}>{escape(text(v))}</td>" for v, k in zip(row, kinds, strict=True))
        + "</tr>"
        for row in t.rows
    )
    caption = f"<caption>{escape(t.title)}</caption>" if titled and t.title else ""
    return f"<table>{caption}<thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"


def text(value: Any) -> str:
    """Write a value for a table."""
    if isinstance(value, float):
        return f"{value:,.1f}" if abs(value) >= 10 else f"{value:.3g}"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return str(value)
