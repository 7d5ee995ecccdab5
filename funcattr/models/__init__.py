"""The user's models: private copies, the functional form, taps at layers, chosen arguments."""
