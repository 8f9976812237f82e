#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""
iscsi-test-cu's tests, each on its own: iscsi_conformance.py [-o FILE] [-t REGEX] [-x REGEX] URI…

With several URIs so many run at the same time, each on a unit of its own.  "URI,URI" is a unit with
a second path.  Everything on the units is lost.  Prints the tests that fail, and those that were
skipped with what the suite says of it, and as the last line how many passed, failed and were
skipped; -o keeps all of it, tab-separated.  The suite counts a skipped test as passed: what it says
tells.
"""
import argparse
import concurrent.futures
import queue
import re
import subprocess
import sys

TIMEOUT_S = 180

# Tests that by a fault of theirs pass only behind others: they are run with all of their suite.
NEEDS_ITS_SUITE = {"ALL.iSCSITMF.LUNResetSimpleAsync"}

# It expects zeroes in a block behind those that it writes: it runs first, while the units are new.
NEEDS_NEW_UNIT = {"ALL.MultipathIO.CompareAndWrite"}


def list_tests():
    lines = subprocess.run(["iscsi-test-cu", "-l"], capture_output=True, text=True, check=False).stdout.split()
    return [line for line in lines if re.fullmatch(r"ALL\.[^.]+\.[^.]+.*", line)]


def run_one(test, uris):
    with_suite = test in NEEDS_ITS_SUITE
    command = ["iscsi-test-cu", "--dataloss", "--allow-sanitize", "-v", "-t", test.rpartition(".")[0] if with_suite else test, *uris]
    try:
        run = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
            stdin=subprocess.DEVNULL, timeout=TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired as error:
        return "failed", f"takes more than {TIMEOUT_S} s: {error.stdout[-300:] if error.stdout else ''}"
    text = run.stdout
    count = re.search(r"^\s+tests\s+(\d+)\s+(\d+)\s+(\d+)\s+(\d+)", text, re.M)
    if not count:
        return "failed", f"status {run.returncode}: {text[-300:]}"
    total, ran, _, failed = map(int, count.groups())
    if total < 1 or (ran != 1 and not with_suite):
        return "failed", "it was not run"
    skips = re.findall(r"\[SKIPPED\] *(.*)", text)
    if failed:
        reason = re.search(r"^\s*\d+\. .*", text, re.M)
        return "failed", reason.group(0).strip() if reason else text[-300:]
    if skips:
        return "skipped", skips[0]
    return "passed", ""


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("-o", "--output")
    parser.add_argument("-x", "--exclude", help="tests not to run")
    parser.add_argument("-t", "--only", help="tests to run")
    parser.add_argument("uris", nargs="+")
    args = parser.parse_args()
    tests = [
        test for test in list_tests()
        if not (args.exclude and re.search(args.exclude, test)) and re.search(args.only or "", test)]
    tests.sort(key=lambda test: test not in NEEDS_NEW_UNIT)
    units = queue.SimpleQueue()
    for uri in args.uris:
        units.put(uri.split(","))

    def on_some_unit(test):
        unit = units.get()
        try:
            return run_one(test, unit)
        finally:
            units.put(unit)

    results = {}
    with concurrent.futures.ThreadPoolExecutor(len(args.uris)) as pool:
        for test, result in zip(tests, pool.map(on_some_unit, tests)):
            results[test.removeprefix("ALL.")] = result
    for test, (what, why) in results.items():
        if what != "passed":
            print(f"{what} {test}: {why}")
    if args.output:
        with open(args.output, "w", encoding="utf-8") as out:
            for test, (what, why) in results.items():
                print(test, what, " ".join(why.split()), sep="\t", file=out)
    count = {what: sum(1 for result in results.values() if result[0] == what) for what in ("passed", "failed", "skipped")}
    print(f"{len(results)} tests: {count['passed']} passed, {count['failed']} failed, {count['skipped']} skipped")
    return 1 if count["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
