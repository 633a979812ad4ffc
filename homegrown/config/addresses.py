"""Paths and addresses in a recipe: without credentials, and only of file systems that just return bytes.

Manifests, records of runs and Prefect's database keep a recipe as plain text, and it may come from a stranger.
"""

import re
from urllib.parse import urlsplit

SCHEMES = frozenset(
    "abfs abfss adl az file ftp gcs gs hdfs hf http https local memory oci oss s3 s3a sftp ssh webhdfs".split()  # noqa: SIM905
)
"""fsspec's file systems that only return bytes; others run code (dask://), expand templates (reference://) or write
caches (simplecache::)."""

LONGEST = 4096
"""Maximum characters of a path: PATH_MAX of Linux."""

# A user with a password, any user of a web server or of S3, or a signature or token among the parameters. No flags, for
# JSON Schema; linear in the length of the address.
CREDENTIAL = (
    r"://[^/?#\s@:]*:[^/?#\s@]*@"
    r"|(?:[hH][tT][tT][pP][sS]?|[sS]3[aA]?)://[^/?#\s@]*@"
    r"|[?&](?:[xX]-(?:[aA][mM][zZ]|[gG][oO][oO][gG])-(?:[sS]ignature|[cC]redential|[sS]ecurity-[tT]oken)"
    r"|AWSAccessKeyId|(?:[aA]ccess_?|[aA]uth_?|[iI]d_?)?[tT]oken|[aA]pi_?-?[kK]ey|[kK]ey|[sS]ig|[sS]ignature"
    r"|[pP]ass(?:word|wd)?|[pP]wd|[sS]ecret|[aA]uth|[cC]redentials?)="
)
_CREDENTIAL = re.compile(CREDENTIAL)
_USER = re.compile(r"(?<=://)\S*@")
_PARAMETERS = re.compile(r"\?\S*")


def has_credential(address: str) -> bool:
    """Return whether an address contains a password, key or token."""
    return _CREDENTIAL.search(address) is not None


def checked(address: str) -> str:
    """Return a path or fsspec address unchanged.

    Raises:
        ValueError: it is empty, contains a credential, or has a scheme that does more than return bytes; the message
            repeats nothing that may be secret.
    """
    if not address.strip():
        raise ValueError("is empty; name a file, a folder or an address, or . for this folder")
    if has_credential(address):
        raise ValueError(
            "contains a password, key or token, which every manifest would keep; set it in the environment instead "
            "(docs/security.md)"
        )
    if any(character < " " or character == "\x7f" for character in address):
        raise ValueError("contains a control character")
    if "://" not in address:
        return address
    scheme = address.partition("://")[0]
    if scheme.lower() not in SCHEMES or "::" in _without_ipv6(address):
        raise ValueError(f"has an unsupported scheme; use a path or one of {', '.join(sorted(SCHEMES))}")
    try:
        urlsplit(address).port  # noqa: B018
    except ValueError:
        raise ValueError("has an invalid port after the host") from None
    return address


def local(path: str) -> str:
    """Return a local path unchanged; raise ValueError for an address."""
    if "://" in checked(path):
        raise ValueError("is an address; name a file on this machine")
    return path


def shown(text: str) -> str:
    """Return a text for a message, with possible credentials in addresses removed."""
    text = _USER.sub("…@", text)
    return _PARAMETERS.sub("?…", text) if has_credential(text) else text


def _without_ipv6(address: str) -> str:
    return re.sub(r"(?<=//)\[[0-9a-fA-F:.]*\]", "", address, count=1)
