# SPDX-License-Identifier: Apache-2.0
"""What came out of a run: medians, tables, and what fell since the committed figures."""
import json
import os
import platform
import re
import statistics
import subprocess

import plot
from servers import ROOT

BARE, OURS = "bare file", "quarryd"


def median(runs):
    def of(get):
        values = [get(run) for run in runs]
        values = [value for value in values if value is not None]
        return statistics.median(values) if values else None

    iops = sorted(run["iops"] for run in runs)
    return {
        "iops": of(lambda r: r["iops"]), "iops_least": iops[0], "iops_most": iops[-1],
        "bytes_per_second": of(lambda r: r["bytes_per_second"]),
        "latency_us": {key: of(lambda r, k=key: r["latency_us"][k]) for key in ("p50", "p99", "p999")},
        "cpu_seconds_per_100k": of(lambda r: r["cpu_seconds_per_100k"]),
        "device_bytes_per_byte": of(lambda r: r["device_bytes_per_byte"]),
        "resident_bytes": of(lambda r: r["resident_bytes"]),
    }


def machine():
    model = next((line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")), "?")
    memory = int(re.search(r"MemTotal:\s+(\d+)", open("/proc/meminfo").read()).group(1)) >> 20
    return f"{os.cpu_count()} x {model}, {memory} GiB, Linux {platform.release()}"


def human(result):
    if result["bytes_per_second"] / result["iops"] > 5000:
        return f"{result['bytes_per_second'] / 1e6:,.0f} MB/s"
    return f"{result['iops'] / 1000:,.1f}k" if result["iops"] >= 1000 else f"{result['iops']:.0f}"


def latencies(cell):
    return " / ".join(f"{cell['latency_us'][p]:,.0f}" for p in ("p50", "p99", "p999"))


def cost(cell):
    words = [f"{cell['cpu_seconds_per_100k']:.2f}" if cell["cpu_seconds_per_100k"] is not None else "?"]
    if cell["device_bytes_per_byte"]:
        words.append(f"{cell['device_bytes_per_byte']:.2f}")
    return " · ".join(words)


def memory(cell):
    return f"{cell['resident_bytes'] / (1 << 20):.0f}" if cell.get("resident_bytes") else "?"


def ratio(by, ours, others):
    """Of our requests per second to the most of the others'; nothing if one of the two is not there."""
    there = [by[name]["iops"] for name in others if name in by]
    return f"{by[ours]['iops'] / max(there):.2f}" if ours in by and there else ""


def grid(result, names, cell, more=()):
    """One table: a row for each job, a column for each server, and more columns (title, of a row)."""
    titles = [*names, *(title for title, _ in more)]
    lines = ["| job | " + " | ".join(titles) + " |", "|---|" + "---:|" * len(titles)]
    for job, by in result["jobs"].items():
        row = [cell(by[name]) if name in by else "" for name in names] + [of(by) for _, of in more]
        lines.append(f"| {job} | " + " | ".join(row) + " |")
    return lines


def table(result):
    """The tables for docs/BENCHMARKS.md."""
    names = list(result["servers"])
    served = [name for name in names if name != BARE]
    iscsi = [name for name in served if name.endswith("iSCSI")]
    peers = [name for name in served if not name.startswith(OURS) and name not in iscsi]
    ratios = [(f"{OURS} : {BARE}", lambda by: ratio(by, OURS, [BARE])),
              (f"{OURS} : best other server", lambda by: ratio(by, OURS, peers))]
    if len(iscsi) == 2:
        ratios.append((" : ".join(iscsi), lambda by: ratio(by, iscsi[0], iscsi[1:])))
    lines = [f"{result['date'][:10]}, {result['machine']}; a volume of {result['volume_bytes'] >> 20} MiB, "
             f"{result['rounds']} rounds of {result['seconds']} seconds each, medians.", ""]
    lines += grid(result, names, human, ratios)
    lines += ["", "Latency in µs (50 / 99 / 99.9 % of all requests are faster):", ""]
    lines += grid(result, names, latencies)
    lines += ["", "Processor seconds of the server per 100,000 requests · bytes written to the device per byte of the client:", ""]
    lines += grid(result, served, cost)
    lines += ["", "Resident memory in MiB while the job runs:", ""]
    lines += grid(result, served, memory) + [""]
    lines += [f"- **{name}**: {note}" for name, note in result["servers"].items()]
    lines += [f"- {name} was not measured: there was no {program}" for name, program in result["missing"].items()]
    return "\n".join(lines)


def compare(result, before):
    """What fell by more than a tenth, as a ratio to the bare file of its own run."""
    fell = []
    for job, by in result["jobs"].items():
        old = before.get("jobs", {}).get(job)
        if not old or OURS not in old or BARE not in old:
            continue
        was = old[OURS]["iops"] / old[BARE]["iops"]
        now = by[OURS]["iops"] / by[BARE]["iops"]
        if now < 0.9 * was:
            fell.append(f"{job}: {was:.2f} of the bare file before, {now:.2f} now")
    return fell


def write_json(result, path):
    with open(path, "w") as file:
        json.dump(result, file, indent=1)
        file.write("\n")


def publish(result, full):
    docs = os.path.join(ROOT, "docs")
    kind, name = ("bench-full", "benchmarks-full.json") if full else ("bench", "benchmarks.json")
    before = subprocess.run(["git", "-C", ROOT, "show", f"HEAD:docs/{name}"], capture_output=True, text=True)
    write_json(result, os.path.join(docs, name))
    tables = table(result)
    if full:
        plot.svg(result, os.path.join(docs, "benchmarks.svg"))
        tables = f"![the figures as plots](benchmarks.svg)\n\n{tables}"
    page = os.path.join(docs, "BENCHMARKS.md")
    with open(page) as file:
        text = file.read()
    begin, end = f"<!-- make {kind} writes from here -->", "<!-- to here -->"
    head, rest = text.split(begin)
    tail = rest.split(end, 1)[1]
    with open(page, "w") as file:
        file.write(f"{head}{begin}\n{tables}\n{end}{tail}")
    if before.returncode == 0:
        fell = compare(result, json.loads(before.stdout))
        print("\nBeside the committed figures: " + ("nothing fell." if not fell else "these fell:"))
        for line in fell:
            print(f"  {line}")
