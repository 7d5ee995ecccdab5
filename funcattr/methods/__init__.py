"""The methods of attribution, what is made of them, and sweeps."""
