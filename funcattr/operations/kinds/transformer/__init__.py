"""The kinds of operations that transformers are made of, beside linear layers and activations."""
