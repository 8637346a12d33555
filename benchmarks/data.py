"""Reading and diagnosing: rows a second and peak memory, each in a fresh process; encoding."""

from __future__ import annotations

import csv
import json
import random
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

SIZES = (1_000, 10_000, 100_000)
WORDS = (
    "harbor tide boat lantern market painter baker street river bridge window garden letter "
    "music violin onion bread winter summer morning evening question answer reason water stone "
)

HAN = "港口潮汐小镇灯塔市场画家面包街道河流桥梁窗户花园书信音乐洋葱冬天夏天早晨"

# Run in its own process: seconds, processor seconds and peak memory of one call. On Linux the
# ru_maxrss of a process begins at what its parent used.
CHILD = """
import json, re, resource, sys, time
from pathlib import Path
import ftlab, ftlab.data.doctor
path, work = Path(sys.argv[1]), sys.argv[2]
began, worked = time.perf_counter(), time.process_time()
if work == "read":
    rows = len(ftlab.read(path))
else:
    report = ftlab.diagnose(path)
    rows = report.rows_read
    assert report.clean, str(report)
seconds = time.perf_counter() - began
cpu = time.process_time() - worked
status = Path("/proc/self/status")
used = re.search(r"VmHWM:\\s+(\\d+)", status.read_text()) if status.exists() else None
peak = int(used[1] if used else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss) / 1024
print(json.dumps({"rows": rows, "seconds": seconds, "cpu_seconds": cpu, "peak_mb": peak}))
"""


def sentence(chance: random.Random, words: int) -> str:
    """English or Chinese, no two alike."""
    if chance.random() < 0.5:
        return " ".join(chance.choices(WORDS.split(), k=words)).capitalize() + "."
    return "".join(chance.choices(HAN, k=2 * words)) + "。"


def alpaca(chance: random.Random) -> dict[str, Any]:
    """A question of about 60 and an answer of about 240 characters, in one language."""
    while True:
        asked, answer = sentence(chance, 10), sentence(chance, 40)
        if asked.isascii() == answer.isascii():
            return {"instruction": asked, "input": "", "output": answer}


def sharegpt(chance: random.Random) -> dict[str, Any]:
    row = alpaca(chance)
    turns = (("human", row["instruction"]), ("gpt", row["output"]))
    return {"conversations": [{"from": who, "value": said} for who, said in turns]}


def openai(chance: random.Random) -> dict[str, Any]:
    row = alpaca(chance)
    turns = (("user", row["instruction"]), ("assistant", row["output"]))
    return {"messages": [{"role": who, "content": said} for who, said in turns]}


def preference(chance: random.Random) -> dict[str, Any]:
    row, other = alpaca(chance), alpaca(chance)
    while row["output"].isascii() != other["output"].isascii():
        other = alpaca(chance)
    return {
        "instruction": row["instruction"],
        "chosen": row["output"],
        "rejected": other["output"],
    }


def text(chance: random.Random) -> dict[str, Any]:
    return {"text": sentence(chance, 50)}


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def write_csv(path: Path, rows: list[dict[str, Any]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        table = csv.DictWriter(file, list(rows[0]))
        table.writeheader()
        table.writerows(rows)


def write_parquet(path: Path, rows: list[dict[str, Any]]) -> None:
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)


def write_text(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(row["text"] + "\n" for row in rows), encoding="utf-8")


# format -> what a row is, how a file of them is written, its suffix
FORMATS: dict[str, tuple[Callable[..., Any], Callable[..., None], str]] = {
    "alpaca": (alpaca, write_jsonl, ".jsonl"),
    "sharegpt": (sharegpt, write_jsonl, ".jsonl"),
    "openai": (openai, write_jsonl, ".jsonl"),
    "preference": (preference, write_jsonl, ".jsonl"),
    "csv": (alpaca, write_csv, ".csv"),
    "parquet": (alpaca, write_parquet, ".parquet"),
    "text": (text, write_text, ".txt"),
}


def run(path: Path, work: str) -> dict[str, float]:
    """Seconds and megabytes of one call in a fresh process."""
    command = [sys.executable, "-c", CHILD, str(path), work]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def table(sizes: tuple[int, ...] = SIZES) -> list[dict[str, Any]]:
    """One record for each format, size and call."""
    records = []
    with tempfile.TemporaryDirectory() as folder:
        for name, (make, write, suffix) in FORMATS.items():
            for size in sizes:
                chance, path = random.Random(size), Path(folder, name + suffix)
                write(path, [make(chance) for _ in range(size)])
                for work in ("read", "diagnose"):
                    found = run(path, work)
                    records.append({"format": name, "size": size, "call": work,
                                    "file_mb": path.stat().st_size / 1e6, **found})  # fmt: skip
    return records


def encoding_speed(rows: int = 2_000) -> float:
    """Tokens a second of ftlab.encode with the shipped tokenizer."""
    import time

    import ftlab

    tokenizer, data = ftlab.load("tiny")[1], ftlab.read("world_qa").take(rows)
    ftlab.encode(tokenizer, data[0])
    began = time.perf_counter()
    tokens = sum(len(ftlab.encode(tokenizer, row, with_tokens=False)) for row in data)
    return tokens / (time.perf_counter() - began)


def measure() -> dict[str, float]:
    """The figures for the table of all benchmarks; every single one is in results/data.json."""
    records = table()
    path = Path(__file__).parent / "results" / "data.json"
    path.write_text(json.dumps(records, indent=1) + "\n")
    largest = [record for record in records if record["size"] == max(SIZES)]
    results = {}
    for call in ("read", "diagnose"):
        for record in largest:
            if record["call"] == call:
                name = f"{call} {record['format']}, thousand rows a second"
                results[name] = record["rows"] / record["seconds"] / 1000
    slowest = max(r["seconds"] for r in largest if r["call"] == "diagnose")
    results["diagnose 100,000 rows, slowest format, s"] = slowest
    peak = max(record["peak_mb"] for record in largest)
    results["read and diagnose 100,000 rows, largest peak memory, MB"] = peak
    results["encode, thousand tokens a second"] = encoding_speed() / 1000
    return results


if __name__ == "__main__":
    for name, value in measure().items():
        print(f"{name}: {value:.2f}")
