"""Drop-ins for other libraries: `funcattr.compat.captum`, `.torchray` and `.zennit`."""
