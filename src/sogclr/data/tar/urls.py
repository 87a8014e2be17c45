"""Tell URLs from paths, list the URLs of a pattern, and repeat them in messages without secrets."""

import re
from urllib.parse import SplitResult, unquote, urlsplit

from ...common.errors import UserError, one_line
from .patterns import expand_braces

__all__ = [
    "expand_urls",
    "is_url",
    "redact",
    "require_random_access",
    "shard_identities",
    "without_secrets",
]

_URL = re.compile(r"([a-z][a-z0-9+.-]*)://", re.IGNORECASE)
_URL_IN_TEXT = re.compile(r"[a-z][a-z0-9+.-]*://[^\s'\"<>]+", re.IGNORECASE)
_PASSWORD_AS_PORT = re.compile(r":(?!\d*$)")
_SHORTEST_SECRET = 4  # replacing shorter strings would garble a message


def is_url(data: object) -> bool:
    """Tell whether `data` is a URL, or a pattern of URLs."""
    return isinstance(data, str) and _URL.match(data) is not None


def require_random_access(data: object) -> None:
    """Refuse a stream, for callers that read samples in random order.

    Raises:
        UserError: `data` is a URL.
    """
    if isinstance(data, str) and is_url(data):
        raise UserError(
            f"data: {without_secrets(data)} is a stream, which only sogclr pretrain and align "
            "train on; here samples are read in random order: give a folder or shards on this "
            "machine"
        )


def expand_urls(pattern: str) -> list[str]:
    """List every URL that a pattern with braces stands for.

    Args:
        pattern: see `sogclr.data.tar.patterns.expand_braces`.

    Raises:
        UserError: the pattern stands for no URL, or for one that is not valid; the scheme is
            unknown to fsspec, or needs a package.
    """
    from fsspec import get_filesystem_class

    scheme = pattern.partition("://")[0].lower()
    try:
        get_filesystem_class(scheme)
    except ValueError:
        raise UserError(
            f"data: {scheme}:// is unknown; give shards by https://, http://, s3://, gs://, hf:// "
            "or file://, or on a mounted file system"
        ) from None
    except ImportError as error:
        raise UserError(
            f"data: {scheme}:// needs a package, pip install 'sogclr[remote]' ({one_line(error)})"
        ) from error
    urls = expand_braces(pattern)
    if not urls:
        raise UserError(f"data: the pattern {without_secrets(pattern)} stands for no URL")
    for url in urls:
        if not _is_valid(url):
            raise UserError(f"data: {without_secrets(url)} is no valid URL; check host and port")
    return urls


def shard_identities(urls: list[str]) -> list[str]:
    """Name each shard by its path, so that another host or token may serve the same shards.

    Hosts are included if there are no paths that tell the shards apart, then queries.

    Raises:
        UserError: two URLs name the same shard.
    """
    known = set[str]()
    addresses = [urlsplit(url) for url in urls]
    for level in range(3):
        names = [_identity(address, level) for address in addresses]
        if len(set(names)) == len(names) and all(name.strip("/") for name in names):
            return names
    for url, name in zip(urls, names, strict=True):
        if name in known:
            raise UserError(f"data: the pattern names {without_secrets(url)} twice")
        known.add(name)
    return names


def without_secrets(url: str) -> str:
    """Remove what may be secret from a URL for messages: name and password, query, fragment."""
    scheme, separator, rest = url.partition("://")
    authority = re.split(r"[/?#]", rest, maxsplit=1)[0]
    is_address = "@" in authority or authority.startswith("[")
    if not is_address and _PASSWORD_AS_PORT.search(authority):
        # A password that holds / or ? or #, which should have been escaped, up to an @.
        rest = rest.rpartition("@")[2] if "@" in rest else authority.partition(":")[0]
    rest = re.split(r"[?#]", rest, maxsplit=1)[0]
    host, slash, path = rest.partition("/")
    return f"{scheme}{separator}{host.rpartition('@')[2]}{slash}{path}"


def redact(text: str, url: str) -> str:
    """Remove the secrets of a URL, and those of all other URLs, from another library's message."""
    text = text.replace(url, without_secrets(url))
    text = _URL_IN_TEXT.sub(lambda match: without_secrets(match[0]), text)
    for secret in re.split(r"[/?#@&=:]", url.replace(without_secrets(url), "")):
        if len(secret) >= _SHORTEST_SECRET and secret not in without_secrets(url):
            text = text.replace(secret, "...").replace(unquote(secret), "...")
    return text


def _identity(address: SplitResult, level: int) -> str:
    host = address.netloc.rpartition("@")[2] if level else ""
    query = f"?{address.query}" if level == 2 else ""
    return f"{host}{address.path}{query}"


def _is_valid(url: str) -> bool:
    try:
        address = urlsplit(url)
        port = address.port
    except ValueError:
        return False
    if address.scheme in ("http", "https"):
        return bool(address.hostname) and port != 0
    return address.scheme != "file" or address.netloc in ("", "localhost")
