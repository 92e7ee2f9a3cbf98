// Margins and gradients of many outputs, over any layout of X. Included by kernels.cpp only.
#pragma once
#include "dense_rows.hpp"
#include "elementary.hpp"
#include "vector.hpp"
#include "views.hpp"

namespace gdfast::GDFAST_ISA {

// C registers of W outputs reach over the end of a row of lanes where these are no multiple of W: loads read on (the memory
// behind the last row must be readable for W numbers, and what is there does not matter), stores keep to `count` outputs.
template <int W, class T>
inline void store_first(T* p, const T* values, Index count) {
    if constexpr (W > 1) {
        if (count & (W / 2)) {
            store<W / 2>(p, load<W / 2>(values));
            p += W / 2, values += W / 2;
        }
        store_first<W / 2>(p, values, count);
    }
}
template <int C, int W, class T>
inline void store_outputs(T* p, const Vector<T, W>* v, Index count) {
    for (int c = 0; c < C; ++c, p += W, count -= W) {
        if (count >= W) {
            store<W>(p, v[c]);
        } else {
            T values[W];
            store<W>(values, v[c]);
            store_first<W>(p, values, count);
        }
    }
}

// R rows of z, C registers of W outputs, `count` of these. at(s, j) is x of the s-th row, column j.
template <int R, int C, int W, class T, class At>
inline void margins_block(const At& at, Index d, const T* w, Index lanes, Index count, T* z) {
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
    for (int s = 0; s < R; ++s) store_outputs<C, W>(z + s * lanes, sums[s], count);
}

// R columns of X against all m rows. at(i, s) is x of row i, the s-th column.
template <int R, int C, int W, class T, class At>
inline void accumulate_block(const At& at, Index m, const T* r, Index lanes, Index count, T* g) {
    Vector<T, W> sums[R][C];
    for (int s = 0; s < R; ++s)
        for (int c = 0; c < C; ++c) sums[s][c] = zero<W, T>();
    for (Index i = 0; i < m; ++i) {
        Vector<T, W> residuals[C];
        for (int c = 0; c < C; ++c) residuals[c] = load<W>(r + i * lanes + c * W);
        for (int s = 0; s < R; ++s) {
            const T x = at(i, s);
            for (int c = 0; c < C; ++c) sums[s][c] += x * residuals[c];
        }
    }
    for (int s = 0; s < R; ++s) {
        for (int c = 0; c < C; ++c) sums[s][c] += load<W>(g + s * lanes + c * W);
        store_outputs<C, W>(g + s * lanes, sums[s], count);
    }
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
    // Rows that lie anywhere: with many outputs the processor does not get to them by itself while it works on those before.
    void prefetch([[maybe_unused]] Index i, [[maybe_unused]] int count) const {
#ifdef __GNUC__
        constexpr Index line = 64 / sizeof(T), most = 64 * line;
        for (int s = 0; rows.index && s < count; ++s)
            for (Index j = 0; j < min(X.d, most); j += line) __builtin_prefetch(row(X, rows, i + s) + j, 0, 2);
#endif
    }
    auto columns_from(Index j) const {
        return [this, j](Index i, int s) { return row(X, rows, i)[j + s]; };
    }
};
template <class T>
struct AtColumns {
    DenseColumns<T> X;
    Index first;
    void prefetch(Index, int) const {}
    template <int R>
    auto rows_from(Index i) const {
        return [this, i](int s, Index j) { return X.columns[j][first + i + s]; };
    }
    auto columns_from(Index j) const {
        return [this, j](Index i, int s) { return X.columns[j + s][first + i]; };
    }
};

#if defined(__AVX512F__) || defined(__aarch64__)
inline constexpr int registers = 32;
#else
inline constexpr int registers = 16;
#endif
// Rows of a block of margins, and columns of a block of gradients: as many as the registers hold. A row has a pointer of its
// own, a column has not.
template <int C>
inline constexpr int block_rows = registers == 32 ? 8 : 8 / C;
template <int C>
inline constexpr int block_columns = registers == 32 ? (C == 1 ? 16 : 12) : 8 / C;

template <int C, int W, class T, class Layout>
inline void margins_outputs(const Layout& X, Index d, Index m, const T* w, Index lanes, Index count, T* z) {
    constexpr int R = block_rows<C>;
    Index i = 0;
    for (; i + R <= m; i += R) {
        if (i + 2 * R <= m) X.prefetch(i + R, R);
        margins_block<R, C, W>(X.template rows_from<R>(i), d, w, lanes, count, z + i * lanes);
    }
    for (; i < m; ++i) margins_block<1, C, W>(X.template rows_from<1>(i), d, w, lanes, count, z + i * lanes);
}

template <int C, int W, class T, class Layout>
inline void accumulate_outputs(const Layout& X, Index d, Index m, const T* r, Index lanes, Index count, T* g) {
    constexpr int R = block_columns<C>;
    Index j = 0;
    for (; j + R <= d; j += R) accumulate_block<R, C, W>(X.columns_from(j), m, r, lanes, count, g + j * lanes);
    for (; j + 4 <= d; j += 4) accumulate_block<4, C, W>(X.columns_from(j), m, r, lanes, count, g + j * lanes);
    for (; j < d; ++j) accumulate_block<1, C, W>(X.columns_from(j), m, r, lanes, count, g + j * lanes);
}

// a[0] b[0] a[1] b[1] ... of the first halves of two vectors, `Step` numbers at a time, or of the second halves
template <int Step, bool second, int W, class T, int... I>
inline Vector<T, W> interleave(Vector<T, W> a, Vector<T, W> b, std::integer_sequence<int, I...>) {
    constexpr int start = second ? W / 2 : 0;
#ifdef GDFAST_VECTORS
    return __builtin_shufflevector(a, b, (start + I / (2 * Step) * Step + I % Step + (I / Step % 2 ? W : 0))...);
#else
    Vector<T, W> v;
    ((v[I] = (I / Step % 2 ? b : a)[start + I / (2 * Step) * Step + I % Step]), ...);
    return v;
#endif
}

// g[j lanes + o] += v[o][j] for outputs o < 2 or 4 = Q and columns from <= j < W
template <int Q, int W, class T>
inline void add_transposed(const Vector<T, W>* v, Index from, Index lanes, T* g) {
    constexpr auto every = std::make_integer_sequence<int, W>{};
    T columns[Q * W];
    const Vector<T, W> first = interleave<1, false, W, T>(v[0], v[1], every);
    const Vector<T, W> second = interleave<1, true, W, T>(v[0], v[1], every);
    if constexpr (Q == 2) {
        store<W>(columns, first);
        store<W>(columns + W, second);
    } else {
        const Vector<T, W> third = interleave<1, false, W, T>(v[2], v[3], every);
        const Vector<T, W> fourth = interleave<1, true, W, T>(v[2], v[3], every);
        store<W>(columns, interleave<2, false, W, T>(first, third, every));
        store<W>(columns + W, interleave<2, true, W, T>(first, third, every));
        store<W>(columns + 2 * W, interleave<2, false, W, T>(second, fourth, every));
        store<W>(columns + 3 * W, interleave<2, true, W, T>(second, fourth, every));
    }
    for (Index j = from; j < W; ++j) store<Q>(g + j * lanes, load<Q>(g + j * lanes) + load<Q>(columns + j * Q));
}

// C registers of W columns of X, from column j on, against O outputs of all m rows; columns below `from` are left out.
template <int C, int O, int W, class T>
inline void accumulate_across(const DenseRows<T>& X, const Selection& rows, Index m, Index j, Index from, const T* r,
                              Index lanes, T* g) {
    Vector<T, W> sums[C][O];
    for (int c = 0; c < C; ++c)
        for (int o = 0; o < O; ++o) sums[c][o] = zero<W, T>();
    for (Index i = 0; i < m; ++i) {
        const T *x = row(X, rows, i) + j, *residuals = r + i * lanes;
        Vector<T, W> columns[C];
        for (int c = 0; c < C; ++c) columns[c] = load<W>(x + c * W);
        for (int o = 0; o < O; ++o) {
            const T residual = residuals[o];
            for (int c = 0; c < C; ++c) sums[c][o] += residual * columns[c];
        }
    }
    for (int c = 0; c < C; ++c)
        for (int o = 0; o < O;) {
            const Index start = min(max(from - j - c * W, Index(0)), Index(W));
            T* const to = g + (j + c * W) * lanes + o;
            if (o + 4 <= O) {
                add_transposed<4, W>(sums[c] + o, start, lanes, to);
                o += 4;
            } else {
                add_transposed<2, W>(sums[c] + o, start, lanes, to);
                o += 2;
            }
        }
}

// The columns of X fill the registers instead of the outputs: no register is half empty, however few outputs there are. d >= W;
// the last columns overlap those before.
template <int O, int W, class T>
void accumulate_across_columns(const DenseRows<T>& X, const Selection& rows, Index m, const T* r, Index lanes, T* g) {
    constexpr int C = (registers - 4) / O >= 3 && O < 8 ? 3 : (registers - 4) / O >= 2 ? 2 : 1;
    Index j = 0;
    for (; j + C * W <= X.d; j += C * W) accumulate_across<C, O, W>(X, rows, m, j, j, r, lanes, g);
    for (; j + W <= X.d; j += W) accumulate_across<1, O, W>(X, rows, m, j, j, r, lanes, g);
    if (j < X.d) accumulate_across<1, O, W>(X, rows, m, X.d - W, j, r, lanes, g);
}

template <class T>
bool accumulate_across_columns(const DenseRows<T>& X, const Selection& rows, Index m, const T* r, Index lanes, T* g) {
    constexpr int W = native_lanes<T>;
    if constexpr (W < 4) {
        return false;
    } else {
        // products of either way, and what it costs to turn the sums
        const double here = double(lanes) * double((X.d + W - 1) / W) * 1.1, there = double((lanes + W - 1) / W) * double(X.d);
        if (X.d < W || here >= there) return false;
        constexpr Index most = registers == 32 ? 12 : 6;
        for (Index o = 0; o < lanes;) {
            const Index left = lanes - o, parts = (left + most - 1) / most, count = (left / 2 + parts - 1) / parts * 2;
            const T* const from = r + o;
            T* const to = g + o;
            if (count == 12) accumulate_across_columns<12, W>(X, rows, m, from, lanes, to);
            if (count == 10) accumulate_across_columns<10, W>(X, rows, m, from, lanes, to);
            if (count == 8) accumulate_across_columns<8, W>(X, rows, m, from, lanes, to);
            if (count == 6) accumulate_across_columns<6, W>(X, rows, m, from, lanes, to);
            if (count == 4) accumulate_across_columns<4, W>(X, rows, m, from, lanes, to);
            if (count == 2) accumulate_across_columns<2, W>(X, rows, m, from, lanes, to);
            o += count;
        }
        return true;
    }
}

// Runs `call` over the outputs in steps of one or two registers; the last one may hold fewer than it could.
template <class T, class Call>
inline void over_registers(Index lanes, const Call& call) {
    constexpr int W = native_lanes<T>, half = W / 2;
    if constexpr (half >= 2) {
        if (lanes <= half) return call(std::integral_constant<int, 1>{}, std::integral_constant<int, half>{}, Index(0));
    }
    for (Index o = 0; o < lanes; o += 2 * W)
        if (lanes - o > W)
            call(std::integral_constant<int, 2>{}, std::integral_constant<int, W>{}, o);
        else
            call(std::integral_constant<int, 1>{}, std::integral_constant<int, W>{}, o);
}

template <class T, class Layout>
void margins_many(const Layout& X, Index d, Index m, const T* w, Index lanes, T* z) {
    over_registers<T>(lanes, [&](auto c, auto width, Index o) {
        margins_outputs<decltype(c)::value, decltype(width)::value>(X, d, m, w + o, lanes, lanes - o, z + o);
    });
}

template <class T, class Layout>
void accumulate_many(const Layout& X, Index d, Index m, const T* r, Index lanes, T* g) {
    over_registers<T>(lanes, [&](auto c, auto width, Index o) {
        accumulate_outputs<decltype(c)::value, decltype(width)::value>(X, d, m, r + o, lanes, lanes - o, g + o);
    });
}

}  // namespace gdfast::GDFAST_ISA
