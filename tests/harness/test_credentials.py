from __future__ import annotations

import json
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from harness.credentials import Credentials, find_credentials, give_access, hub_token_source, read_dotenv
from harness.errors import InputError

SECRET = "hf_averySecretToken"
KEY = "0123456789abcdef"


@pytest.fixture
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    (tmp_path / "scratch").mkdir()
    return tmp_path / "scratch"


def put(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


# --- where they come from ---------------------------------------------------------------------


def test_the_environment_comes_before_the_file(tmp_path: Path) -> None:
    put(tmp_path / ".env", f"HF_TOKEN=hf_other\nKAGGLE_USERNAME=me\nKAGGLE_KEY={KEY}\n")
    found = find_credentials({"HF_TOKEN": f" {SECRET}\n", "KAGGLE_KEY": " "}, tmp_path)
    assert found == Credentials(hub_token=SECRET, kaggle_user="me", kaggle_key=KEY)


def test_the_hubs_older_name_and_the_newer_kaggle_token(tmp_path: Path) -> None:
    found = find_credentials({"HUGGING_FACE_HUB_TOKEN": SECRET, "KAGGLE_API_TOKEN": "KGAT_1"}, tmp_path)
    assert found == Credentials(hub_token=SECRET, kaggle_token="KGAT_1")
    assert find_credentials({"HUGGING_FACE_HUB_TOKEN": "x", "HF_TOKEN": SECRET}, tmp_path).hub_token == SECRET


def test_a_kaggle_token_may_be_a_file(tmp_path: Path) -> None:
    file = put(tmp_path / "token", "KGAT_2\n")
    assert find_credentials({"KAGGLE_API_TOKEN": str(file)}, tmp_path).kaggle_token == "KGAT_2"


def test_nothing_is_set(tmp_path: Path) -> None:
    (tmp_path / ".env").mkdir()  # what some call the folder of a virtual environment
    assert find_credentials({}, tmp_path) == Credentials()


def test_nothing_shows_a_value(tmp_path: Path, scratch: Path, home: Path) -> None:
    found = find_credentials({"HF_TOKEN": SECRET, "KAGGLE_USERNAME": "me", "KAGGLE_KEY": KEY}, tmp_path)
    access = give_access(found, scratch, {})
    assert SECRET not in repr((found, access))
    assert KEY not in repr((found, access))


@pytest.mark.parametrize("value", ["hf_a\nb", "hf_a b", "hf_\x00", "hf_ä", "hf_a\r\nX-Header: 1", '"hf_a"'])
@pytest.mark.parametrize("name", ["HF_TOKEN", "KAGGLE_API_TOKEN", "KAGGLE_KEY"])
def test_a_value_that_no_header_can_hold(tmp_path: Path, name: str, value: str) -> None:
    with pytest.raises(InputError) as caught:
        find_credentials({name: value}, tmp_path)
    assert name in caught.value.message
    assert "the environment" in caught.value.message
    assert "hf_" not in caught.value.message + caught.value.hint


def test_where_the_token_comes_from(tmp_path: Path, home: Path) -> None:
    assert hub_token_source({}, tmp_path) is None
    login = put(home / ".cache/huggingface/token", SECRET)
    assert hub_token_source({}, tmp_path) == str(login)
    put(tmp_path / ".env", f"HF_TOKEN={SECRET}")
    assert hub_token_source({}, tmp_path) == ".env"
    assert hub_token_source({"HF_TOKEN": SECRET}, tmp_path) == "the environment"


# --- how they are handed over -----------------------------------------------------------------


def test_values_become_files_that_only_the_user_reads(scratch: Path, home: Path) -> None:
    given = Credentials(hub_token=SECRET, kaggle_token="KGAT_1", kaggle_user="me", kaggle_key=KEY)
    access = give_access(given, scratch, {})
    assert set(access.environment) == {"HF_TOKEN_PATH", "KAGGLE_API_TOKEN", "KAGGLE_CONFIG_DIR"}
    assert Path(access.environment["HF_TOKEN_PATH"]).read_text() == SECRET
    assert Path(access.environment["KAGGLE_API_TOKEN"]).read_text() == "KGAT_1"
    login = json.loads((Path(access.environment["KAGGLE_CONFIG_DIR"]) / "kaggle.json").read_text())
    assert login == {"username": "me", "key": KEY}
    assert len(access.reads) == 3
    for path in access.reads:
        assert path.is_relative_to(scratch)
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert not any(SECRET in value or KEY in value for value in access.environment.values())


READ = """
import huggingface_hub, json
from kagglehub.config import get_kaggle_credentials
found = get_kaggle_credentials()
print(json.dumps([huggingface_hub.get_token(), found.username, found.key, found.api_key]))
"""


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (Credentials(hub_token=SECRET, kaggle_user="me", kaggle_key=KEY), [SECRET, "me", KEY, None]),
        (Credentials(hub_token=SECRET, kaggle_token="KGAT_1"), [SECRET, None, None, "KGAT_1"]),
    ],
    ids=["name and key", "token"],
)
def test_the_libraries_read_those_files(scratch: Path, home: Path, given: Credentials, told: list[str | None]) -> None:
    environment = {"HOME": str(home), **give_access(given, scratch, {}).environment}
    done = subprocess.run([sys.executable, "-c", READ], env=environment, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == told


def test_what_a_login_left_is_named(scratch: Path, home: Path) -> None:
    assert give_access(Credentials(), scratch, {}).environment == {}
    hub = put(home / ".cache/huggingface/token", f"{SECRET}\n")
    token = put(home / ".kaggle/access_token", "KGAT_3")
    kaggle = put(home / ".kaggle/kaggle.json", json.dumps({"username": "me", "key": KEY}))
    access = give_access(Credentials(), scratch, {})
    assert access.environment == {
        "HF_TOKEN_PATH": str(hub), "KAGGLE_API_TOKEN": str(token), "KAGGLE_CONFIG_DIR": str(kaggle.parent),
    }  # fmt: skip
    assert set(access.reads) == {hub, token, kaggle}
    assert access.masked(f"Bearer {SECRET}, KGAT_3, {KEY}, me") == "Bearer [secret], [secret], [secret], me"
    assert list(scratch.iterdir()) == []


@pytest.mark.parametrize(
    ("variable", "folder"), [("HF_TOKEN_PATH", "own/token"), ("HF_HOME", "own"), ("XDG_CACHE_HOME", "")]
)
def test_a_login_elsewhere(scratch: Path, home: Path, tmp_path: Path, variable: str, folder: str) -> None:
    name = {"HF_TOKEN_PATH": "own/token", "HF_HOME": "own/token", "XDG_CACHE_HOME": "huggingface/token"}[variable]
    token = put(tmp_path / "place" / name, SECRET)
    found = give_access(Credentials(), scratch, {variable: str(tmp_path / "place" / folder)})
    assert found.environment == {"HF_TOKEN_PATH": str(token)}


def test_what_is_set_comes_before_a_login(scratch: Path, home: Path) -> None:
    put(home / ".cache/huggingface/token", "hf_old")
    access = give_access(Credentials(hub_token=SECRET), scratch, {})
    assert Path(access.environment["HF_TOKEN_PATH"]).read_text() == SECRET


@pytest.mark.parametrize("content", [b"", b"hf_a\nhf_b", b"\xff\xfe\x00", b"hf_a\x00"])
def test_a_damaged_login_counts_as_none(scratch: Path, home: Path, content: bytes) -> None:
    put(home / ".cache/huggingface/token", "").write_bytes(content)
    assert give_access(Credentials(), scratch, {}).environment == {}


# --- .env -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ("A=b", "b"),
        ("  export A = b  ", "b"),
        ("A=b # why", "b"),
        ("A=b#c", "b#c"),
        ("A=a b", "a b"),
        ("A=", ""),
        ("A= # nothing", ""),
        ("A='b # c'", "b # c"),
        ("A='b\\n'", "b\\n"),
        ('A="b \\"c\\" \\n" # why', 'b "c" \n'),
        ('A="one\ntwo"', "one\ntwo"),
        ("A=b=c", "b=c"),
        ("A=$B", "$B"),
    ],
)
def test_one_setting(tmp_path: Path, line: str, value: str) -> None:
    path = put(tmp_path / ".env", f"\n# a comment\n{line}\nZ=last\n")
    assert read_dotenv(path) == {"A": value, "Z": "last"}


def test_other_line_ends_and_a_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / ".env"
    path.write_bytes(b"\xef\xbb\xbfA=b\r\nC='d'\r\n")
    assert read_dotenv(path) == {"A": "b", "C": "d"}


@pytest.mark.parametrize(
    "line", [f"HF_TOKEN {SECRET}", SECRET, f"HF_TOKEN='{SECRET}", f'A="b" {SECRET}', f"1A={SECRET}", f"A-B={SECRET}"]
)
def test_a_bad_line_is_named_and_never_shown(tmp_path: Path, line: str) -> None:
    path = put(tmp_path / ".env", f"A='x\ny'\n\n{line}\nB=c\n")
    with pytest.raises(InputError) as caught:
        find_credentials({}, tmp_path)
    assert f"{path}, line 4:" in caught.value.message
    assert SECRET not in caught.value.message + caught.value.hint
    assert caught.value.__cause__ is None


def test_a_file_that_is_no_text(tmp_path: Path) -> None:
    (tmp_path / ".env").write_bytes(b"A=\xff\n")
    with pytest.raises(InputError, match="not UTF-8"):
        find_credentials({}, tmp_path)
