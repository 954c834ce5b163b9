"""A report as one HTML page: nothing is loaded, and all but sorting works without scripts."""

from __future__ import annotations

from html import escape
from importlib.resources import files
from typing import TYPE_CHECKING

import numpy as np

from equipoise.report.pictures import pictures
from equipoise.report.plain import numbers
from equipoise.report.spread import noise_floor, spread_of
from equipoise.report.svg import inline_svg
from equipoise.report.tables import Column, columns, notable
from equipoise.report.telling import sources, story, times

if TYPE_CHECKING:
    from equipoise.report.report import Report

__all__ = ["page"]

SHOWN = 60  # classes up to which the table is open
EXTREMES = 20


def page(report: Report) -> str:
    """The HTML."""
    body = [
        f"<header><p class=brand>equipoise report</p><h1>{_name(report.title)}</h1></header>",
        _tiles(report),
        _story(report),
        _pictures(report),
        _tables(report),
        _epochs(report),
        _notes(report),
    ]
    return PAGE.format(
        title=escape(report.title),
        css=_resource("page.css"),
        js=_resource("page.js"),
        body="\n".join(part for part in body if part),
    )


# Nothing may come from outside, whatever a class is called.
PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" \
content="default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'">
<title>{title}</title>
<style>
{css}</style>
</head>
<body>
<main>
{body}
</main>
<script>
{js}</script>
</body>
</html>
"""


def _resource(name: str) -> str:
    return (files("equipoise.report") / name).read_text(encoding="utf-8")


def _name(name: str) -> str:
    """Escaped, and of a direction of its own: it may be written from right to left."""
    return escape(name) if name.isascii() else f"<bdi>{escape(name)}</bdi>"


def _tiles(report: Report) -> str:
    """The figures to look at first, before and now."""
    now, before = spread_of(report.after["recalls"]), spread_of(report.before["recalls"])
    tiles: list[tuple[str, float | None, float, str]] = []
    if now is not None:
        floor = noise_floor(report.after["recalls"], report.after["support"])
        least = "" if floor is None else f"chance alone: {floor:.3f}"
        old = (None,) * 3 if before is None else (before.mean, before.sd, before.lowest)
        tiles = [
            ("mean recall", old[0], now.mean, ""),
            ("spread (sd) of recalls", old[1], now.sd, least),
            ("lowest recall", old[2], now.lowest, report.names[now.worst]),
        ]
    if report.evaluation and "average_precisions" in report.evaluation:
        areas = numbers(report.evaluation["average_precisions"])
        if not np.isnan(areas).all():
            tiles.append(("mean average precision", None, float(np.nanmean(areas)), ""))
    if report.seconds:
        total = times({"": sum(report.seconds.values())}).strip()
        inside = "".join(f"<dt>time</dt><dd>{total}</dd>")
        return _tile_list(tiles, f"<div>{inside}</div>")
    return _tile_list(tiles, "")


def _tile_list(tiles: list[tuple[str, float | None, float, str]], more: str) -> str:
    cells = []
    for name, old, new, note in tiles:
        was = (
            "" if old is None else f"<span class=was>{old:.3f} <span aria-label=to>→</span> </span>"
        )
        under = f"<dd class=note>{_name(note)}</dd>" if note else ""
        cells.append(f"<div><dt>{name}</dt><dd>{was}{new:.3f}</dd>{under}</div>")
    return f"<dl class=tiles>{''.join(cells)}{more}</dl>" if cells or more else ""


def _story(report: Report) -> str:
    parts = [f"<div><h2>{head}</h2><p>{escape(text)}</p></div>" for head, text in story(report)]
    return f"<section class=story aria-label=Summary>{''.join(parts)}</section>"


def _pictures(report: Report) -> str:
    figures = [
        f'<figure id="{picture.name}"><h3>{escape(picture.title)}</h3>{inline_svg(picture)}'
        f"<figcaption>{escape(picture.note)}</figcaption></figure>"
        for picture in pictures(report)
    ]
    if not figures:
        return ""
    return f"<section><h2>In pictures</h2><div class=pictures>{''.join(figures)}</div></section>"


def _tables(report: Report) -> str:
    kinds = "labels" if report.multilabel else "classes"
    found = columns(report)
    classes = len(report.names)
    everyone = notable(report, classes)
    meanings = "".join(f"<dt>{c.heading}</dt><dd>{c.meaning}</dd>" for c in found)
    legend = (
        "<details class=legend><summary>What the columns are</summary>"
        f"<dl>{meanings}</dl></details>"
    )
    if classes <= SHOWN:
        whole = _table(report, found, everyone, f"Every {_kind(report)}")
        return f"<section><h2>Every {_kind(report)}</h2>{legend}{whole}</section>"
    some = _table(
        report,
        found,
        notable(report, EXTREMES),
        f"The {EXTREMES // 2} lowest recalls now, and the {EXTREMES // 2} largest changes",
    )
    whole = _table(report, found, everyone, f"All {classes:,} {kinds}")
    return (
        f"<section><h2>{kinds.capitalize()}</h2>{legend}{some}"
        f"<details class=all><summary>All {classes:,} {kinds}</summary>{whole}</details></section>"
    )


def _kind(report: Report) -> str:
    return "label" if report.multilabel else "class"


def _table(report: Report, found: list[Column], rows: np.ndarray, caption: str) -> str:
    """Closing tags that HTML does without are left out: thousands of rows stay small."""
    head = "".join(
        f'<th scope=col title="{escape(column.meaning)}">{column.heading}' for column in found
    )
    body = []
    for c in rows:
        cells = "".join(f"<td>{column[c]}" for column in found)
        name = report.names[c]
        title = f' title="{escape(name)}"' if len(name) > 28 else ""  # the column may cut it
        body.append(f"<tr><th scope=row{title}>{_name(name)}{cells}\n")
    return (
        f'<div class=scroll role=region tabindex=0 aria-label="{escape(caption)}">'
        f"<table class=sortable><caption>{caption}</caption>"
        f"<thead><tr><th scope=col>{_kind(report)}{head}</thead>"
        f"<tbody>{''.join(body)}</tbody></table></div>"
    )


def _epochs(report: Report) -> str:
    """Mining's figures of each epoch, and how many examples were left out of the recalls."""
    heads = ["epoch", "mean recall", "spread (sd)", "lowest"]
    keys = ["mean_recall", "sd_recall", "lowest_recall"]
    if any(row.get("mean_average_precision") is not None for row in report.epochs):
        heads.append("mean AP")
        keys.append("mean_average_precision")
    mined = any(row.get("mining") for row in report.epochs)
    heads += ["share kept", "loss of kept", "loss of dropped"] if mined else []
    body = []
    for i, row in enumerate(report.epochs):
        values = [row.get(key) for key in keys]
        tally = row.get("mining") or {}
        mining = ("share_kept", "mean_loss_kept", "mean_loss_dropped") if mined else ()
        values += [tally.get(key) for key in mining]
        cells = "".join(f"<td>{'–' if v is None else f'{v:.3f}'}" for v in values)
        body.append(f"<tr><th scope=row>{i + 1}{cells}\n")
    head = "".join(f"<th scope=col>{name}" for name in heads)
    return (
        "<section><details><summary>Every epoch</summary>"
        "<div class=scroll role=region tabindex=0 aria-label='Every epoch'>"
        f"<table><caption>What was observed at the end of each epoch</caption><thead><tr>{head}"
        f"</thead><tbody>{''.join(body)}</tbody></table></div></details></section>"
    )


def _notes(report: Report) -> str:
    lines = "".join(f"<li>{escape(line)}" for line in sources(report))
    parts = report.parts
    used = [("policy", parts["policy"]), ("sampler", parts["sampler"]), ("loss", parts["loss"])]
    used += [("mining", parts["mining"] or "none"), ("decision", parts["decision"] or "not fitted")]
    share = parts["sampler_share"]
    if share < 1:
        used.append(("the sampler's share of λ", f"{share:.2g}"))
    cells = "".join(f"<div><dt>{name}</dt><dd>{escape(str(v))}</dd></div>" for name, v in used)
    nan, invalid = (sum(row.get(k, 0) for row in report.epochs) for k in ("num_nan", "num_invalid"))
    if nan or invalid:
        lines += (
            f"<li>Left out of the epochs' recalls: {nan:,} examples with NaN logits, "
            f"{invalid:,} with targets that are none."
        )
    return (
        f"<section class=notes><h2>How to read this</h2><ul>{lines}</ul>"
        f"<dl class=parts>{cells}</dl></section>"
    )
