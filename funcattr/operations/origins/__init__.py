"""What a tensor came of, and operations of several tensors, whose rules go by that."""
