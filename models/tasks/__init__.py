"""What can be learned: each file is one kind of training data, with the model that learns from it."""
