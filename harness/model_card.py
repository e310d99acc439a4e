"""The card of an exported model: README.md with the metadata that the Hugging Face hub reads.

What is not known is left out: licence and language are those of a base model and data that MoodBench has not been told
about, and a dataset's name here need not be one of the hub's. Names come from models and data: they are escaped.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import yaml

from harness.metrics import METRICS, MISSING, format_interval, format_value
from harness.text import clean
from runner.contract import Result, slug

if TYPE_CHECKING:
    from harness.exporting import ExportRecord

SHOWN = ("accuracy", "f1", "f1_weighted", "precision", "recall", "mcc", "roc_auc", "brier", "ece")
TO_THE_HUB = ("accuracy", "f1", "precision", "recall")
SPEED = ("latency_median_ms", "throughput_samples_per_sec", "memory_allocated_mb")
ADAPTER_TRANSFORMERS = "5.18"  # older ones do not load the head beside an adapter, or not the base that lies there
ADAPTER_NEEDS = f"peft and transformers {ADAPTER_TRANSFORMERS} or newer"
USED = ("torch", "transformers", "peft", "tokenizers")
MACRO = ("precision", "recall")  # what the registry calls so is macro too

_MARKUP = re.compile(r"([\\`*_\[\]<>|#&~$!])")


def model_card(record: ExportRecord, result: Result) -> str:
    """Markdown with YAML front matter. Figures are the result's own."""
    sections = (
        _what(record),
        _how_to_use(record),
        _figures(record, result),
        _training(record, result),
        _limits(record, result),
        _origin(record),
    )
    body = "\n\n".join("\n".join(section) for section in sections)
    return f"---\n{yaml.safe_dump(_metadata(record, result), sort_keys=False, allow_unicode=True)}---\n\n{body}\n"


def escaped(text: str) -> str:
    """One line in which nothing is markup, neither Markdown nor HTML."""
    return _MARKUP.sub(r"\\\1", clean(text))


# --- the front matter -----------------------------------------------------------------------------


def _metadata(record: ExportRecord, result: Result) -> dict[str, Any]:
    base = {"base_model": clean(record.model.name)} if record.model.kind == "hub" else {}
    dataset = clean(record.dataset)
    return {
        "library_name": "transformers",
        "pipeline_tag": "text-classification",
        **base,
        "tags": ["text-classification", "moodbench", record.method, *(["peft"] if _has_adapter(record) else [])],
        "metrics": list(TO_THE_HUB),
        "model-index": [
            {
                "name": clean(_title(record)),
                "results": [
                    {
                        "task": {"type": "text-classification", "name": "Text classification"},
                        "dataset": {"name": dataset, "type": slug(dataset), "split": "test"},
                        "metrics": list(_hub_metrics(result)),
                    }
                ],
            }
        ],
    }


def _hub_metrics(result: Result) -> Iterator[dict[str, Any]]:
    metrics = result.quality.metrics if result.quality else {}
    for name in TO_THE_HUB:
        if (value := metrics.get(name)) is not None:
            yield {"type": name, "value": round(value, 6), "name": _metric_title(name)}


def _metric_title(name: str) -> str:
    return METRICS[name].title + (" macro" if name in MACRO else "")


def _title(record: ExportRecord) -> str:
    return f"{record.model.alias} on {record.dataset} ({record.method})"


def _has_adapter(record: ExportRecord) -> bool:
    return record.method == "lora" and not record.merged


# --- the sections ---------------------------------------------------------------------------------


def _what(record: ExportRecord) -> Iterator[str]:
    labels = ", ".join(escaped(name) for name in record.label_names)
    yield f"# {escaped(_title(record))}"
    yield ""
    yield f"A text classifier, trained with MoodBench from {_base(record)}."
    yield f"It answers with one of {len(record.label_names)} labels: {labels}."


def _base(record: ExportRecord) -> str:
    model = record.model
    revision = f" at revision {escaped(model.revision)}" if model.revision else ""
    if model.kind == "hub":
        return f"{escaped(model.name)} of the Hugging Face hub{revision}"
    if model.kind == "package":
        return f"the model in the Python package {escaped(model.name)}{revision.replace('revision', 'version')}"
    if model.kind == "scratch":
        return "random weights"
    return f"a model kept in a folder, there called {escaped(model.alias)}"


def _how_to_use(record: ExportRecord) -> Iterator[str]:
    trust = ", trust_remote_code=True" if record.model.trust_remote_code else ""
    packages = f"torch, {ADAPTER_NEEDS}" if _has_adapter(record) else "torch and transformers 5"
    yield "## Use"
    yield ""
    yield "```python"
    yield "from transformers import pipeline"
    if _has_adapter(record):
        yield "from transformers.utils.versions import require_version"
    yield ""
    if _has_adapter(record):
        yield f'require_version("transformers>={ADAPTER_TRANSFORMERS}")  # older ones answer wrongly, without a word'
        yield 'require_version("peft")  # without it the base answers, untrained'
    yield f'classify = pipeline("text-classification", model="FOLDER", truncation=True{trust})'
    yield 'classify(["a text", "another one"])'
    yield "```"
    yield ""
    yield (
        f"It needs {packages}. `truncation=True` cuts texts after {record.max_length} tokens, as in training and for "
        "the figures below."
    )
    if record.method == "lora":
        yield ""
        yield _adapter_words(record)


