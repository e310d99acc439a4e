"""The datasets that come with MoodBench, as a request for a file: no second code path."""

from __future__ import annotations

from pathlib import Path

import msgspec

from runner.contract import DatasetRequest
from runner.errors import RunnerError

STARTER_CSV = Path(__file__).with_name("starter.csv")
LABEL_COLUMNS = {"starter-sentiment": "sentiment", "starter-emotion": "emotion"}
KEPT = ("lang", "rating", "slice")
SLICES = ("slice", "lang")


def rewrite_embedded(request: DatasetRequest, csv: Path | None = None) -> DatasetRequest:
    """An embedded request as one for the file `csv` (None: the one shipped); any other request unchanged.

    What the request says itself (sizes, filters, a label map ...) stays. Raises RunnerError (`configuration`).
    """
    if request.source != "embedded":
        return request
    location = request.location or request.name
    if location not in LABEL_COLUMNS:
        known = ", ".join(LABEL_COLUMNS)
        raise RunnerError("configuration", f"there is no embedded dataset {location!r}", f"choose one of: {known}")
    return msgspec.structs.replace(
        request,
        source="file",
        location=None,
        files={"all": str(csv or STARTER_CSV)},
        split_column="split",
        text_column="text",
        label_column=LABEL_COLUMNS[location],
        keep_columns=tuple(dict.fromkeys((*request.keep_columns, *KEPT))),
        slice_columns=request.slice_columns or SLICES,
    )
