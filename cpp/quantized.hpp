// Rows that are stored in two bytes or one a number, converted to T. Included by kernels.cpp only.
#pragma once
#include <cstdint>
#include <cstring>
#ifdef __AVX512F__
#include <immintrin.h>
#endif

#include "ahead.hpp"
#include "elementary.hpp"
#include "vector.hpp"
#include "views.hpp"

namespace gdfast::GDFAST_ISA {

inline constexpr int widened_at_once = 16;

// The bits of 16 stored numbers as wide integers, and those as floats. Compilers make single instructions of these steps, not
// of one conversion for all of them.
template <class To, class From>
inline Vector<To, widened_at_once> converted(Vector<From, widened_at_once> from) {
#ifdef GDFAST_VECTORS
    return __builtin_convertvector(from, Vector<To, widened_at_once>);
#else
    Vector<To, widened_at_once> to;
    for (int i = 0; i < widened_at_once; ++i) to[i] = To(from[i]);
    return to;
#endif
}

// 16 numbers where no instruction is known to read them at once
template <class Bits>
inline Vector<float, widened_at_once> one_by_one(const typename Bits::type* x) {
    float out[widened_at_once];
#pragma omp simd
    for (int i = 0; i < widened_at_once; ++i) out[i] = Bits::value(x[i]);
    return load<widened_at_once>(out);
}

// What a stored number is: bits of this type, read one by one, or 16 at once.
template <Stored stored>
struct Bits16 {
    using type = std::uint16_t;
    static float value(type h) {
        if constexpr (stored == Stored::bfloat16) return bit_cast<float>(std::uint32_t(h) << 16);
        const std::uint32_t magnitude = h & 0x7fffu, sign = std::uint32_t(h & 0x8000u) << 16;
        // 2^112 moves the exponent, of subnormal numbers too; infinity and NaN have one of their own
        const std::uint32_t finite = bit_cast<std::uint32_t>(bit_cast<float>(magnitude << 13) * 0x1p112f);
        return bit_cast<float>((magnitude >= 0x7c00u ? (magnitude << 13) | 0x7f800000u : finite) | sign);
    }
    static Vector<float, widened_at_once> values(const type* x) {
#ifdef __AVX512F__
        if constexpr (stored == Stored::float16) {
            __m256i h;
            std::memcpy(&h, x, sizeof(h));
            return _mm512_cvtph_ps(h);
        } else {
            return bit_cast<Vector<float, widened_at_once>>(converted<std::uint32_t, type>(load<widened_at_once>(x)) << 16);
        }
#else
        return one_by_one<Bits16>(x);
#endif
    }
};
template <class I>
struct Bits8 {
    using type = I;
    static float value(I q) { return float(q); }
    static Vector<float, widened_at_once> values(const I* x) {
#ifdef __AVX512F__
        __m128i q;
        std::memcpy(&q, x, sizeof(q));
        return _mm512_cvtepi32_ps(std::is_signed_v<I> ? _mm512_cvtepi8_epi32(q) : _mm512_cvtepu8_epi32(q));
#else
        return one_by_one<Bits8>(x);
#endif
    }
};

// count numbers; with a scale, those of one row. The last block overlaps the one before.
template <class From, class T>
inline void widen(const typename From::type* x, Index count, const T* scale, const T* offset, T* to) {
    constexpr int W = widened_at_once;
    if (count < W) {
        for (Index j = 0; j < count; ++j) to[j] = T(From::value(x[j])) * (scale ? scale[j] : T(1)) + (scale ? offset[j] : T(0));
        return;
    }
    for (Index start = 0; start < count; start += W) {
        const Index j = min(start, count - W);
        const Vector<T, W> v = converted<T, float>(From::values(x + j));
        store<W>(to + j, scale ? v * load<W>(scale + j) + load<W>(offset + j) : v);
    }
}

// packed (m x d) = the first m of `known` selected rows; those behind them are asked for.
template <class From, class T>
inline void widen_rows_from(const QuantizedRows<T>& X, const Selection& rows, Index m, Index known, T* packed) {
    using I = typename From::type;
    const Index bytes = X.d * Index(sizeof(I)), distance = max(Index(0), min(known - m, rows_ahead(bytes)));
    const auto at = [&](Index i) { return static_cast<const I*>(X.x) + rows[i] * X.stride; };
    const auto ask = [&](Index first, Index count) {
        const std::uintptr_t start = reinterpret_cast<std::uintptr_t>(at(first));
        for (std::uintptr_t line = start / 64 * 64; line < start + std::uintptr_t(count * bytes); line += 64) ask_for(line);
    };
    if (!rows.index && X.stride == X.d && !X.scale) {  // one stretch of memory
        ask(distance, m);
        return widen<From>(at(0), m * X.d, X.scale, X.offset, packed);
    }
    for (Index i = 0; i < m; ++i) {
        ask(i + distance, 1);
        widen<From>(at(i), X.d, X.scale, X.offset, packed + i * X.d);
    }
}

template <class T>
void widen_rows(QuantizedRows<T> X, Selection rows, Index m, Index known, T* packed) {
    switch (X.stored) {
        case Stored::float16:
            return widen_rows_from<Bits16<Stored::float16>>(X, rows, m, known, packed);
        case Stored::bfloat16:
            return widen_rows_from<Bits16<Stored::bfloat16>>(X, rows, m, known, packed);
        case Stored::int8:
            return widen_rows_from<Bits8<std::int8_t>>(X, rows, m, known, packed);
        case Stored::uint8:
            return widen_rows_from<Bits8<std::uint8_t>>(X, rows, m, known, packed);
    }
}

}  // namespace gdfast::GDFAST_ISA
