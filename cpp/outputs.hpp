// Margins and gradients of many outputs, over any layout of X. Included by kernels.cpp only.
#pragma once
#include "dense_rows.hpp"
#include "vector.hpp"
#include "views.hpp"

namespace gdfast::GDFAST_ISA {

// R rows of z, C registers of W outputs, from output `o` on. at(s, j) is x of the s-th row, column j.
template <int R, int C, int W, class T, class At>
inline void margins_block(const At& at, Index d, const T* w, Index lanes, T* z) {
    Vector<T, W> sums[R][C];
    for (int s = 0; s < R; ++s)
        for (int c = 0; c < C; ++c) sums[s][c] = load<W>(w + d * lanes + c * W);
    for (Index j = 0; j < d; ++j) {
        Vector<T, W> weights[C];
        for (int c = 0; c < C; ++c) weights[c] = load<W>(w + j * lanes + c * W);
        for (int s = 0; s < R; ++s) {
            const T x = at(s, j);
            for (int c = 0; c < C; ++c) sums[s][c] += x * weights[c];
        }
    }
    for (int s = 0; s < R; ++s)
        for (int c = 0; c < C; ++c) store<W>(z + s * lanes + c * W, sums[s][c]);
}

// R columns of X against all m rows. at(i, s) is x of row i, the s-th column.
template <int R, int C, int W, class T, class At>
inline void accumulate_block(const At& at, Index m, const T* r, Index lanes, T* g) {
    Vector<T, W> sums[R][C];
    for (int s = 0; s < R; ++s)
        for (int c = 0; c < C; ++c) sums[s][c] = load<W>(g + s * lanes + c * W);
    for (Index i = 0; i < m; ++i) {
        Vector<T, W> residuals[C];
        for (int c = 0; c < C; ++c) residuals[c] = load<W>(r + i * lanes + c * W);
        for (int s = 0; s < R; ++s) {
            const T x = at(i, s);
            for (int c = 0; c < C; ++c) sums[s][c] += x * residuals[c];
        }
    }
    for (int s = 0; s < R; ++s)
        for (int c = 0; c < C; ++c) store<W>(g + s * lanes + c * W, sums[s][c]);
}

// The layouts of X as the blocks above see them.
template <class T>
struct AtRows {
    DenseRows<T> X;
    Selection rows;
    template <int R>
    auto rows_from(Index i) const {
        struct Block {
            const T* x[R];
            T operator()(int s, Index j) const { return x[s][j]; }
        } block;
        for (int s = 0; s < R; ++s) block.x[s] = row(X, rows, i + s);
        return block;
    }
    auto columns_from(Index j) const {
        return [this, j](Index i, int s) { return row(X, rows, i)[j + s]; };
    }
};
template <class T>
struct AtColumns {
    DenseColumns<T> X;
    Index first;
    template <int R>
    auto rows_from(Index i) const {
        return [this, i](int s, Index j) { return X.columns[j][first + i + s]; };
    }
    auto columns_from(Index j) const {
        return [this, j](Index i, int s) { return X.columns[j + s][first + i]; };
    }
};

template <int C, int W, class T, class Layout>
inline void margins_outputs(const Layout& X, Index d, Index m, const T* w, Index lanes, T* z) {
    constexpr int R = 8 / C;
    Index i = 0;
    for (; i + R <= m; i += R) margins_block<R, C, W>(X.template rows_from<R>(i), d, w, lanes, z + i * lanes);
    for (; i < m; ++i) margins_block<1, C, W>(X.template rows_from<1>(i), d, w, lanes, z + i * lanes);
}

template <int C, int W, class T, class Layout>
inline void accumulate_outputs(const Layout& X, Index d, Index m, const T* r, Index lanes, T* g) {
    constexpr int R = 8 / C;
    Index j = 0;
    for (; j + R <= d; j += R) accumulate_block<R, C, W>(X.columns_from(j), m, r, lanes, g + j * lanes);
    for (; j < d; ++j) accumulate_block<1, C, W>(X.columns_from(j), m, r, lanes, g + j * lanes);
}

// Runs `call` over the outputs in steps that fill registers: lanes is 4, 8 or a multiple of 16.
template <class T, class Call>
inline void over_outputs(Index lanes, const Call& call) {
    constexpr int W = native_lanes<T>;
    constexpr int W4 = W < 4 ? W : 4, W8 = W < 8 ? W : 8, W16 = W < 16 ? W : 16;
    if (lanes == 4) return call(std::integral_constant<int, 4 / W4>{}, std::integral_constant<int, W4>{}, Index(0));
    if (lanes == 8) return call(std::integral_constant<int, 8 / W8>{}, std::integral_constant<int, W8>{}, Index(0));
    for (Index o = 0; o < lanes; o += 16) call(std::integral_constant<int, 16 / W16>{}, std::integral_constant<int, W16>{}, o);
}

template <class T, class Layout>
void margins_many(const Layout& X, Index d, Index m, const T* w, Index lanes, T* z) {
    over_outputs<T>(lanes, [&](auto c, auto width, Index o) {
        margins_outputs<decltype(c)::value, decltype(width)::value>(X, d, m, w + o, lanes, z + o);
    });
}

template <class T, class Layout>
void accumulate_many(const Layout& X, Index d, Index m, const T* r, Index lanes, T* g) {
    over_outputs<T>(lanes, [&](auto c, auto width, Index o) {
        accumulate_outputs<decltype(c)::value, decltype(width)::value>(X, d, m, r + o, lanes, g + o);
    });
}

}  // namespace gdfast::GDFAST_ISA
