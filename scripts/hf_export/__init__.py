"""Exports Hugging Face Mixture-of-Experts models to TorchScript: see ../export_hf.py."""
