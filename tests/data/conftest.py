"""Makes `latent_samples` importable, whatever the import mode of pytest."""
