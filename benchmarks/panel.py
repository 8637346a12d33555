"""How long after a slider is released the panel shows the first point and the finished curve."""

from __future__ import annotations

import statistics
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.browser import PANEL_CELL, drag, lab_page, log, open_panel, wait_for_status

REPEATS = 7


def measure() -> dict[str, float]:
    """Medians in seconds, in a real browser with a warm kernel: 60 LoRA steps of 16 rows."""
    with tempfile.TemporaryDirectory() as folder, lab_page([PANEL_CELL], Path(folder)) as page:
        open_panel(page)
        page.click("button:has-text('Train')")
        wait_for_status(page, "Finished")
        times = [released_to_drawn(page, 0.8 if i % 2 else 0.35) for i in range(REPEATS)]
    first, last = (statistics.median(values) for values in zip(*times, strict=True))
    return {
        "panel: slider released -> first point, s": first,
        "panel: slider released -> 60 LoRA steps drawn, s": last,
    }


def released_to_drawn(page: Any, share: float) -> tuple[float, float]:
    """Drag lora_rank to `share` of its track; seconds until the first and the last point show."""
    page.wait_for_timeout(1500)  # the answers of the run before are on the page
    seen = len(log(page))
    drag(page, "lora_rank", share)
    wait_for_status(page, "Training")
    wait_for_status(page, "Finished")
    records = log(page)[seen:]
    released = next(at for at, _, status in records if status == "released")
    first = next(at for at, step, status in records if step and status.startswith("Training"))
    last = next(at for at, _, status in records if status.startswith("Finished") and at > first)
    return (first - released) / 1000, (last - released) / 1000


if __name__ == "__main__":
    for name, seconds in measure().items():
        print(f"{name}: {seconds:.2f}")
