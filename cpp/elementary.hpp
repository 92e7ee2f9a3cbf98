// exp, log and log1p without branches or tables, so that loops around them become vector code on every instruction set.
// Relative error below 3 units in the last place (tests/test_kernels.py measures it). Included by kernels.cpp only.
#pragma once
#include <cstdint>
#include <cstring>
#include <limits>

namespace gdfast::GDFAST_ISA {

template <class T>
struct Bits;
template <>
struct Bits<float> {
    using Int = std::int32_t;
    static constexpr int mantissa = 23;
    static constexpr float round = 12582912.0f;  // 1.5 * 2^23: adding it leaves the nearest integer in the low bits
    static constexpr float ln2_high = 0.693359375f, ln2_low = -2.12194440054690583e-4f;
    static constexpr float exp_max = 88.722839f, exp_min = -86.0f;
    static constexpr int exp_terms = 7, log1p_terms = 8, log_terms = 5;
};
template <>
struct Bits<double> {
    using Int = std::int64_t;
    static constexpr int mantissa = 52;
    static constexpr double round = 6755399441055744.0;  // 1.5 * 2^52
    static constexpr double ln2_high = 0.693147180369123816490, ln2_low = 1.90821492927058770002e-10;
    static constexpr double exp_max = 709.782712893383973096, exp_min = -707.0;
    static constexpr int exp_terms = 13, log1p_terms = 17, log_terms = 11;
};

template <class To, class From>
inline To bit_cast(From from) {
    To to;
    std::memcpy(&to, &from, sizeof(to));
    return to;
}

template <class T>
inline T min(T a, T b) {
    return a < b ? a : b;
}
template <class T>
inline T max(T a, T b) {
    return a > b ? a : b;
}
template <class T>
inline T absolute(T a) {
    return a < 0 ? -a : a;
}

template <class T>
constexpr T inverse_factorial(int n) {
    double product = 1;
    for (int i = 2; i <= n; ++i) product *= i;
    return T(1 / product);
}

// -|a|
template <class T>
inline T minus_absolute(T a) {
    using Int = typename Bits<T>::Int;
    return bit_cast<T>(Int(bit_cast<Int>(a) | std::numeric_limits<Int>::min()));
}

// Sum over i <= n of r^i / i!, by Horner's rule with constants: a division by a number that is no power of two would stay one.
template <class T, int n, int i = 0>
inline T taylor_exp(T r) {
    if constexpr (i == n)
        return inverse_factorial<T>(n);
    else
        return taylor_exp<T, n, i + 1>(r) * r + inverse_factorial<T>(i);
}

// exp(x) = 2^n exp(r), |r| <= ln(2) / 2. 0 below exp_min (just above the smallest normal number), infinity above exp_max,
// NaN kept.
template <class T>
inline T exp(T x) {
    using B = Bits<T>;
    using Int = typename B::Int;
    const T inside = min(max(x, B::exp_min), B::exp_max);
    const T shifted = inside * T(1.44269504088896340736) + B::round;
    const T n = shifted - B::round;
    const T r = (inside - n * B::ln2_high) - n * B::ln2_low;
    // 2^(n - 1) always has an exponent of its own, 2^n for the largest n has not
    const Int power = (bit_cast<Int>(shifted) - 1) * (Int(1) << B::mantissa) + bit_cast<Int>(T(1));
    T result = taylor_exp<T, B::exp_terms>(r) * bit_cast<T>(power) * 2;
    result = x < B::exp_min ? T(0) : result;
    result = x > B::exp_max ? std::numeric_limits<T>::infinity() : result;
    return x == x ? result : x;
}

// exp(-|x|), in half the work: 0 below exp_min, NaN kept
template <class T>
inline T exp_minus_absolute(T x) {
    using B = Bits<T>;
    using Int = typename B::Int;
    const T negative = minus_absolute(x);
    const T inside = max(B::exp_min, negative);  // NaN passes through max as its second argument
    const T shifted = inside * T(1.44269504088896340736) + B::round;
    const T n = shifted - B::round;
    const T r = (inside - n * B::ln2_high) - n * B::ln2_low;
    const Int power = bit_cast<Int>(shifted) * (Int(1) << B::mantissa) + bit_cast<Int>(T(1));
    const T result = taylor_exp<T, B::exp_terms>(r) * bit_cast<T>(power);
    return negative < B::exp_min ? T(0) : result;
}

// Sum over i < n of 2 q^i / (2 i + 1), by recursion: a loop of so many turns would not be unrolled, and so be no vector code.
template <class T, int n, int i = 0>
inline T artanh_series(T q) {
    if constexpr (i + 1 == n)
        return T(2) / T(2 * i + 1);
    else
        return artanh_series<T, n, i + 1>(q) * q + T(2) / T(2 * i + 1);
}

// 2 artanh(s) = log((1 + s) / (1 - s))
template <class T, int terms>
inline T twice_artanh(T s) {
    return s * artanh_series<T, terms>(s * s);
}

// log(1 + u) for u in [0, 1]
template <class T>
inline T log1p(T u) {
    return twice_artanh<T, Bits<T>::log1p_terms>(u / (2 + u));
}

// log(x) for normal x > 0
template <class T>
inline T log(T x) {
    using B = Bits<T>;
    using Int = typename B::Int;
    const Int bits = bit_cast<Int>(x);
    const Int offset = bits - bit_cast<Int>(T(0.70710678118654752440));
    const T exponent = T(offset >> B::mantissa);
    const T mantissa = bit_cast<T>(Int(bits - (offset >> B::mantissa) * (Int(1) << B::mantissa)));
    return twice_artanh<T, B::log_terms>((mantissa - 1) / (mantissa + 1)) + exponent * B::ln2_low + exponent * B::ln2_high;
}

// log(1 + q) for q >= 0, however small
template <class T>
inline T log_of_one_plus(T q) {
    return q <= 1 ? log1p(q) : log(1 + q);
}

// exp(-|z|) turned into 1 / (1 + exp(-z))
template <class T>
inline T sigmoid(T z) {
    const T e = exp_minus_absolute(z);
    return (z >= 0 ? T(1) : e) / (1 + e);
}

}  // namespace gdfast::GDFAST_ISA
