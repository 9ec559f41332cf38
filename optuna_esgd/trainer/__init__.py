"""Trainer: the PyTorch face. Tasks say what is trained; the work loop acts on what is decided."""
