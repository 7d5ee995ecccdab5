"""What `funcattr.compat.zennit` is made of."""
