"""What a build says: its lines passed on, and its failure as one sentence with a remedy."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from harness.build_context import recipe_folder
from harness.errors import SetupError
from harness.text import plain

_CHATTER = re.compile(r"^\s*(Step \d|-+>|Removing intermediate|Successfully |\s*$)")
NO_SPACE = re.compile(r"no space left on device", re.IGNORECASE)
_CERTIFICATE = re.compile(r"CERTIFICATE_VERIFY_FAILED|SSLError|x509: [^'\")]*", re.IGNORECASE)
_UNREACHABLE = re.compile(
    r"Failed to establish a new connection(: [^'\")]*)?|Temporary failure in name resolution|Connection refused"
    r"|(Connect|Read) ?timed? ?out|Max retries exceeded",
    re.IGNORECASE,
)
_UNTRUSTED = re.compile(r"repository located at (\S+) is not a trusted or secure host")
_NOT_FOUND = re.compile(r"No matching distribution|Could not find a version|HTTP error|no torch wheel", re.IGNORECASE)


def follow(output: Iterable[Mapping[str, Any]], tell: Callable[[str], None]) -> None:
    """Pass every line on. Raises SetupError with the last line that says something."""
    step, told, rest = "", [""], ""
    for message in output:
        if "error" in message:
            raise build_error(step, told, plain(str(message["error"])))
        status = message.get("status") if not message.get("progressDetail") else None
        rest += message.get("stream") or (f"{status}\n" if status else "")
        *lines, rest = re.split(r"[\r\n]+", rest)
        for line in (plain(line[:2000]) for line in lines):
            if not line:
                continue
            step = line if line.startswith("Step ") else step
            told = [*told[-50:], line]
            tell(line)


def build_error(step: str, told: list[str], error: str) -> SetupError:
    """The sentence and remedy for a build that failed in `step` after the lines `told`."""
    if NO_SPACE.search("\n".join([error, *told])):
        return disk_full()
    if " : FROM " in step:
        return SetupError(
            f"the base image cannot be had: {error}",
            "name one that this machine has or can pull: --base-image IMAGE; without a registry, build one from Debian "
            f"packages with {recipe_folder() / 'images/base/build.sh'}",
        )
    if "non-zero code" not in error:
        return SetupError(f"the build failed: {error}", "see the log of the Docker engine")
    return _command_failed(told, error)


def _command_failed(told: list[str], error: str) -> SetupError:
    telling = [line for line in told if line and not _CHATTER.match(line)]
    ours = [line for line in telling if line.startswith("error: ")][-1:]  # of images/install.py
    pips = [line for line in telling if line.startswith("ERROR: ")][:1]  # its first says what, the others where to read
    cause = (ours or pips or telling[-1:] or [error])[0].removeprefix("error: ").removeprefix("ERROR: ")
    text = "\n".join(telling)
    if found := _CERTIFICATE.search(text):
        return SetupError(
            f"the package index presents a certificate that is not trusted ({found[0]})",
            "give the certificates of your network with --ca-bundle FILE",
        )
    if found := _UNTRUSTED.search(text):
        return SetupError(
            f"pip does not use the package index {found[1]}, because its address is not https",
            "name one that is: --index-url, --torch-index-url; or give the wheels with --wheelhouse",
        )
    if not ours and (found := _UNREACHABLE.search(text)):
        return SetupError(
            f"the build cannot reach the package index: {found[0]}",
            "check that containers have network, or name another: --index-url, --torch-index-url, --wheelhouse",
        )
    if _NOT_FOUND.search(text):
        return SetupError(
            f"the packages of the image cannot be installed: {cause}",
            "name an index or a folder that has them: --index-url, --torch-index-url, --wheelhouse",
        )
    return SetupError(f"the build failed: {cause}", f"the output above says more ({error})")


def disk_full() -> SetupError:
    return SetupError(
        "the disk of the Docker engine is full",
        "free some space: `moodbench images prune` removes old images, `docker system df` shows the rest",
    )
