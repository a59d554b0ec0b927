"""Weights as others publish them: files read without torch, and what their tensors are called here."""
