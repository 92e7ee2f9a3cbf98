// Margins and gradients of one output over columns that lie in memory one after the other. Included by kernels.cpp only.
#pragma once
#include <cmath>

#include "vector.hpp"
#include "views.hpp"

namespace gdfast::GDFAST_ISA {

template <class T>
void margins_columns_1(const DenseColumns<T>& X, Index first, Index m, const T* w, T* z) {
    constexpr int W = native_lanes<T>, R = 4;
    Index i = 0;
    for (; i + R * W <= m; i += R * W) {
        Vector<T, W> sums[R];
        for (int s = 0; s < R; ++s) sums[s] = zero<W, T>() + w[X.d];
        for (Index j = 0; j < X.d; ++j)
            for (int s = 0; s < R; ++s) sums[s] += w[j] * load<W>(X.columns[j] + first + i + s * W);
        for (int s = 0; s < R; ++s) store<W>(z + i + s * W, sums[s]);
    }
    for (; i + W <= m; i += W) {
        Vector<T, W> sum = zero<W, T>() + w[X.d];
        for (Index j = 0; j < X.d; ++j) sum += w[j] * load<W>(X.columns[j] + first + i);
        store<W>(z + i, sum);
    }
    for (; i < m; ++i) {
        T sum = w[X.d];
        for (Index j = 0; j < X.d; ++j) sum = std::fma(w[j], X.columns[j][first + i], sum);
        z[i] = sum;
    }
}

template <int R, class T>
inline void accumulate_columns_block(const T* const* x, Index m, const T* r, T* g) {
    constexpr int W = native_lanes<T>;
    const Index whole = m / W * W;
    Vector<T, W> sums[R];
    for (int s = 0; s < R; ++s) sums[s] = zero<W, T>();
    for (Index i = 0; i < whole; i += W) {
        const Vector<T, W> residuals = load<W>(r + i);
        for (int s = 0; s < R; ++s) sums[s] += load<W>(x[s] + i) * residuals;
    }
    for (int s = 0; s < R; ++s) {
        T sum = sum_of_lanes<W, T>(sums[s]);
        for (Index i = whole; i < m; ++i) sum += x[s][i] * r[i];
        g[s] += sum;
    }
}

template <class T>
void accumulate_columns_1(const DenseColumns<T>& X, Index first, Index m, const T* r, T* g) {
    constexpr int R = 8;
    Index j = 0;
    for (; j + R <= X.d; j += R) {
        const T* x[R];
        for (int s = 0; s < R; ++s) x[s] = X.columns[j + s] + first;
        accumulate_columns_block<R>(x, m, r, g + j);
    }
    for (; j < X.d; ++j) {
        const T* x = X.columns[j] + first;
        accumulate_columns_block<1>(&x, m, r, g + j);
    }
}

}  // namespace gdfast::GDFAST_ISA
