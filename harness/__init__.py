"""The host side of MoodBench: plans, runs and ranks cells. Never imports torch, transformers, peft, datasets."""
