"""Tasks: the data, loss and settings of a kind of training, and what the commands do with the trained model."""
