// The weighted Gram matrix of a tile of rows, H += A' diag(h) A, upper triangle. Included by kernels.cpp only.
#pragma once
#include "vector.hpp"
#include "views.hpp"

#if defined(__AVX512F__)
#include <immintrin.h>
#endif

namespace gdfast::GDFAST_ISA {

// Blocks of R x C registers of H against all m rows.
template <class T>
void gram_of_dense(const T* packed, Index stride, Index m, const T* h, T* scaled, T* H) {
    constexpr int W = native_lanes<T>, C = 2, R = register_bytes == 64 ? 8 : 4;  // of 32 registers, or of 16
    for (Index i = 0; i < m; ++i)
        for (Index j = 0; j < stride; ++j) scaled[i * stride + j] = h[i] * packed[i * stride + j];
    for (Index p = 0; p < stride; p += R)
        for (Index q = p / (C * W) * (C * W); q < stride; q += C * W) {
            Vector<T, W> sums[R][C];
            for (int s = 0; s < R; ++s)
                for (int c = 0; c < C; ++c) sums[s][c] = load<W>(H + (p + s) * stride + q + c * W);
            for (Index i = 0; i < m; ++i) {
                const T* a = packed + i * stride + q;
                const T* b = scaled + i * stride + p;
                for (int s = 0; s < R; ++s)
                    for (int c = 0; c < C; ++c) sums[s][c] += b[s] * load<W>(a + c * W);
            }
            for (int s = 0; s < R; ++s)
                for (int c = 0; c < C; ++c) store<W>(H + (p + s) * stride + q + c * W, sums[s][c]);
        }
}

// Where `row` of n numbers, a multiple of 16, is not 0 (NaN is not): columns, ascending; returns how many.
template <class T>
inline int non_zeros(const T* row, Index n, std::int32_t* columns) {
    int count = 0;
#if defined(__AVX512F__)
    for (Index start = 0; start < n; start += 64) {
        std::uint64_t bits = 0;
        for (Index j = start; j < start + 64 && j < n; j += native_lanes<T>) {
            std::uint64_t part;
            if constexpr (sizeof(T) == 4)
                part = _mm512_cmp_ps_mask(_mm512_loadu_ps(row + j), _mm512_setzero_ps(), _CMP_NEQ_UQ);
            else
                part = _mm512_cmp_pd_mask(_mm512_loadu_pd(row + j), _mm512_setzero_pd(), _CMP_NEQ_UQ);
            bits |= part << (j - start);
        }
        for (; bits; bits &= bits - 1) columns[count++] = std::int32_t(start) + __builtin_ctzll(bits);
    }
#else
    for (Index j = 0; j < n; ++j) {
        columns[count] = std::int32_t(j);
        count += row[j] != 0 ? 1 : 0;
    }
#endif
    return count;
}

// Row after row, the products of what is not 0.
template <class T>
void gram_of_few(const T* packed, Index stride, Index m, const T* h, std::int32_t* columns, T* H) {
    for (Index i = 0; i < m; ++i) {
        const T* row = packed + i * stride;
        const int count = non_zeros(row, stride, columns);
        for (int p = 0; p < count; ++p) {
            T* to = H + columns[p] * stride;
            const T value = h[i] * row[columns[p]];
            for (int q = p; q < count; ++q) to[columns[q]] += value * row[columns[q]];
        }
    }
}

// scaled: scratch, as large as packed. Rows of 64 numbers and more that are mostly 0, so far as some of them show, are not
// multiplied out.
template <class T>
void gram(const T* packed, Index stride, Index m, const T* h, T* scaled, T* H) {
    constexpr Index tried = 4;
    std::int32_t* columns = reinterpret_cast<std::int32_t*>(scaled);
    Index count = 0;
    for (Index s = 0; s < tried && stride >= 64; ++s) count += non_zeros(packed + m * s / tried * stride, stride, columns);
    if (stride >= 64 && count * 8 < tried * stride) return gram_of_few(packed, stride, m, h, columns, H);
    gram_of_dense(packed, stride, m, h, scaled, H);
}

}  // namespace gdfast::GDFAST_ISA
