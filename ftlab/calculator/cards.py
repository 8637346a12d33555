"""What is known of graphics cards, and the hardware table that tutorials copy; data, no code."""

from __future__ import annotations

from typing import NamedTuple


class Card(NamedTuple):
    """A graphics card by its data sheet: GB (10^9 bytes), dense FLOP/s in 16 bits with fp32 sums,
    FLOP/s in fp32, and bytes/s of its memory."""

    name: str
    gigabytes: int
    half: float
    single: float
    bandwidth: float


# NVIDIA's data sheets (the SXM versions) and, for GeForce, its architecture papers, where the rate
# with fp32 sums is half of the one that is printed large.
CARDS = {
    card.name: card
    for card in (
        Card("T4", 16, 65e12, 8.1e12, 320e9),
        Card("RTX 3060", 12, 25.5e12, 12.7e12, 360e9),
        Card("RTX 4090", 24, 165e12, 82.6e12, 1008e9),
        Card("L40S", 48, 362e12, 91.6e12, 864e9),
        Card("A100", 80, 312e12, 19.5e12, 2039e9),
        Card("H100", 80, 989e12, 67e12, 3350e9),
        Card("H200", 141, 989e12, 67e12, 4800e9),
    )
}
# Of the sheet's figures, what large products of matrices and large copies reach: measured on an
# H200 (769-798 of 989 TFLOP/s, 4.3 of 4.8 TB/s), taken to hold for the others.
COMPUTE_SHARE, BANDWIDTH_SHARE = 0.80, 0.90
LAUNCH = 5e-6  # seconds between kernels that PyTorch starts one by one
CONTEXT = 500_000_000  # bytes that CUDA and its libraries take beside PyTorch's tensors
SPARE = 0.10  # of what is needed: room for the allocator's rounding and gaps

# LLaMA-Factory's README from 2024-04-26 (cb8b8f40c) to 2025-03-11 (522a3e849), "Hardware
# Requirement (estimated)": GB without a batch or a length. Many tutorials print it.
TUTORIALS_SIZES = ("7B", "13B", "30B", "70B", "110B")
TUTORIALS = {
    "full, AMP (32 bits)": (120, 240, 600, 1200, 2000),
    "full, 16 bits": (60, 120, 300, 600, 900),
    "freeze, 16 bits": (20, 40, 80, 200, 360),
    "LoRA, GaLore, BAdam, 16 bits": (16, 32, 64, 160, 240),
    "QLoRA, 8 bits": (10, 20, 40, 80, 140),
    "QLoRA, 4 bits": (6, 12, 24, 48, 72),
    "QLoRA, 2 bits": (4, 8, 16, 24, 48),
}
TUTORIALS_SOURCE = "LLaMA-Factory's README of 2024-04 to 2025-03, where it is marked estimated"
