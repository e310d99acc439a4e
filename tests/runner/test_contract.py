"""The contract: strict types, whole files, names and identities."""

from __future__ import annotations

import json
import math
import string
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from runner import contract
from runner.contract import (
    PHASES,
    CellEvent,
    CellSpec,
    CodeVersion,
    ContractError,
    CurvePoint,
    DeviceInfo,
    Failure,
    Limits,
    LoraSpec,
    Metrics,
    ModelSpec,
    PackageSpec,
    PreparedDataset,
    Result,
    SplitInfo,
    Summary,
    TrainingSpec,
    cell_name,
    encode,
    identity_of,
    json_schemas,
    read,
    slug,
    write_atomic,
)

STRUCTS = [
    kind for kind in vars(contract).values() if isinstance(kind, type) and issubclass(kind, contract.Base)
]  # fmt: skip
EVENTS = CellEvent.__args__  # type: ignore[attr-defined]


def example(kind: Any) -> Any:
    """Any value of a contract type, with every optional part filled."""
    return _example(msgspec.inspect.type_info(kind))


def _example(info: Any) -> Any:
    i = msgspec.inspect
    match info:
        case i.StructType():
            return info.cls(**{f.name: _example(f.type) for f in info.fields if f.name != "schema_version"})
        case i.UnionType():
            return _example(next(t for t in info.types if not isinstance(t, i.NoneType)))
        case i.LiteralType():
            return info.values[0]
        case i.DictType():
            return {_example(info.key_type): _example(info.value_type)}
        case i.VarTupleType():
            return (_example(info.item_type),)
    return {i.IntType: 3, i.FloatType: 0.5, i.StrType: "text", i.BoolType: True, i.AnyType: "any"}[type(info)]


def accepts(schema: dict[str, Any], value: Any, definitions: dict[str, Any]) -> bool:
    """Whether a value has the structure of a JSON schema: types, properties, required and allowed names."""
    if "$ref" in schema:
        return accepts(definitions[schema["$ref"].rpartition("/")[2]], value, definitions)
    if "anyOf" in schema:
        return any(accepts(part, value, definitions) for part in schema["anyOf"])
    if value not in schema.get("enum", [value]) or not KINDS[schema.get("type")](value):
        return False
    if isinstance(value, list):
        return all(accepts(schema.get("items") or {}, item, definitions) for item in value)
    if isinstance(value, dict):
        return accepts_object(schema, value, definitions)
    return not isinstance(value, int | float) or value >= schema.get("minimum", -math.inf)


KINDS: dict[str | None, Callable[[Any], bool]] = {
    None: lambda value: True,
    "object": lambda value: isinstance(value, dict),
    "array": lambda value: isinstance(value, list),
    "string": lambda value: isinstance(value, str),
    "boolean": lambda value: isinstance(value, bool),
    "null": lambda value: value is None,
    "integer": lambda value: type(value) is int,
    "number": lambda value: type(value) in (int, float),
}


def accepts_object(schema: dict[str, Any], value: dict[str, Any], definitions: dict[str, Any]) -> bool:
    known, other = schema.get("properties", {}), schema.get("additionalProperties", True)
    if set(schema.get("required", ())) - value.keys() or (other is False and value.keys() - known.keys()):
        return False
    rest = other if isinstance(other, dict) else {}
    return all(accepts(known.get(name, rest), item, definitions) for name, item in value.items())


def schema_accepts(name: str, value: Any) -> bool:
    schema = json_schemas([DeviceInfo])[name]
    return accepts(schema, json.loads(encode(value)), schema.get("$defs", {}))


@pytest.mark.parametrize("kind", STRUCTS, ids=lambda kind: kind.__name__)
def test_every_type_round_trips_and_is_frozen(kind: type[msgspec.Struct]) -> None:
    value = example(kind)
    assert msgspec.json.decode(encode(value), type=kind) == value
    for field in kind.__struct_fields__:
        with pytest.raises(AttributeError):
            setattr(value, field, None)


@pytest.mark.parametrize("kind", EVENTS, ids=lambda kind: kind.__name__)
def test_an_event_is_told_by_its_tag(kind: type[msgspec.Struct]) -> None:
    decoded = msgspec.json.decode(encode(example(kind)), type=CellEvent)
    assert type(decoded) is kind


