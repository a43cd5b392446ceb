"""bfloat16 instead of float32, where the processor has instructions for it.

TensorFlow then computes the convolutions and matrix products of a graph in bfloat16, as TensorFlow Serving does with
`--mixed_precision=bfloat16`. Weights stay float32, and so do LSTMs that are one operation, and losses.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

BFLOAT16 = "bfloat16"
_CPU_INFO = Path("/proc/cpuinfo")
BFLOAT16_INSTRUCTIONS = frozenset({"avx512_bf16", "amx_bf16"})
"""Instruction sets that multiply in bfloat16, as Linux names them; one is enough."""


@lru_cache(maxsize=1)
def has_bfloat16() -> bool:
    """Whether this machine's processor multiplies in bfloat16: AVX512_BF16 or AMX, as Linux names them.

    Without them TensorFlow would emulate it with AVX-512, which takes longer than float32.
    """
    try:
        lines = _CPU_INFO.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:  # no Linux
        return False
    flags = next((line.partition(":")[2].split() for line in lines if line.startswith("flags")), [])
    return not BFLOAT16_INSTRUCTIONS.isdisjoint(flags)


def use_bfloat16(wanted: bool) -> bool:
    """Chooses for the functions that TensorFlow calls in this process from now on; a session has its own setting.

    Args:
        wanted: False for float32.

    Returns:
        Whether it is bfloat16 now: not where the processor lacks it.
    """
    import tensorflow as tf

    used = wanted and has_bfloat16()
    tf.config.optimizer.set_experimental_options({"auto_mixed_precision_onednn_bfloat16": used})
    return used
