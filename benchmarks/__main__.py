"""Run the benchmarks: ``python -m benchmarks --size tiny | cpu | gpu [--only NAME]``.

The tiny size runs in one process and keeps nothing: it shows that everything works. The
others run each workload in a process of its own and write ``results/SIZE.json`` after
each, so that a run that was cut off goes on where it stopped.
"""

import argparse
import datetime as dt
import fnmatch
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.harness import NOT_COMPILED, SIZES, questions
from benchmarks.timing import Timing, machine

FOLDER = Path(__file__).parent
RESULTS = FOLDER / "results"
TIME_LIMIT = 240  # seconds for a workload, which takes half a minute


def main(argv: list[str] | None = None) -> int:
    """Run what was asked for; the result is the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--size", choices=SIZES, default="tiny")
    parser.add_argument("--only", default="*", help="names of workloads, with * and ?")
    parser.add_argument("--again", action="store_true", help="also what is there")
    parser.add_argument(
        "--no-compilers",
        action="store_true",
        help="a quick look, without torch.compile and Inductor",
    )
    options = parser.parse_args(argv)
    if options.size == "tiny":
        return pytest(FOLDER, "--size=tiny", f"--only={options.only}")
    path = RESULTS / f"{options.size}.json"
    results = json.loads(path.read_text()) if path.exists() else {}
    chosen = [
        (question, workload.name)
        for counted in (True, False)
        for question, module in questions().items()
        for workload in module.workloads(options.size)
        if workload.counted is counted
        and fnmatch.fnmatchcase(workload.name, options.only)
        and (options.again or workload.name not in results)
    ]
    flags = ["--no-compilers"] if options.no_compilers else []
    failed = []
    for index, (question, name) in enumerate(chosen):
        start = time.perf_counter()
        entry = run(question, name, options.size, *flags)
        if entry is None and not flags:
            entry = without_compilers(question, name, options.size)
        seconds = time.perf_counter() - start
        print(f"{index + 1}/{len(chosen)} {name}: {seconds:.0f} s", flush=True)
        if entry is None:
            failed.append(name)
            continue
        results[name] = entry
        path.write_text(json.dumps(results, indent=1, sort_keys=True) + "\n")
    if failed:
        print(f"no result: {', '.join(failed)}")
    return 1 if failed else 0


def run(question: str, name: str, size: str, *flags: str) -> dict[str, Any] | None:
    """Measure one workload in a process of its own; None where that came to nothing."""
    with tempfile.TemporaryDirectory() as folder:
        record = Path(folder, "record.json")
        pytest(
            FOLDER / f"test_{question}.py",
            f"--size={size}",
            f"--only={name}",
            f"--benchmark-json={record}",
            *flags,
            cache=folder,
        )
        if not record.exists() or not record.stat().st_size:
            return None
        tests = json.loads(record.read_text())["benchmarks"]
    return condense(question, tests) if tests else None


def without_compilers(question: str, name: str, size: str) -> dict[str, Any] | None:
    """Measure again where a process ended: what a compiler made may have crashed it."""
    entry = run(question, name, size, "--no-compilers")
    if entry is not None:
        entry["left_out"] = {
            who: why.replace(NOT_COMPILED, "left out because the process ended with it")
            for who, why in entry["left_out"].items()
        }
    return entry


def pytest(*args: object, cache: str | None = None) -> int:
    """Run pytest; with ``cache`` quietly, and without what was compiled before."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    outside = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")}
    env = {"KINETO_LOG_LEVEL": "99", **outside}
    if cache is None:
        return subprocess.run([*command, *map(str, args)], env=env).returncode
    env["TORCHINDUCTOR_CACHE_DIR"] = cache
    quiet = [*command, "--benchmark-quiet", "--tb=line", *map(str, args)]
    try:
        done = subprocess.run(
            quiet, env=env, capture_output=True, text=True, timeout=TIME_LIMIT
        )
    except subprocess.TimeoutExpired:
        return 124
    if done.returncode:
        print(done.stdout[-2000:], done.stderr[-2000:], sep="\n")
    return done.returncode


def condense(question: str, tests: list[dict[str, Any]]) -> dict[str, Any]:
    """Return what the report needs of pytest-benchmark's record of a workload."""
    contenders = {}
    for test in tests:
        info = test["extra_info"]
        timing = Timing(tuple(test["stats"]["data"]))
        contenders[info["contender"]] = {
            "low": timing.low,
            "median": timing.median,
            "high": timing.high,
            "rounds": len(timing.samples),
            "first_call": info["first_call"],
            "peak_bytes": info["peak_bytes"],
            "error": info["error"],
            "shares": info["shares"],
        }
    info = tests[0]["extra_info"]
    return {
        "question": question,
        "title": info["title"],
        "sweep": info["sweep"],
        "counted": info["counted"],
        "left_out": info["left_out"],
        "machine": machine(),
        "load": round(os.getloadavg()[1], 1),
        "date": dt.date.today().isoformat(),
        "contenders": contenders,
    }


if __name__ == "__main__":
    sys.exit(main())
