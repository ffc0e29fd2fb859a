"""The ops: functions on plain arrays that return their result and their pullback (see autotx/tensor.py).

Every docstring derives the gradients: `g` is the gradient of the loss with respect to the result, `dx` with respect to
`x`. If arguments broadcast, the gradients have the broadcast shape; the engine sums them to the argument's shape.

Where x is NaN the result is NaN, and the gradient follows from the formula: comparisons with NaN are false, so that the
gradients of relu, maximum, minimum, clip, max and min are 0 there; arithmetic, as in abs, exp and mul, gives NaN.
"""
