"""exp, log and the normal distribution in float32: functions that are compiled into the loops of other kernels.

Without Intel's SVML, exp in a Numba loop is a function call for every number, and dominates GELU and softmax. The
functions here have no branches and no calls, so LLVM vectorises loops over them: 16 numbers at once with AVX-512, 0.3
ns each on one core of a Zen 4. It does so only where a loop runs from 0 to the size of an array (from another start,
Numba tests at every index whether it is negative). So kernels first take their task's slice, then loop over all of it.

The functions must round as written, so LLVM may fuse a product and a sum, but nothing else (fastmath "contract"). The
polynomials are minimax fits made for this file; the stated errors include rounding.
"""

import functools
import math

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from autotx.kernels.jit import kernel

ZERO, HALF, ONE, TWO = np.float32(0), np.float32(0.5), np.float32(1), np.float32(2)
LOG2_E = np.float32(math.log2(math.e))
LN2_HIGH = np.float32(0.693359375)  # ln 2 = LN2_HIGH + LN2_LOW. LN2_HIGH has few bits, so n * LN2_HIGH is exact
LN2_LOW = np.float32(math.log(2) - 0.693359375)
ROUND = np.float32(1.5 * 2**23)  # floats of this size are 1 apart: adding it rounds to an integer
LOWEST, HIGHEST = np.float32(-126 * math.log(2)), np.float32(89)
E2, E3, E4, E5, E6 = (np.float32(c) for c in (0.49999993, 0.1666652, 0.04166839, 0.008368746, 0.0013814541))


@kernel(fastmath={"contract"})
def exp(x):
    """e^x, error at most 1.5 units in the last place. 0 where e^x < 1.7e-38, inf where it exceeds float32, NaN for NaN.

    e^x = 2^n e^r with n the integer nearest to x / ln 2, so |r| <= ln(2) / 2, where a polynomial of degree 6 suffices:
    e^r = 1 + r + r^2 q(r). 2^(n-1) is built from its exponent bits; with the factor 2, results may reach 2^128.
    """
    x = LOWEST if x < LOWEST else x
    x = HIGHEST if x > HIGHEST else x
    shifted = x * LOG2_E + ROUND
    n = shifted - ROUND
    r = x - n * LN2_HIGH - n * LN2_LOW
    q = (((E6 * r + E5) * r + E4) * r + E3) * r + E2
    return (q * (r * r) + r + ONE) * _half_power(shifted) * TWO


@kernel(fastmath={"contract"})
def expm1(x):
    """e^x - 1, relative error at most a few units in the last place, also near 0; x from -87 to 88.

    As in exp, but 1 is subtracted from 2^n before e^r - 1 is added: 2^n e^r - 1 = 2^n (e^r - 1) + (2^n - 1).
    """
    shifted = x * LOG2_E + ROUND
    n = shifted - ROUND
    r = x - n * LN2_HIGH - n * LN2_LOW
    q = (((E6 * r + E5) * r + E4) * r + E3) * r + E2
    half = _half_power(shifted)
    return TWO * (half * (q * (r * r) + r) + (half - HALF))


@intrinsic
def _half_power(typing, shifted):
    """2^(n - 1) from the float n + ROUND, for -126 < n <= 128, and 0 for n = -126.

    The last bits of n + ROUND are those of n. They are shifted to the exponent's position; all other bits are lost.
    """

    def generate(context, builder, signature, arguments):
        integer = ir.IntType(32)
        n = builder.shl(builder.bitcast(arguments[0], integer), integer(23))
        return builder.bitcast(builder.add(n, integer(126 << 23)), ir.FloatType())

    return types.float32(types.float32), generate


@intrinsic
def larger(typing, a, b):
    """The larger of two floats, NaN if either is NaN. LLVM does not vectorise `max` as Numba compiles it."""

    def generate(context, builder, signature, arguments):
        number = ir.FloatType()
        name, kind = "llvm.maximum.f32", ir.FunctionType(number, [number, number])
        function = cgutils.get_or_insert_function(builder.module, kind, name)
        return builder.call(function, arguments, fastmath=("nsz",))  # the sign of a zero does not matter

    return types.float32(types.float32, types.float32), generate


TINY = np.finfo(np.float32).tiny


@kernel
def flushed(x):
    """x, or 0 where it is subnormal (below 1.2e-38): a processor takes ten times longer for such products."""
    return ZERO if abs(x) < TINY else x


def flushed_twin(x):
    """`flushed` of an array, in place. Returns x."""
    x[np.abs(x) < np.finfo(x.dtype).tiny] = 0
    return x


L3, L4, L5, L6, L7, L8, L9 = (
    np.float32(c)
    for c in (0.333339095, -0.250013381, 0.199630633, -0.16577585, 0.149147674, -0.142674863, 0.0870043561)
)
INFINITY, NAN = np.float32(np.inf), np.float32(np.nan)


