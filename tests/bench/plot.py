#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Plots of a benchmark's JSON, made by gnuplot: plot.py JSON SVG."""
import json
import subprocess
import sys

DEPTHS = (1, 8, 32, 128)
# By the order of servers in the result, the same in all plots; ours stand out.
COLOURS = ["#555555", "#d62728", "#ff9896", "#1f77b4", "#17becf", "#2ca02c", "#98df8a", "#9467bd", "#c5b0d5", "#8c564b",
           "#bcbd22"]
WRITE = "rand-write-4k-qd32"


def requests(cell):
    return cell["iops"] / 1000


def megabytes(cell):
    return cell["bytes_per_second"] / 1e6


# title, axis, what of a cell, style, (label, job) from left to right
PANELS = [
    ("4 KiB random reads", "1,000 a second", requests, "lines", [(str(d), f"rand-read-4k-qd{d}") for d in DEPTHS]),
    ("4 KiB random writes", "1,000 a second", requests, "lines", [(str(d), f"rand-write-4k-qd{d}") for d in DEPTHS]),
    ("32 at a time, over 1, 4, 16 connections, 4 volumes", "1,000 a second", requests, "bars",
     [(f"{kind} {label}", f"rand-{kind}-4k-{suffix}") for kind in ("read", "write") for label, suffix in
      (("1", "qd32"), ("4", "4x8"), ("16", "16x2"), ("volumes", "4volumes"))]),
    ("4 KiB random writes at depth 32, by the volume's state", "1,000 a second", requests, "bars",
     [("overwriting", WRITE), ("fresh", f"{WRITE} into a fresh volume"), ("snapshot", f"{WRITE} after a snapshot"),
      ("100 snapshots", f"{WRITE} after 100 snapshots"), ("aged", f"{WRITE} into an aged volume")]),
    ("Durable writes and a mixture", "1,000 a second", requests, "bars",
     [("fdatasync", "rand-write-4k-fdatasync-qd1"), ("16 x fdatasync", "rand-write-4k-fdatasync-16"),
      ("70/30", "rand-mixed-4k-qd32")]),
    ("Sequential", "MB a second", megabytes, "bars",
     [("read 64k", "seq-read-64k-qd16"), ("read 1M", "seq-read-1m-qd4"), ("write 64k", "seq-write-64k-qd16"),
      ("write 1M", "seq-write-1m-qd4")]),
]

HEAD = """\
set terminal svg size 1200,{height} dynamic enhanced font 'sans,12' background rgb 'white'
set output '{path}'
set datafile missing '?'
set multiplot layout {rows},2
set grid ytics lc rgb '#dddddd'
set border 3
set tics nomirror
set key outside right top vertical samplen 1 font ',9' noenhanced
set xtics noenhanced
set yrange [0:*]
"""

LOOK = {
    "lines": "set xlabel 'requests at a time'; set style data linespoints; set xtics rotate by 0",
    "bars": "unset xlabel; set style data histograms; set style histogram clustered gap 1; set style fill solid 0.8 "
            "noborder; set xtics rotate by -20",
}


def quoted(text):
    return "'" + text.replace("'", "''") + "'"


def panel(result, number, title, axis, value, style, points):
    """The data and the commands of one plot; nothing of what was not measured."""
    points = [(label, result["jobs"][job]) for label, job in points if job in result["jobs"]]
    names = [name for name in result["servers"] if any(name in by for _, by in points)]
    if not names:
        return []
    lines = [f"$data{number} << EOD"]
    for label, by in points:
        lines.append(" ".join([json.dumps(label), *(f"{value(by[name]):.3f}" if name in by else "?" for name in names)]))
    lines += ["EOD", LOOK[style], f"set title {quoted(title)}", f"set ylabel {quoted(axis)}"]
    look = "lw 2 pt 7 ps 0.6" if style == "lines" else ""
    order = list(result["servers"])
    lines.append("plot " + ", ".join(
        f"$data{number} using {column}:xtic(1) title {quoted(name)} {look} lc rgb '{COLOURS[order.index(name) % len(COLOURS)]}'"
        for column, name in enumerate(names, 2)))
    return lines


def script(result, path):
    panels = [lines for number, spec in enumerate(PANELS) if (lines := panel(result, number, *spec))]
    rows = (len(panels) + 1) // 2
    head = HEAD.format(path=path.replace("'", "''"), rows=max(rows, 1), height=380 * max(rows, 1))
    return head + "\n".join(line for lines in panels for line in lines) + "\nunset multiplot\n"


def svg(result, path):
    subprocess.run(["gnuplot"], input=script(result, path), text=True, check=True)


if __name__ == "__main__":
    with open(sys.argv[1]) as source:
        svg(json.load(source), sys.argv[2])
