"""What can be learned: each file is one kind of training data, with its settings and what the commands do with it."""
