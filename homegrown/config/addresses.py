"""Paths and addresses in a recipe: none may hold a credential, and none may lead to what does more than give bytes.

A recipe is kept, in clear, in manifests, in the record of a run and in Prefect's database, and may be a stranger's.
"""

import re
from urllib.parse import urlsplit

SCHEMES = frozenset(
    "abfs abfss adl az file ftp gcs gs hdfs hf http https local memory oci oss s3 s3a sftp ssh webhdfs".split()  # noqa: SIM905
)
"""Of fsspec's file systems those that only give bytes; others run code (dask://), fill in templates (reference://) or
write to caches (simplecache::)."""

LONGEST = 4096
"""Characters of a path; the limit of Linux (PATH_MAX)."""

# A user with a password, any user of a web server or of S3, or a signature or token among the parameters. No flags, so
# that JSON Schema can take the pattern as it is; linear in the length of a text.
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
    """Say whether an address holds a password, key or token."""
    return _CREDENTIAL.search(address) is not None


def checked(address: str) -> str:
    """Return a path, or an address that fsspec knows, as it is.

    Raises:
        ValueError: it is empty, holds a credential, or is of a kind that does more than give bytes; the message repeats
            no part of it that may be secret.
    """
    if not address.strip():
        raise ValueError("is empty; name a file, a folder or an address, or . for this folder")
    if has_credential(address):
        raise ValueError(
            "holds a password, key or token, which would be kept in every manifest; leave it out, and give it in the "
            "environment (docs/security.md says how)"
        )
    if any(character < " " or character == "\x7f" for character in address):
        raise ValueError("holds a control character")
    if "://" not in address:
        return address
    scheme = address.partition("://")[0]
    if scheme.lower() not in SCHEMES or "::" in _without_ipv6(address):
        raise ValueError(f"is no path and no address of a kind that is read ({', '.join(sorted(SCHEMES))})")
    try:
        urlsplit(address).port  # noqa: B018
    except ValueError:
        raise ValueError("is no address: what follows the host's colon is no port") from None
    return address


def local(path: str) -> str:
    """Return a path of this machine as it is; raise ValueError for an address."""
    if "://" in checked(path):
        raise ValueError("is an address; name a file of this machine")
    return path


def shown(text: str) -> str:
    """Return a text for a message: without what may be a credential in an address."""
    text = _USER.sub("…@", text)
    return _PARAMETERS.sub("?…", text) if has_credential(text) else text


def _without_ipv6(address: str) -> str:
    return re.sub(r"(?<=//)\[[0-9a-fA-F:.]*\]", "", address, count=1)
