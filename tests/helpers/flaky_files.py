"""A file system for fsspec, `flaky://`, whose reads fail as they are told to."""

import io
from contextlib import contextmanager
from typing import ClassVar

from fsspec import AbstractFileSystem, register_implementation


class FlakyFiles(AbstractFileSystem):
    protocol = "flaky"
    cachable = False
    files: ClassVar[dict] = {}  # content by path, without the scheme
    errors: ClassVar[list] = []  # what the next reads raise; None: nothing

    def _open(self, path, *args, **kwargs):
        return _FlakyFile(self.files[path])


class _FlakyFile(io.BytesIO):
    def read(self, size):
        error = FlakyFiles.errors.pop(0) if FlakyFiles.errors else None
        if error is not None:
            raise error
        return super().read(size)


@contextmanager
def flaky_files(folder, bucket="bucket"):
    """The files of a folder by URL; the URL of the folder, and the list of errors to come."""
    register_implementation("flaky", FlakyFiles, clobber=True)
    for file in folder.iterdir():
        FlakyFiles.files[f"{bucket}/{file.name}"] = file.read_bytes()
    try:
        yield f"flaky://{bucket}", FlakyFiles.errors
    finally:
        FlakyFiles.files.clear()
        FlakyFiles.errors.clear()
