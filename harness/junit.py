"""A gate as JUnit XML, which CI servers show as tests: a suite for each dataset, a case for each check.

A limit that is exceeded is a failure; what broke, or was refused, is an error. A check without enough evidence is
skipped, with the reason: readers count a failure as a regression, which nobody has seen, and the exit code keeps such a
gate from passing all the same.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from xml.etree import ElementTree as ET

from harness.comparison import Check, GateReport, Outcome
from harness.errors import SetupError
from harness.report.comparison import check_name, outcome_words, shown_figure
from harness.store import write_given
from harness.text import clean

_ELEMENTS: dict[Outcome, str] = {
    "fail": "failure",
    "broken": "error",
    "refused": "error",
    "not_enough_evidence": "skipped",
}
_COUNTS = {"tests": None, "failures": "failure", "errors": "error", "skipped": "skipped"}
_NOT_XML = re.compile(r"[\ufffe\uffff]")  # beside the control characters that `clean` marks (XML 1.0, sec. 2.2)


def write_junit(report: GateReport, path: Path) -> None:
    """Whole or not at all; folders on the way are made. Raises SetupError."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_given(path, as_junit(report))
    except OSError as error:
        raise SetupError(f"cannot write {path}: {error.strerror or error}", "give another --junit file") from None


def as_junit(report: GateReport) -> bytes:
    """XML by the rules that Jenkins, GitLab and the readers for GitHub share: names and counts on every suite, class
    and time on every case, and the message both as an attribute and as text, since each shows one of the two."""
    root = ET.Element("testsuites", {"name": f"moodbench gate: {_text(report.run)}", **_counts(report.checks)})
    for dataset, group in groupby(report.checks, key=lambda check: check.dataset):
        checks = list(group)
        suite = ET.SubElement(root, "testsuite", {"name": _text(dataset or "run"), **_counts(checks)})
        for check in checks:
            _add_case(suite, check)
    ET.indent(root)
    encoded: bytes = ET.tostring(root, encoding="utf-8", xml_declaration=True)
    return encoded + b"\n"


def _add_case(suite: ET.Element, check: Check) -> None:
    # A gate runs nothing; readers that add up times need a number.
    owner = ".".join(filter(None, (_text(check.dataset).replace(".", "_"), _text(check.model).replace(".", "_"))))
    case = ET.SubElement(suite, "testcase", {"classname": owner, "name": _text(check_name(check)), "time": "0"})
    told = "; ".join(filter(None, (shown_figure(check), check.reason, *check.notes)))
    element = _ELEMENTS.get(check.outcome)
    if element is None:
        ET.SubElement(case, "system-out").text = _text(told)
        return
    attributes = {"message": _text(told)}
    if element != "skipped":
        attributes["type"] = check.outcome
    ET.SubElement(case, element, attributes).text = _text(f"{outcome_words(check.outcome)}: {told}")


def _counts(checks: Sequence[Check]) -> dict[str, str]:
    elements = [_ELEMENTS.get(check.outcome) for check in checks]
    found = {name: len(checks) if kind is None else elements.count(kind) for name, kind in _COUNTS.items()}
    return {**{name: str(count) for name, count in found.items()}, "time": "0"}


def _text(text: str) -> str:
    return _NOT_XML.sub("�", clean(text))
