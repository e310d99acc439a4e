"""Token ids to padded tensors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import torch

Side = Literal["right", "left"]


def pad_batch(
    input_ids: Sequence[Sequence[int]], pad_token_id: int, side: Side = "right", *, decoder: bool
) -> dict[str, torch.Tensor]:
    """Pad n rows to the longest, L: `input_ids` and `attention_mask`, int64 (n, L), on the CPU.

    A decoder also gets `position_ids` (n, L) counted from the mask, so that the side does not change its logits.
    Encoders count positions from the left: padding on the left raises ValueError. A row without tokens
    becomes one pad token that is attended to, because attention over nothing has no value.
    """
    import torch

    if side == "left" and not decoder:
        raise ValueError("an encoder's positions start at the first token: pad on the right")
    rows = [list(row) or [pad_token_id] for row in input_ids]
    length = max(map(len, rows))
    ids = torch.full((len(rows), length), pad_token_id, dtype=torch.long)
    mask = torch.zeros((len(rows), length), dtype=torch.long)
    for index, row in enumerate(rows):
        # transformers pools at the last token that is not the pad token, or at 0 where there is none:
        # a row of nothing but pad tokens (an empty text whose pad token is eos) must therefore start at 0.
        left = side == "left" and any(token != pad_token_id for token in row)
        start = length - len(row) if left else 0
        ids[index, start : start + len(row)] = torch.tensor(row, dtype=torch.long)
        mask[index, start : start + len(row)] = 1
    batch = {"input_ids": ids, "attention_mask": mask}
    if decoder:
        batch["position_ids"] = (mask.cumsum(-1) - 1).clamp(min=0)
    return batch
