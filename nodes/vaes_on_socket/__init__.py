"""VAEs behind the host's VAE socket: the built-in latent space, and those of public video models."""
