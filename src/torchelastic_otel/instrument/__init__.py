"""The hooks in torch: everything that touches torch is in this package."""