@pytest.mark.parametrize(
    ("kind", "path", "shown"),
    [
        (CellSpec, (), "$"),
        (CellSpec, ("model",), "$.model"),
        (CellSpec, ("training",), "$.training"),
        (CellSpec, ("dataset", "splits", "test"), "$.dataset.splits[...]"),
        (Result, ("provenance", "code"), "$.provenance.code"),
        (Failure, (), "$"),
    ],
)
def test_unknown_fields_are_refused_with_their_path(tmp_path: Path, kind: Any, path: Any, shown: str) -> None:
    data = msgspec.to_builtins(example(kind))
    place = data
    for name in path:
        place = place[name]
    place["surprise"] = 1
    file = tmp_path / "file.json"
    file.write_bytes(encode(data))
    with pytest.raises(ContractError) as caught:
        read(file, kind)
    message = str(caught.value)
    assert message.startswith(f"{file}: ")
    assert "unknown field `surprise`" in message
    assert shown == "$" or message.endswith(f"`{shown}`")


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("training.batch_size", 0),
        ("training.accumulation", 0),
        ("training.epochs", 0),
        ("training.evals_per_epoch", 0),
        ("training.warmup_fraction", 1.5),
        ("evaluation.batch_size", -1),
        ("evaluation.max_requests", 0),
        ("lora.rank", 0),
    ],
)
def test_numbers_that_cannot_work_are_refused_with_their_path(tmp_path: Path, path: str, value: float) -> None:
    data = msgspec.to_builtins(example(CellSpec))
    part, name = path.split(".")
    data[part][name] = value
    file = tmp_path / "spec.json"
    file.write_bytes(encode(data))
    with pytest.raises(ContractError, match=rf"\$\.{path}"):
        read(file, CellSpec)


@pytest.mark.parametrize("kind", [CellSpec, Result, Failure, PreparedDataset])
def test_newer_files_are_refused_as_newer_and_older_ones_read(tmp_path: Path, kind: Any) -> None:
    data = msgspec.to_builtins(example(kind))
    file = tmp_path / "file.json"
    file.write_bytes(encode(data | {"schema_version": contract.SCHEMA_VERSION + 1, "field_of_the_future": 1}))
    with pytest.raises(ContractError, match=f"schema_version {contract.SCHEMA_VERSION + 1} is newer"):
        read(file, kind)
    file.write_bytes(encode(data | {"schema_version": 0}))
    assert read(file, kind).schema_version == 0


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b'{"alias": "\xff", "kind": "hub", "name": "n"}', b"[]"])
def test_a_file_that_is_no_contract_file(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "model.json"
    file.write_bytes(content)
    with pytest.raises(ContractError, match=r"model\.json: "):
        read(file, ModelSpec)


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_json_never_holds_nan(number: float) -> None:
    values = [
        Summary(model_name="m", accuracy=number),
        CurvePoint(step=1, values={"loss": number}),
        Metrics(phase="train", split="test", values={"f1": number}),
    ]
    for value in values:
        text = encode(value).decode()
        found = json.loads(text, parse_constant=lambda constant: pytest.fail(f"{constant} in JSON"))
        assert None in (found.get("accuracy", 0), *(found.get("values") or {}).values())


# --- write_atomic -----------------------------------------------------------------------------


def test_write_atomic_replaces_and_leaves_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    for content in (b"old and longer", b"new"):
        write_atomic(path, content)
        assert path.read_bytes() == content
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_failed_write_keeps_the_old_file_and_no_temporary(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, error: type[BaseException]
) -> None:
    path = tmp_path / "result.json"
    path.write_bytes(b"old")

    def fail(*_: object) -> None:
        assert path.read_bytes() == b"old"  # nothing appears under the final name before it is whole
        raise error

    monkeypatch.setattr(*((contract.os, "fsync") if step == "fsync" else (Path, "replace")), fail)
    with pytest.raises(error):
        write_atomic(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_what_need_not_be_durable_is_written_as_whole_and_syncs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[int] = []
    monkeypatch.setattr(contract.os, "fsync", synced.append)
    for durable, syncs in ((False, 0), (True, 1)):
        write_atomic(tmp_path / "file", str(durable).encode(), durable=durable)
        assert (tmp_path / "file").read_bytes() == str(durable).encode()
        assert len(synced) == syncs
    assert len(list(tmp_path.iterdir())) == 1


# --- names and identity -----------------------------------------------------------------------


@pytest.fixture
def spec() -> CellSpec:
    model = ModelSpec(
        alias="MiniLM-L6", kind="hub", name="org/minilm", revision="r1", folder="/a", weights_sha256={"w": "1"}
    )
    dataset = PreparedDataset(
        name="SST 2",
        folder="/data",
        fingerprint="f1",
        label_names=("no", "yes"),
        splits={"train": SplitInfo(rows=1, classes={"no": 1}, sha256="0")},
        text_column="text",
        label_column="label",
    )
    return CellSpec(model=model, method="lora", lora=LoraSpec(), dataset=dataset)


def changed(spec: CellSpec, path: str, value: Any) -> CellSpec:
    head, _, rest = path.partition(".")
    inner = changed(getattr(spec, head), rest, value) if rest else value
    return msgspec.structs.replace(spec, **{head: inner})


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("model.name", "org/other"),
        ("model.kind", "path"),
        ("model.revision", "r2"),
        ("model.weights_sha256", {"w": "2"}),
        ("model.weights_sha256", {"v": "1"}),
        ("model.package", PackageSpec(module="m")),
        ("model.scratch", contract.ScratchSpec()),
        ("model.trust_remote_code", True),
        ("method", "full"),
        ("lora", None),
        ("lora.target_modules", ("query",)),
        *((f"lora.{name}", 77) for name in ("rank", "alpha", "dropout")),
        ("dataset.fingerprint", "f2"),
        ("dataset.max_length", 64),
        *((f"training.{name}", 77) for name in TrainingSpec.__struct_fields__),
        *((f"evaluation.{name}", 77) for name in contract.EvaluationSpec.__struct_fields__),
        ("seed", 43),
        ("device", "cuda"),
        ("phases", PHASES[:-1]),
        ("runner_version", "9"),
    ],
)
def test_identity_follows_what_decides_the_outcome(spec: CellSpec, path: str, value: Any) -> None:
    assert identity_of(changed(spec, path, value)) != identity_of(spec)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("cell", "a name"),
        ("identity", "an identity"),
        ("model.folder", "/elsewhere"),
        ("dataset.folder", "/elsewhere"),
        ("dataset.notes", ("a note",)),
        ("device_reason", "because"),
        ("threads", 8),
        ("limits", Limits(cpus=2.0)),
        ("executor", "docker"),
        ("executor_reason", "because"),
        ("image_digest", "sha256:abc"),
        ("lease", True),
        ("code", CodeVersion(commit="abc", dirty=True)),
    ],
)
def test_identity_ignores_where_a_cell_runs(spec: CellSpec, path: str, value: Any) -> None:
    assert getattr(changed(spec, path, value), path.partition(".")[0]) != getattr(spec, path.partition(".")[0])
    assert identity_of(changed(spec, path, value)) == identity_of(spec)


