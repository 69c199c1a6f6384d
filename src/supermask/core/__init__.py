"""The protocol: methods, sparsifiers, targets, parametrizations and masks. Start reading in ``method.py``."""
