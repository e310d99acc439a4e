"""Credentials of the Hugging Face hub and of Kaggle: found in the environment, in `.env`, or where a login left them,
and handed to fetching and preparing alone.

They are handed over as files that only this user can read, named by variables: an environment shows up in `ps`, in
`docker inspect` and in the reports of a crash, a path in it says nothing. Whatever such a job answers is searched for
them before anyone sees it.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from harness.errors import InputError
from harness.store import writing

DOTENV = ".env"
HUB_NAMES = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")
KAGGLE_TOKEN, KAGGLE_USER, KAGGLE_KEY = "KAGGLE_API_TOKEN", "KAGGLE_USERNAME", "KAGGLE_KEY"
# What a token may consist of (RFC 6750); anything else would end up in the error text of an HTTP library.
TOKEN = re.compile(r"[A-Za-z0-9._~+/=-]+")
MASK = "[secret]"


@dataclass(frozen=True)
class Credentials:
    """What is set for this program; None where it is not, and a login may have left a file."""

    hub_token: str | None = field(default=None, repr=False)
    kaggle_token: str | None = field(default=None, repr=False)
    kaggle_user: str | None = field(default=None, repr=False)
    kaggle_key: str | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Access:
    """Credentials as a job gets them: variables that name files, and those files."""

    environment: dict[str, str]
    reads: tuple[Path, ...]
    secrets: tuple[str, ...] = field(repr=False)

    def masked(self, text: str) -> str:
        for secret in self.secrets:
            text = text.replace(secret, MASK)
        return text


def find_credentials(environment: Mapping[str, str], folder: Path) -> Credentials:
    """From the environment, else from `.env` in `folder`. Raises InputError, which never quotes a value."""
    file = folder / DOTENV
    given = {**(read_dotenv(file) if file.is_file() else {}), **{k: v for k, v in environment.items() if v.strip()}}

    def value(*names: str) -> str | None:
        for name in names:
            text = given.get(name, "").strip()
            if text:
                return _checked(name, text, "the environment" if environment.get(name, "").strip() else DOTENV)
        return None

    with suppress(OSError, ValueError):  # kagglehub allows a file here
        given[KAGGLE_TOKEN] = Path(given.get(KAGGLE_TOKEN, "")).read_text(errors="replace")
    return Credentials(
        hub_token=value(*HUB_NAMES),
        kaggle_token=value(KAGGLE_TOKEN),
        kaggle_user=value(KAGGLE_USER),
        kaggle_key=value(KAGGLE_KEY),
    )


def _checked(name: str, text: str, where: str) -> str:
    if not TOKEN.fullmatch(text):
        raise InputError(
            f"{name} in {where} holds a character that none can have, such as a blank or a line break",
            f"copy {name} again, without anything around it",
        )
    return text


def give_access(credentials: Credentials, folder: Path, environment: Mapping[str, str]) -> Access:
    """Write what is set into `folder`, which the caller removes; else name what a login left. Raises SetupError."""
    named: dict[str, Path] = {}  # variable -> file, or the folder that holds it
    hub = _hub_login(environment)
    if credentials.hub_token:
        named["HF_TOKEN_PATH"] = _write_secret(folder / "hub" / "token", credentials.hub_token)
    elif hub is not None:
        named["HF_TOKEN_PATH"] = hub
    token = _usable_token(Path.home() / ".kaggle" / "access_token")
    if credentials.kaggle_token:
        named[KAGGLE_TOKEN] = _write_secret(folder / "kaggle" / "access_token", credentials.kaggle_token)
    elif token is not None:
        named[KAGGLE_TOKEN] = token
    login = _kaggle_login(environment)
    if credentials.kaggle_user and credentials.kaggle_key:
        content = json.dumps({"username": credentials.kaggle_user, "key": credentials.kaggle_key})
        named["KAGGLE_CONFIG_DIR"] = _write_secret(folder / "kaggle" / "kaggle.json", content).parent
    elif login is not None:
        named["KAGGLE_CONFIG_DIR"] = login.parent
    reads = [path if path.is_file() else path / "kaggle.json" for path in named.values()]
    secrets = [secret for path in reads for secret in _secrets_in(path)]
    return Access({name: str(path) for name, path in named.items()}, tuple(reads), tuple(secrets))


def _write_secret(path: Path, content: str) -> Path:
    with writing(path):
        path.parent.mkdir(mode=0o700, exist_ok=True)
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(content)
    return path


def hub_token_source(environment: Mapping[str, str], folder: Path) -> str | None:
    """Where the hub's token comes from, in words; None without one. Raises InputError."""
    if find_credentials(environment, folder).hub_token:
        return "the environment" if any(environment.get(name, "").strip() for name in HUB_NAMES) else DOTENV
    login = _hub_login(environment)
    return str(login) if login else None


