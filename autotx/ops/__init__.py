"""The ops: functions on plain arrays that return their result and their pullback (autotx/tensor.py says how).

Every docstring derives the gradients: `g` is the gradient of the loss with respect to the result, `dx` with respect to
`x`. Where arrays broadcast, the gradients here have the broadcast shape; the engine sums them back.

Where x is NaN the result is NaN, and the gradient is what the formula gives: a comparison with NaN is false, so relu,
maximum, minimum, clip, max and min give 0 there, and arithmetic with NaN gives NaN, as in abs, exp and mul.
"""
