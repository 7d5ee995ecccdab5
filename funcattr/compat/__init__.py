"""Drop-ins for other libraries: `funcattr.compat.captum`, `funcattr.compat.torchray`."""
