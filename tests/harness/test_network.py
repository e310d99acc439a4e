from __future__ import annotations

from pathlib import Path

import pytest

from harness.network import outside


@pytest.fixture
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def test_the_libraries_own_places(home: Path, tmp_path: Path) -> None:
    found = outside({}, tmp_path)
    cache = home / ".cache"
    assert found.environment == {
        "HF_HUB_CACHE": f"{cache}/huggingface/hub",
        "HF_DATASETS_CACHE": f"{cache}/huggingface/datasets",
        "KAGGLEHUB_CACHE": f"{cache}/kagglehub",
        "HF_HOME": f"{tmp_path}/hf",
    }
    assert set(found.writes) == {cache / "huggingface/hub", cache / "huggingface/datasets", cache / "kagglehub"}
    assert all(path.is_dir() for path in found.writes)
    assert found.reads == ()


@pytest.mark.parametrize(
    ("given", "hub", "data"),
    [
        ({"HF_HOME": "PLACE"}, "PLACE/hub", "PLACE/datasets"),
        ({"XDG_CACHE_HOME": "PLACE"}, "PLACE/huggingface/hub", "PLACE/huggingface/datasets"),
        ({"HF_HOME": "PLACE", "HF_HUB_CACHE": "PLACE/a", "HF_DATASETS_CACHE": "PLACE/b"}, "PLACE/a", "PLACE/b"),
        ({"HF_HOME": "PLACE", "HUGGINGFACE_HUB_CACHE": "PLACE/old"}, "PLACE/old", "PLACE/datasets"),
    ],
)
def test_places_of_the_users_own(home: Path, tmp_path: Path, given: dict[str, str], hub: str, data: str) -> None:
    def placed(text: str) -> str:
        return text.replace("PLACE", str(tmp_path / "place"))

    found = outside({name: placed(value) for name, value in given.items()}, tmp_path / "scratch")
    assert found.environment["HF_HUB_CACHE"] == placed(hub)
    assert found.environment["HF_DATASETS_CACHE"] == placed(data)
    assert found.environment["HF_HOME"] == str(tmp_path / "scratch" / "hf")


def test_the_hubs_library_agrees(home: Path, tmp_path: Path) -> None:
    import subprocess
    import sys

    for given in ({}, {"HF_HOME": str(tmp_path / "h")}, {"XDG_CACHE_HOME": str(tmp_path / "x")}):
        code = "from huggingface_hub import constants; print(constants.HF_HUB_CACHE)"
        told = subprocess.run(
            [sys.executable, "-c", code], env={"HOME": str(home), **given}, capture_output=True, text=True, check=True
        )
        assert told.stdout.strip() == outside(given, tmp_path).environment["HF_HUB_CACHE"]


def test_what_is_passed_on_and_what_is_not(home: Path, tmp_path: Path) -> None:
    bundle = tmp_path / "ca.pem"
    bundle.write_text("")
    given = {
        "HTTPS_PROXY": "http://proxy:1", "no_proxy": "localhost", "HF_ENDPOINT": "http://mirror", "HF_HUB_OFFLINE": "1",
        "SSL_CERT_FILE": str(bundle), "REQUESTS_CA_BUNDLE": str(tmp_path / "absent.pem"), "HTTP_PROXY": "",
    }  # fmt: skip
    found = outside(given | {"HF_TOKEN": "secret", "KAGGLE_KEY": "secret", "AWS_PROFILE": "x", "PATH": "/"}, tmp_path)
    added = {"HF_HUB_CACHE", "HF_DATASETS_CACHE", "KAGGLEHUB_CACHE", "HF_HOME"}
    assert {name: value for name, value in found.environment.items() if name not in added} == {
        name: value for name, value in given.items() if value
    }
    assert found.reads == (bundle,)


def test_a_cache_that_cannot_be_made_is_left_to_who_needs_it(home: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    found = outside({"HF_HUB_CACHE": str(tmp_path / "file" / "hub")}, tmp_path)
    assert tmp_path / "file" / "hub" not in found.writes