def _adapter_words(record: ExportRecord) -> str:
    if record.merged:
        return "The LoRA adapter is merged into the weights."
    return (
        "`model.safetensors` holds the base model as it was, with an empty head; `adapter_model.safetensors` the LoRA "
        "adapter and the trained head: all that was trained. transformers loads both as one. **Without peft, or older "
        f"than {ADAPTER_TRANSFORMERS}, it may load the untrained base alone, without a word.** An export with "
        "`--merge` needs neither."
    )


def _figures(record: ExportRecord, result: Result) -> Iterator[str]:
    quality = result.quality
    yield "## Figures"
    yield ""
    if quality is None:
        yield "Its quality was not measured."
        return
    yield f"On the {quality.rows:,} examples of the test split of {escaped(record.dataset)}:"
    yield ""
    rows = [(_metric_title(name), _figure(name, result)) for name in SHOWN if quality.metrics.get(name) is not None]
    yield from _table(("metric", "value"), rows)
    yield ""
    yield from _table(
        ("label", "precision", "recall", "F1", "examples"),
        (
            (escaped(one.label), *(f"{share:.3f}" for share in (one.precision, one.recall, one.f1)), f"{one.support:,}")
            for one in quality.per_class
        ),
    )
    speeds = [
        (METRICS[name].title, _speed(name, result)) for name in SPEED if getattr(result.summary, name) is not None
    ]
    if speeds:
        where = result.provenance
        machine = escaped(where.gpu_model or where.cpu_model or "an unknown CPU")
        yield ""
        yield f"On {machine}, with {where.threads} CPU thread{'' if where.threads == 1 else 's'} ({where.executor}):"
        yield ""
        yield from _table(("measure", "value"), speeds)


def _figure(name: str, result: Result) -> str:
    assert result.quality is not None
    value = result.quality.metrics[name]
    if name != "accuracy" or not result.quality.confusion:
        return format_value(name, value)
    from harness.statistics import wilson_interval

    right = sum(row[index] for index, row in enumerate(result.quality.confusion))
    interval = wilson_interval(right, sum(map(sum, result.quality.confusion)))
    return format_interval(name, value, float(interval.low), float(interval.high))


def _speed(name: str, result: Result) -> str:
    return format_value(name, getattr(result.summary, name), unit=True)


def _training(record: ExportRecord, result: Result) -> Iterator[str]:
    training, report, dtype = record.training, result.training, result.effective.get("dtype")
    settings = [
        ("method", record.method),
        ("seed", str(record.seed)),
        ("learning rate", f"{training.learning_rate:g}"),
        ("examples a step", str(training.batch_size * training.accumulation)),
        ("weight decay", f"{training.weight_decay:g}"),
        ("tokens at most", str(record.max_length)),
    ]
    if record.lora is not None:
        settings.append(
            ("LoRA", f"rank {record.lora.rank}, alpha {record.lora.alpha}, dropout {record.lora.dropout:g}")
        )
    if report is not None:
        early = ", stopped early" if report.stopped_early else ""
        settings.append(("steps", f"{report.steps:,} ({report.epochs:.1f} epochs{early})"))
        if report.best_step is not None:
            settings.append(("weights of step", f"{report.best_step:,}, the best on the validation split"))
    if dtype is not None:
        settings.append(("computed in", escaped(str(dtype.value))))
    yield "## Training"
    yield ""
    yield from _table(("setting", "value"), settings)


def _limits(record: ExportRecord, result: Result) -> Iterator[str]:
    rows = result.quality.rows if result.quality else 0
    yield "## Limitations"
    yield ""
    yield (
        f"- The figures are of one model, trained once (seed {record.seed}), on {rows:,} examples. The interval of the "
        "accuracy (95 %, Wilson) says what other examples of the same kind could have given, not what another seed or "
        "another kind of text would."
    )
    yield f"- It has seen texts of {escaped(record.dataset)} only, and always answers with one of its labels."
    yield f"- Of a text longer than {record.max_length} tokens it reads the beginning."
    yield "- Licences and biases of base model and data are not known to MoodBench: see where they come from."
    for warning in result.warnings:
        yield f"- {escaped(warning)}"


def _origin(record: ExportRecord) -> Iterator[str]:
    where = record.provenance
    weights = "; ".join(f"{escaped(name)} {digest}" for name, digest in sorted(where.weights_sha256.items()))
    facts = [
        ("MoodBench", escaped(record.version)),
        ("run, cell", f"{escaped(record.run)}, {escaped(record.cell)}"),
        ("identity of the cell", record.identity),
        ("fingerprint of the dataset", escaped(record.fingerprint)),
        ("sha256 of the base's weights", weights or MISSING),
    ]
    facts += [(name, escaped(version)) for name, version in sorted(where.packages.items()) if version and name in USED]
    yield "## Provenance"
    yield ""
    yield from _table(("what", "which"), facts)
    yield ""
    yield "`moodbench.json` holds all of it, and the digests of the files here."


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(head)} |"
    yield f"|{' --- |' * len(head)}"
    for row in rows:
        yield f"| {' | '.join(row)} |"
