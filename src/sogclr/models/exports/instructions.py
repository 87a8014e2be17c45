"""Write how to use exported files: code that needs no sogclr, with the numbers of the run."""

from collections.abc import Mapping
from pathlib import Path

from ... import __version__
from ...common.options import ExportFormat
from .preprocessing import Preprocessing

__all__ = ["write_instructions"]

IDS = "np.array([each.ids for each in tokenizer.encode_batch(texts)], dtype=np.int64)"


def write_instructions(
    folder: Path,
    name: ExportFormat,
    sizes: Mapping[str, tuple[int, int]],
    made: Preprocessing,
    *,
    has_tokenizer: bool,
) -> None:
    """Write README.md beside exported files.

    Args:
        folder: the folder of the files.
        name: "onnx" or "torchscript".
        sizes: of each side, the pixels or tokens of an input, and the width of its vectors.
        made: what images pass through.
        has_tokenizer: whether tokenizer.json was written.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    is_onnx, has_images = name == "onnx", "image" in sizes
    packages = ["onnxruntime" if is_onnx else "torch", "numpy"]
    packages += ["pillow"] * has_images + ["tokenizers"] * has_tokenizer
    # Markdown is no HTML, and all values are the run's numbers: nothing is escaped.
    loader = PackageLoader("sogclr.models.exports")
    environment = Environment(loader=loader, undefined=StrictUndefined, keep_trailing_newline=True)
    text = environment.get_template("instructions.md.jinja").render(
        version=__version__,
        is_onnx=is_onnx,
        packages=packages,
        image=sizes.get("image"),
        text=sizes.get("text"),
        of_pairs="text" in sizes,
        size=made.image_size,
        made=made,
        tokenizer=has_tokenizer,
        ids=IDS,
    )
    (folder / "README.md").write_text(text, encoding="utf-8")
