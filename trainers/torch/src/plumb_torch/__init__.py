"""Trains video models on AI feedback with PyTorch, on one process or many: docs/distributed-training.md."""
