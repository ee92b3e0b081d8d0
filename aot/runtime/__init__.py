"""Opens bundles and serves from them; imports neither what building needs nor, until it is used, jax."""