# --- what a login left ------------------------------------------------------------------------


def _hub_login(environment: Mapping[str, str]) -> Path | None:
    """Where `hf auth login` keeps the token."""
    base = Path(environment.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    home = environment.get("HF_HOME") or base / "huggingface"
    return _usable_token(Path(environment.get("HF_TOKEN_PATH") or Path(home) / "token"))


def _kaggle_login(environment: Mapping[str, str]) -> Path | None:
    file = Path(environment.get("KAGGLE_CONFIG_DIR") or Path.home() / ".kaggle").expanduser().absolute() / "kaggle.json"
    return file if os.access(file, os.R_OK) else None


def _usable_token(path: Path) -> Path | None:
    """A damaged file counts as none: the token is asked for where one is needed."""
    path = path.expanduser().absolute()
    try:
        return path if TOKEN.fullmatch(path.read_text().strip()) else None
    except (OSError, UnicodeDecodeError):
        return None


def _secrets_in(path: Path) -> Iterator[str]:
    text = path.read_text(errors="replace").strip()
    if path.suffix != ".json":
        yield text
        return
    try:
        key = json.loads(text)["key"]
    except (ValueError, KeyError, TypeError):
        key = text
    if isinstance(key, str) and key:
        yield key


# --- .env -------------------------------------------------------------------------------------

_NOTHING = re.compile(r"[ \t]*(?:#[^\n]*)?(?:\n|\Z)")
_SETTING = re.compile(
    r"""[ \t]*(?:export[ \t]+)?(?P<name>[A-Za-z_]\w*)[ \t]*=[ \t]*
    (?: '(?P<single>[^']*)' [ \t]*(?:\#[^\n]*)?
      | "(?P<double>(?:[^"\\]|\\.)*)" [ \t]*(?:\#[^\n]*)?
      | (?P<plain>[^\s'"#](?:[^\n]*?\S)??) (?:[ \t]+\#[^\n]*)?
      | (?:\#[^\n]*)?
    )[ \t]*(?:\n|\Z)""",
    re.VERBOSE | re.DOTALL | re.ASCII,
)
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r"}


def read_dotenv(path: Path) -> dict[str, str]:
    """`NAME=value` lines, with or without quotes, `export` and comments; a quoted value may go over several lines, and
    nothing is put in the place of $NAME. Raises InputError: it names a bad line, and never what it holds."""
    try:
        text = path.read_text(encoding="utf-8-sig").replace("\r\n", "\n")
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}", "correct its permissions, or remove it") from None
    except UnicodeDecodeError:
        raise InputError(f"{path} is not UTF-8", "save it as UTF-8") from None
    found: dict[str, str] = {}
    at = 0
    while at < len(text):
        nothing, setting = _NOTHING.match(text, at), _SETTING.match(text, at)
        match = nothing or setting
        if match is None:
            line = text.count("\n", 0, at) + 1
            raise InputError(f"{path}, line {line}: not of the form NAME=value", "correct that line, or remove it")
        if setting is not None and nothing is None:
            found[setting["name"]] = _value(setting)
        at = match.end()
    return found


def _value(setting: re.Match[str]) -> str:
    if setting["double"] is not None:
        return re.sub(r"\\(.)", lambda m: _ESCAPES.get(m[1], m[1]), setting["double"], flags=re.DOTALL)
    return setting["single"] or setting["plain"] or ""
