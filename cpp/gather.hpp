// Rows in any order, copied one behind the other. Included by kernels.cpp only.
#pragma once
#include "ahead.hpp"
#include "vector.hpp"
#include "views.hpp"

namespace gdfast::GDFAST_ISA {

// Numbers are copied V registers a row, the last one ending where the row ends, as narrow rows are read.
template <int W, int V, class T>
inline void copy_row(const T* x, Index d, T* to) {
    for (int v = 0; v < V - 1; ++v) store<W>(to + v * W, load<W>(x + v * W));
    store<W>(to + d - W, load<W>(x + d - W));
}
template <class T>
inline void copy_long_row(const T* x, Index d, T* to) {
    constexpr int W = native_lanes<T>;
    for (Index j = 0; j + W <= d; j += W) store<W>(to + j, load<W>(x + j));
    if (d >= W) return store<W>(to + d - W, load<W>(x + d - W));
    for (Index j = 0; j < d; ++j) to[j] = x[j];
}

// packed (m x d) = the first m of `known` selected rows; those behind them are asked for.
template <class T, class Copy>
inline void gather_rows_by(const DenseRows<T>& X, const Selection& rows, Index m, Index known, T* packed, const Copy& copy) {
    const Index distance = min(known - m, rows_ahead(X.d * Index(sizeof(T)))), bytes = X.d * Index(sizeof(T));
    for (Index i = 0; i < m; ++i) {
        const std::uintptr_t start = reinterpret_cast<std::uintptr_t>(row(X, rows, i + distance));
        for (std::uintptr_t line = start / 64 * 64; line < start + std::uintptr_t(bytes); line += 64) ask_for(line);
        copy(row(X, rows, i), X.d, packed + i * X.d);
    }
}

}  // namespace gdfast::GDFAST_ISA
