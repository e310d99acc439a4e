"""Tokenizers: loaded from a model's folder, or learnt from the training texts."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runner.contract import Choice
from runner.errors import RunnerError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

FILES = ("tokenizer.json", "vocab.txt", "vocab.json", "*.model", "*.tiktoken", "*.py")
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
ALPHABET = 1_000  # characters kept; rarer ones become [UNK]
SCRATCH_LENGTH = 512


def load_tokenizer(folder: Path, alias: str, *, trust_remote_code: bool = False) -> PreTrainedTokenizerBase:
    """The folder's own tokenizer.

    Raises RunnerError: `model` (none there, or unreadable), `environment` (it needs a package that is missing).
    """
    from transformers import AutoTokenizer

    # Without any of its files transformers makes an empty tokenizer of five tokens and says nothing.
    if not any(next(folder.glob(pattern), None) for pattern in FILES):
        raise RunnerError(
            "model",
            f"model '{alias}': {folder} holds no tokenizer",
            "save it there too: `AutoTokenizer.from_pretrained(...).save_pretrained(folder)`",
        )
    _check_json(folder / "tokenizer.json", alias)
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            str(folder), local_files_only=True, trust_remote_code=trust_remote_code
        )
    except (ImportError, ValueError, KeyError, OSError) as error:
        raise _unreadable(folder, alias, error) from error
    return tokenizer


def _check_json(path: Path, alias: str) -> None:
    """A damaged file makes the tokenizers library raise a bare Exception: find it here."""
    if not path.is_file():
        return
    try:
        whole = {"model", "added_tokens"} <= json.loads(path.read_text(encoding="utf-8")).keys()
    except (ValueError, AttributeError):
        whole = False
    if not whole:
        raise RunnerError("model", f"model '{alias}': {path} is damaged", "download or save it again")


def _unreadable(folder: Path, alias: str, error: Exception) -> RunnerError:
    only_sentencepiece = any(folder.glob("*.model")) and not (folder / "tokenizer.json").is_file()
    if isinstance(error, ImportError) or only_sentencepiece:
        return RunnerError(
            "environment",
            f"model '{alias}': its tokenizer needs a package that is missing ({_first_line(error)})",
            "install it: pip install sentencepiece tiktoken protobuf",
        )
    return RunnerError(
        "model", f"model '{alias}': its tokenizer cannot be read ({_first_line(error)})", "download or save it again"
    )


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]


def ensure_pad_token(tokenizer: PreTrainedTokenizerBase, alias: str) -> Choice:
    """Give the tokenizer a pad token where it has none: eos, else unk. Raises RunnerError("model") without both."""
    if tokenizer.pad_token is not None:
        return Choice(value=str(tokenizer.pad_token), reason="the tokenizer's own pad token")
    for name in ("eos_token", "unk_token"):
        token = getattr(tokenizer, name)
        if token is not None:
            tokenizer.pad_token = token
            return Choice(value=str(token), reason=f"the tokenizer has no pad token: its {name} stands in, masked")
    raise RunnerError(
        "model",
        f"model '{alias}': its tokenizer has no pad, eos or unk token, so texts cannot be batched",
        "set `pad_token` in its tokenizer_config.json to a token of its vocabulary",
    )


def learn_wordpiece(texts: Sequence[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """A lower-casing BERT tokenizer with at most `vocab_size` tokens, the same for the same texts.

    Raises RunnerError("data") where the texts hold no words.
    """
    from tokenizers import Tokenizer
    from tokenizers.models import WordPiece
    from tokenizers.processors import BertProcessing
    from transformers import PreTrainedTokenizerFast

    vocabulary = _learn_vocabulary(texts, vocab_size)
    tokenizer = _bert_pipeline(Tokenizer(WordPiece(vocabulary, unk_token="[UNK]")))
    ends = [(token, vocabulary[token]) for token in ("[SEP]", "[CLS]")]
    tokenizer.post_processor = BertProcessing(*ends)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        model_max_length=SCRATCH_LENGTH,
    )


def _bert_pipeline(tokenizer: Any) -> Any:
    from tokenizers.decoders import WordPiece
    from tokenizers.normalizers import BertNormalizer
    from tokenizers.pre_tokenizers import BertPreTokenizer

    tokenizer.normalizer = BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = BertPreTokenizer()
    tokenizer.decoder = WordPiece()
    return tokenizer


def _learn_vocabulary(texts: Sequence[str], vocab_size: int) -> dict[str, int]:
    """Token -> id. The trainer numbers `##c` pieces in the order of a randomised hash map, and merges of equal
    count by those numbers; naming all pieces beforehand, sorted, makes the vocabulary the same in every process."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordPiece
    from tokenizers.trainers import WordPieceTrainer

    learner = _bert_pipeline(Tokenizer(WordPiece(unk_token="[UNK]")))
    alphabet, pieces = _alphabet(learner, texts)
    if not alphabet:
        raise RunnerError("data", "the training texts hold no words to learn a tokenizer from", "use other rows")
    trainer = WordPieceTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        initial_alphabet=alphabet,
        limit_alphabet=len(alphabet),
        special_tokens=[*SPECIAL, *alphabet, *pieces],
        show_progress=False,
    )
    learner.train_from_iterator(texts, trainer)
    return dict(learner.get_vocab())


def _alphabet(tokenizer: Any, texts: Sequence[str]) -> tuple[list[str], list[str]]:
    """The most frequent characters, and those of them that occur inside words as `##c`; both sorted."""
    counts: Counter[str] = Counter()
    inner: set[str] = set()
    for text in texts:
        normal = tokenizer.normalizer.normalize_str(text)
        for word, _ in tokenizer.pre_tokenizer.pre_tokenize_str(normal):
            counts.update(word)
            inner.update(word[1:])
    kept = sorted(counts, key=lambda character: (-counts[character], character))[:ALPHABET]
    return sorted(kept), [f"##{character}" for character in sorted(inner.intersection(kept))]