@kernel(fastmath={"contract"})
def log(x):
    """ln x, relative error at most 1.5e-7 (near x = 1: absolute, 1e-7), x not denormal. -inf for 0, NaN for x < 0.

    x = 2^e (1 + f) with 1 + f between sqrt(1/2) and sqrt(2); ln(1 + f) = f - f^2 / 2 + f^3 p(f), p of degree 6.
    """
    e, f = _exponent(x), _fraction(x) - ONE
    p = (((((L9 * f + L8) * f + L7) * f + L6) * f + L5) * f + L4) * f + L3
    square = f * f
    y = e * LN2_HIGH + (f + (e * LN2_LOW + (f * square * p - HALF * square)))
    y = y if x < INFINITY else x
    return y if x > ZERO else (-INFINITY if x == ZERO else NAN)


def _split(builder, x):
    """For x = 2^e (1 + f): e, and the bits of 1 + f, which are those of x with e subtracted from the exponent."""
    integer = ir.IntType(32)
    bits, half = builder.bitcast(x, integer), integer(int(np.float32(math.sqrt(0.5)).view(np.int32)))
    e = builder.ashr(builder.sub(bits, half), integer(23))
    return e, builder.sub(bits, builder.shl(e, integer(23)))


@intrinsic
def _exponent(typing, x):
    def generate(context, builder, signature, arguments):
        return builder.sitofp(_split(builder, arguments[0])[0], ir.FloatType())

    return types.float32(types.float32), generate


@intrinsic
def _fraction(typing, x):
    def generate(context, builder, signature, arguments):
        return builder.bitcast(_split(builder, arguments[0])[1], ir.FloatType())

    return types.float32(types.float32), generate


# F(x) = 1/2 + x P(x^2) / Q(x^2), the distribution function. R: a polynomial in t, the ratio of its tail to the bell.
P0, P1, P2, P3, P4, P5 = (
    np.float32(c) for c in (0.398942235, 0.0338528073, 0.00467727075, 0.000168827338, 6.35213161e-06, 2.27492949e-08)
)
Q1, Q2, Q3, Q4, Q5 = (np.float32(c) for c in (0.251522322, 0.0286459643, 0.00188445423, 7.36480483e-05, 1.19750289e-06))
END = np.float32(5.5)  # for |x| > END, F(x) is 0 or 1 up to 2e-8
SLOPE = np.float32(0.23)
R1, R2, R3, R4, R5, R6, R7, R8 = (
    np.float32(c)
    for c in (0.09189176, 0.0893305, 0.105230222, 0.0012908188, 0.25116394, -0.23363626, 0.26871084, -0.07398182)
)


@kernel(fastmath={"contract"})
def normal_cdf(x):
    """F(x) = (1 + erf(x / sqrt 2)) / 2, error at most 2e-7. F - 1/2 is odd: x times a ratio of polynomials in x^2."""
    z = x * x
    p = ((((P5 * z + P4) * z + P3) * z + P2) * z + P1) * z + P0
    q = ((((Q5 * z + Q4) * z + Q3) * z + Q2) * z + Q1) * z + ONE
    inside = HALF + x * p / q
    inside = ZERO if x < -END else inside
    return ONE if x > END else inside


@kernel(fastmath={"contract"})
def normal_cdf_with_bell(x, bell):
    """F(x), cheaper where bell = e^(-x^2 / 2) is known. Error at most 1.5e-7, and for x < 0 at most 1e-6 F(x).

    For a = |x|, (1 - F(a)) / bell is smooth: a polynomial in t = 1 / (1 + 0.23 a) approximates it.
    """
    t = ONE / (SLOPE * abs(x) + ONE)
    ratio = (((((((R8 * t + R7) * t + R6) * t + R5) * t + R4) * t + R3) * t + R2) * t + R1) * t
    tail = ratio * bell
    return tail if x < ZERO else ONE - tail


DEGREE = 24


def erf_twin(x):
    """erf x in the type of x; for float64 the absolute error is at most 1e-15.

    erfc(a) e^(a^2) is smooth in t = 2 / (2 + a). Its Chebyshev series for a from 0 to 6 is computed with math.erfc. For
    a > 6, erf a is 1.
    """
    a = np.minimum(np.abs(x), 6)
    tail = np.exp(-a * a) * _erfc_series()(2 / (2 + a))
    return np.copysign(1 - tail, x).astype(x.dtype, copy=False)  # the series computes in float64


@functools.cache
def _erfc_series():
    """Interpolation at the Chebyshev points cos(angle), scaled to t from 1/4 to 1."""
    angles = (np.arange(DEGREE + 1) + 0.5) * (np.pi / (DEGREE + 1))
    a = 2 / (0.625 + 0.375 * np.cos(angles)) - 2
    short = a.astype(np.float32).astype(np.float64)  # its square is exact; a rounded a^2 would cost two digits
    values = np.array([math.erfc(x) for x in a]) * np.exp(short * short) * np.exp((a - short) * (a + short))
    coefficients = np.cos(np.outer(np.arange(DEGREE + 1), angles)) @ values * (2 / (DEGREE + 1))
    coefficients[0] /= 2
    return np.polynomial.Chebyshev(coefficients, domain=[0.25, 1])