def test_identity_ignores_the_order_of_digests(spec: CellSpec) -> None:
    one, other = ({"a": "1", "b": "2"}, {"b": "2", "a": "1"})
    assert identity_of(changed(spec, "model.weights_sha256", one)) == identity_of(
        changed(spec, "model.weights_sha256", other)
    )


def test_cell_name_is_readable_first_and_hash_last(spec: CellSpec) -> None:
    assert cell_name(spec, "3f9c01" + "0" * 58) == "minilm-l6--sst-2--lora--s42--3f9c01"
    assert cell_name(changed(spec, "device", "cuda"), "abcdef0") == "minilm-l6--sst-2--lora--s42--cuda--abcdef"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("MiniLM-L6", "minilm-l6"),
        ("org/model name", "org-model-name"),
        ("a--b", "a-b"),  # "--" parts the name of a cell
        ("../../etc/passwd", "etc-passwd"),
        (".hidden", "hidden"),
        ("C:\\temp\\", "c-temp"),
        ("line\nbreak\x00\x1b[31m", "line-break-31m"),
        ("a" * 47 + "-tail", "a" * 47),
        ("a" * 47 + ".tail", "a" * 47),
        ("..", "unnamed"),
        ("", "unnamed"),
        ("模型", "unnamed"),
    ],
)
def test_slug_of_hostile_names(text: str, expected: str) -> None:
    assert slug(text) == expected


@pytest.mark.parametrize("text", ["x" * 500, string.printable, "🙂" * 50, "-" * 60 + "a", ("b" * 20 + "/") * 9])
def test_slug_is_always_a_safe_file_name(text: str) -> None:
    name = slug(text)
    assert 1 <= len(name) <= 48
    assert set(name) <= set(string.ascii_lowercase + string.digits + "._-")
    assert name[0] not in ".-"
    assert name[-1] not in ".-"
    assert slug(name) == name


# --- schemas ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "kind", [CellSpec, Result, Failure, PreparedDataset, contract.DatasetRequest, ModelSpec, DeviceInfo]
)
def test_schemas_accept_real_values_and_nothing_else(kind: Any) -> None:
    value = msgspec.to_builtins(example(kind))
    name = kind.__name__
    assert schema_accepts(name, example(kind))
    assert schema_accepts(name, value)
    assert not schema_accepts(name, value | {"surprise": 1})
    required = next(field.name for field in msgspec.structs.fields(kind) if field.required)
    assert not schema_accepts(name, {key: item for key, item in value.items() if key != required})
    assert not schema_accepts(name, value | {required: [1, 2]})


@pytest.mark.parametrize("kind", EVENTS, ids=lambda kind: kind.__name__)
def test_the_event_schema_accepts_every_event(kind: type) -> None:
    assert schema_accepts("Event", example(kind))
    assert not schema_accepts("Event", msgspec.to_builtins(example(kind)) | {"event": "party"})
