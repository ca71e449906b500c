"""Models on disk without their zeros: one safetensors file, described in docs/files.md."""
