"""Tar headers that no honest program writes."""

import tarfile


def header(name, size=0, kind=tarfile.REGTYPE, size_field=None, **fields):
    """One block: a header with any size, and any bytes at given offsets."""
    info = tarfile.TarInfo(name)
    info.type = kind
    block = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    if size_field is None:
        size_field = number(size)
    block[124:136] = size_field
    for offset, content in fields.get("at", {}).items():
        block[offset : offset + len(content)] = content
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def number(value):
    """A number in base 256, which holds negative ones and those above 8 GiB."""
    return (b"\xff" if value < 0 else b"\x80") + value.to_bytes(11, "big", signed=True)


def pax(records, kind=tarfile.XHDTYPE, size=None):
    """An extended header with these records."""
    content = b""
    for key, value in records.items():
        text = f" {key}={value}\n".encode(errors="surrogateescape")
        length = len(text)
        while length != len(text) + len(str(length)):
            length = len(text) + len(str(length))
        content += str(length).encode() + text
    blocks = content + b"\0" * (-len(content) % 512)
    return header("pax", len(content) if size is None else size, kind) + blocks


def member(name, content, **settings):
    """A header and the content, padded."""
    return header(name, len(content), **settings) + content + b"\0" * (-len(content) % 512)


END = bytes(1024)

# A second member after a good one: what is wrong, and the bytes. The archive may end anywhere.
DAMAGING = {
    "negative": header("b.png", -512),
    "negative, of no image": header("b.xyz", -512),
    "negative, of an unknown type": header("b", -1024, b"Z"),
    "negative by an extended header": pax({"size": "-4096"}) + header("b.png"),
    "negative long name": header("././@LongLink", -512, tarfile.GNUTYPE_LONGNAME),
    "negative extended header": pax({}, size=-512),
    "8 GiB": header("b.png", size_field=b"77777777777\0"),
    "2^70": header("b.png", 1 << 70),
    "2^70, of no image": header("b.xyz", 1 << 70),
    "2^70, of an unknown type": header("b", 1 << 70, b"Z"),
    "huge by an extended header": pax({"size": "9" * 30}) + header("b.png"),
    "huge long name": header("././@LongLink", 1 << 40, tarfile.GNUTYPE_LONGNAME),
    "huge extended header": pax({}, size=1 << 40),
    "huge global header": header("g", 1 << 40, tarfile.XGLTYPE),
    "a chain of extended headers": 3000 * pax({"a": "b"}),
    "a chain of long names": 3000
    * member("././@LongLink", b"x\0", kind=tarfile.GNUTYPE_LONGNAME),
    "a sparse map without end": header(
        "b.png", 0, tarfile.GNUTYPE_SPARSE, at={482: b"\1", 483: number(512)}
    )
    + 4000 * (504 * b"\0" + b"\1" + 7 * b"\0"),
    "a sparse map that is no number": pax({"GNU.sparse.major": "1", "GNU.sparse.minor": "0"})
    + member("b.png", b"x" * 512),
    "a sparse map of 10^18": pax({"GNU.sparse.major": "1", "GNU.sparse.minor": "0"})
    + member("b.png", b"999999999999999999\n" + b"1\n" * 800_000),
    "a sparse size that is no number": pax({"GNU.sparse.realsize": "abc"}) + header("b.png"),
}  # fmt: skip

# Members that cannot be read, behind which the archive goes on.
SPARSE = {
    "old, huge": header(
        "b.png", 512, tarfile.GNUTYPE_SPARSE,
        at={386: number(0), 398: number(512), 483: number(1 << 60)},
    ) + bytes(512),
    "old, negative": header(
        "b.png", 512, tarfile.GNUTYPE_SPARSE, at={386: number(0), 398: number(512), 483: number(-1)}
    ) + bytes(512),
    "0.0": pax({"GNU.sparse.size": "100000", "GNU.sparse.numblocks": "0"})
    + member("b.png", b"x"),
    "0.1": pax({"GNU.sparse.size": "10", "GNU.sparse.map": "0,1"}) + member("b.png", b"x"),
    "1.0": pax(
        {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": "9" * 15}
    ) + member("b.png", b"1\n0\n512\n" + bytes(504) + bytes(512)),
    "its size alone": pax({"GNU.sparse.realsize": "5"}) + member("b.png", bytes(700)),
}  # fmt: skip
