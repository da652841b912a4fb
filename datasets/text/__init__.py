"""Texts and zero-shot tasks for language models."""
