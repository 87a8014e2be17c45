"""Estimate the hours of a run on named GPUs from its floating-point operations."""

from dataclasses import dataclass

__all__ = ["GPUS", "UTILISATION", "Gpu"]

# Share of the peak that whole training reaches. 0.19: NVIDIA's ResNet-50 v1.5 on an A100, 2,470
# images/s (DeepLearningExamples). 0.13: open_clip's ViT-B/16 on LAION-400M, 12.8 billion pairs in
# 10,700 hours of an A100 (docs/PRETRAINED.md). Ours is not on file yet.
UTILISATION = 0.15


@dataclass(frozen=True)
class Gpu:
    """A GPU by its maker's data sheet.

    Attributes:
        name: Its name.
        gigabytes: Its memory.
        teraflops: Peak of dense matrix products of bfloat16, summed in float32.
        teraflops_float32: The same of float32, without TF32.
    """

    name: str
    gigabytes: int
    teraflops: float
    teraflops_float32: float

    def peak(self, precision: str) -> float:
        """Return the teraflops of its matrix products in the precision of a run."""
        return self.teraflops_float32 if precision == "32-true" else self.teraflops

    def hours(self, operations: float, precision: str) -> float:
        """Return the hours that a run's floating-point operations take at the usual utilisation."""
        return operations / (UTILISATION * self.peak(precision) * 1e12) / 3600


GPUS = (
    Gpu("A100", 80, 312, 19.5),
    Gpu("H100", 80, 989, 67),
    Gpu("RTX 4090", 24, 165, 82.6),
)
