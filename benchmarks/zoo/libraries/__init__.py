"""One file per library: ``cases()`` gives a function that builds a `Subject` for each name."""
