"""The base of modules that keep state per sample."""

from torch import nn

__all__ = ["PerSample"]


class PerSample(nn.Module):
    """A module whose own floating buffers keep their dtype when it is cast.

    `.half()`, `.bfloat16()` and `.to(dtype)` are meant for weights. In half precision, rounding
    would swallow the small steps of a moving average.
    """

    # The signature of the overridden hook is torch's, which leaves it untyped.
    def _apply(self, fn, recurse=True):  # type: ignore[no-untyped-def]
        before = {
            name: buffer
            for name, buffer in self._buffers.items()
            if buffer is not None and buffer.is_floating_point()
        }
        super()._apply(fn, recurse)
        for name, buffer in before.items():
            moved = getattr(self, name)
            if moved.dtype != buffer.dtype:
                setattr(self, name, buffer.to(moved.device))
        return self
