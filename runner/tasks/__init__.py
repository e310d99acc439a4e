"""One file a task kind: head, loss, decoding, metrics."""
