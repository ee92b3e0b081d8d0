"""What transformers' models in torch make of small random checkpoints, recorded: see README.md beside this file."""
