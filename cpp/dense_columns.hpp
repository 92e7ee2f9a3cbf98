// Margins and gradients of one output over columns that lie in memory one after the other. Included by kernels.cpp only.
//
// A tile is read twice, a few columns at a time, and each reading asks for half of the columns of the next tile, line by line:
// memory never rests, and no column is too short for the prefetcher of the processor to find.
#pragma once
#include <cmath>

#include "ahead.hpp"
#include "vector.hpp"
#include "views.hpp"

namespace gdfast::GDFAST_ISA {

// The rows `first` ... `first` + m - 1 of R columns from j on, and the rows behind them of R / 2 columns from `asked` on.
template <int R, class T>
class ColumnBlock {
public:
    static constexpr int W = native_lanes<T>;
    ColumnBlock(const DenseColumns<T>& X, Index first, Index m, Index j, Index asked) {
        for (int s = 0; s < R; ++s) x_[s] = X.columns[j + s] + first;
        for (int s = 0; s < R / 2; ++s) next_[s] = reinterpret_cast<std::uintptr_t>(X.columns[asked + s] + first + m);
    }
    const T* operator[](int s) const { return x_[s]; }
    void ask(Index i) const {
        constexpr Index line = 64 / Index(sizeof(T));
        if (W < line && i % line != 0) return;
        for (int s = 0; s < R / 2; ++s) ask_for(next_[s] + std::uintptr_t(i) * sizeof(T));
    }

private:
    const T* x_[R];
    std::uintptr_t next_[R / 2 + 1];
};

// z += X w over R columns, one after the other: a row has the same bits wherever it lies in a tile.
template <int R, class T>
inline void margins_of_columns(const ColumnBlock<R, T>& x, Index m, const T* w, T* z) {
    constexpr int W = native_lanes<T>;
    Index i = 0;
    for (; i + W <= m; i += W) {
        x.ask(i);
        Vector<T, W> sum = load<W>(z + i);
        for (int s = 0; s < R; ++s) sum += w[s] * load<W>(x[s] + i);
        store<W>(z + i, sum);
    }
    for (; i < m; ++i)
        for (int s = 0; s < R; ++s) z[i] = std::fma(w[s], x[s][i], z[i]);
}

// g += X' r over R columns
template <int R, class T>
inline void accumulate_columns_of(const ColumnBlock<R, T>& x, Index m, const T* r, T* g) {
    constexpr int W = native_lanes<T>;
    const Index whole = m / W * W;
    Vector<T, W> sums[R];
    for (int s = 0; s < R; ++s) sums[s] = zero<W, T>();
    for (Index i = 0; i < whole; i += W) {
        x.ask(i);
        const Vector<T, W> residuals = load<W>(r + i);
        for (int s = 0; s < R; ++s) sums[s] += load<W>(x[s] + i) * residuals;
    }
    for (int s = 0; s < R; ++s) {
        T sum = sum_of_lanes<W, T>(sums[s]);
        for (Index i = whole; i < m; ++i) sum += x[s][i] * r[i];
        g[s] += sum;
    }
}

// work(block, j) for all columns, a few at a time; asks for those from `asked` on.
template <class T, class Work>
inline void by_columns(const DenseColumns<T>& X, Index first, Index m, Index asked, const Work& work) {
    Index j = 0;
    for (; j + 8 <= X.d; j += 8) work(ColumnBlock<8, T>(X, first, m, j, asked + j / 2), j);
    for (; j + 4 <= X.d; j += 4) work(ColumnBlock<4, T>(X, first, m, j, asked + j / 2), j);
    for (; j < X.d; ++j) work(ColumnBlock<1, T>(X, first, m, j, 0), j);
}

template <class T>
void margins_columns_1(const DenseColumns<T>& X, Index first, Index m, const T* w, T* z) {
    for (Index i = 0; i < m; ++i) z[i] = w[X.d];
    by_columns(X, first, m, 0, [&](const auto& block, Index j) { margins_of_columns(block, m, w + j, z); });
}

template <class T>
void accumulate_columns_1(const DenseColumns<T>& X, Index first, Index m, const T* r, T* g) {
    by_columns(X, first, m, X.d / 2, [&](const auto& block, Index j) { accumulate_columns_of(block, m, r, g + j); });
}

}  // namespace gdfast::GDFAST_ISA
