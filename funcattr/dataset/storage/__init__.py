"""What a sweep over a data set leaves: arrays, their layout, the settings they were made with."""
