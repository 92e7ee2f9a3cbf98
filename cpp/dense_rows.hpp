// Margins and gradients of one output over rows that lie in memory one after the other. Included by kernels.cpp only.
#pragma once
#include "vector.hpp"
#include "views.hpp"

namespace gdfast::GDFAST_ISA {

template <class T>
inline const T* row(const DenseRows<T>& X, const Selection& rows, Index i) {
    return X.x + rows[i] * X.stride;
}

// d <= V vectors of W lanes: the row is in registers, W rows are summed across lanes at once.
template <int W, int V, class T>
void margins_narrow(const DenseRows<T>& X, const Selection& rows, Index m, const T* w, T* z) {
    const Index d = X.d;
    const int rest = int(d - (V - 1) * W);
    Vector<T, W> weights[V];
    for (int v = 0; v < V - 1; ++v) weights[v] = load<W>(w + v * W);
    weights[V - 1] = load_tail<W>(w, d, rest);
    const T bias = w[d];
    const auto products = [&](const T* x) {
        Vector<T, W> sum = load<W>(x + d - W) * weights[V - 1];
        for (int v = 0; v < V - 1; ++v) sum += load<W>(x + v * W) * weights[v];
        return sum;
    };
    Index i = 0;
    for (; i + W <= m; i += W) {
        Vector<T, W> sums[W];
        for (int s = 0; s < W; ++s) sums[s] = products(row(X, rows, i + s));
        store<W>(z + i, sums_of_rows<W, T>(sums) + bias);
    }
    for (; i < m; ++i) z[i] = sum_of_lanes<W, T>(products(row(X, rows, i))) + bias;
}

template <int W, int V, class T>
void accumulate_narrow(const DenseRows<T>& X, const Selection& rows, Index m, const T* r, T* g) {
    constexpr int U = V <= 2 ? 4 : 2;  // independent sums, to hide the latency of the additions
    const Index d = X.d;
    const int rest = int(d - (V - 1) * W);
    Vector<T, W> sums[U][V];
    for (int u = 0; u < U; ++u)
        for (int v = 0; v < V; ++v) sums[u][v] = zero<W, T>();
    const auto add = [&](Vector<T, W>* sum, Index i) {
        const T* x = row(X, rows, i);
        for (int v = 0; v < V - 1; ++v) sum[v] += r[i] * load<W>(x + v * W);
        sum[V - 1] += r[i] * load<W>(x + d - W);
    };
    Index i = 0;
    for (; i + U <= m; i += U)
        for (int u = 0; u < U; ++u) add(sums[u], i + u);
    for (; i < m; ++i) add(sums[0], i);
    for (int u = 1; u < U; ++u)
        for (int v = 0; v < V; ++v) sums[0][v] += sums[u][v];
    for (int v = 0; v < V - 1; ++v) store<W>(g + v * W, load<W>(g + v * W) + sums[0][v]);
    store<W>(g + d - W, load<W>(g + d - W) + tail_mask<W, T>(rest) * sums[0][V - 1]);
}

// Rows of any length. One row after the other, and not several at once: the hardware reads ahead of one stream, not of many.
template <class T>
void margins_wide(const DenseRows<T>& X, const Selection& rows, Index m, const T* w, T* z) {
    constexpr int W = native_lanes<T>;
    const Index d = X.d, whole = d / W * W;
    const Vector<T, W> tail = load_tail<W>(w, d, int(d - whole));
    const auto products = [&](const T* x) {
        Vector<T, W> sum = zero<W, T>();
        for (Index j = 0; j < whole; j += W) sum += load<W>(x + j) * load<W>(w + j);
        if (whole < d) sum += load<W>(x + d - W) * tail;
        return sum;
    };
    Index i = 0;
    for (; i + W <= m; i += W) {
        Vector<T, W> sums[W];
        for (int s = 0; s < W; ++s) sums[s] = products(row(X, rows, i + s));
        store<W>(z + i, sums_of_rows<W, T>(sums) + w[d]);
    }
    for (; i < m; ++i) z[i] = sum_of_lanes<W, T>(products(row(X, rows, i))) + w[d];
}

template <int R, class T>
inline void accumulate_wide_block(const T* const* x, Index d, const T* r, T* g, Vector<T, native_lanes<T>> mask) {
    constexpr int W = native_lanes<T>;
    const Index whole = d / W * W;
    for (Index j = 0; j < whole; j += W) {
        Vector<T, W> sum = load<W>(g + j);
        for (int s = 0; s < R; ++s) sum += r[s] * load<W>(x[s] + j);
        store<W>(g + j, sum);
    }
    if (whole < d) {
        Vector<T, W> sum = zero<W, T>();
        for (int s = 0; s < R; ++s) sum += r[s] * load<W>(x[s] + d - W);
        store<W>(g + d - W, load<W>(g + d - W) + mask * sum);
    }
}

template <class T>
void accumulate_wide(const DenseRows<T>& X, const Selection& rows, Index m, const T* r, T* g) {
    constexpr int R = 8, W = native_lanes<T>;
    const Vector<T, W> mask = tail_mask<W, T>(int(X.d % W));
    Index i = 0;
    for (; i + R <= m; i += R) {
        const T* x[R];
        for (int s = 0; s < R; ++s) x[s] = row(X, rows, i + s);
        accumulate_wide_block<R, T>(x, X.d, r + i, g, mask);
    }
    for (; i < m; ++i) {
        const T* x = row(X, rows, i);
        accumulate_wide_block<1, T>(&x, X.d, r + i, g, mask);
    }
}

// Rows too short for any register.
template <class T>
void margins_tiny(const DenseRows<T>& X, const Selection& rows, Index m, const T* w, T* z) {
    for (Index i = 0; i < m; ++i) {
        const T* x = row(X, rows, i);
        T sum = 0;
        for (Index j = 0; j < X.d; ++j) sum += x[j] * w[j];
        z[i] = sum + w[X.d];
    }
}

template <class T>
void accumulate_tiny(const DenseRows<T>& X, const Selection& rows, Index m, const T* r, T* g) {
    for (Index i = 0; i < m; ++i) {
        const T* x = row(X, rows, i);
        for (Index j = 0; j < X.d; ++j) g[j] += r[i] * x[j];
    }
}

// Calls narrow<W, V> with the widest register that a row fills, or says that there is none.
template <class T, template <int, int, class> class Call, int W = native_lanes<T>, class... Arguments>
inline bool dispatch_narrow(Index d, Arguments&&... arguments) {
    if constexpr (W >= 4) {
        if (d >= W) {
            switch ((d + W - 1) / W) {
                case 1:
                    Call<W, 1, T>::call(arguments...);
                    return true;
                case 2:
                    Call<W, 2, T>::call(arguments...);
                    return true;
                case 3:
                    Call<W, 3, T>::call(arguments...);
                    return true;
                case 4:
                    Call<W, 4, T>::call(arguments...);
                    return true;
                default:
                    return false;
            }
        }
        return dispatch_narrow<T, Call, W / 2>(d, arguments...);
    } else {
        return false;
    }
}
template <int W, int V, class T>
struct MarginsNarrow {
    static void call(const DenseRows<T>& X, const Selection& rows, Index m, const T* w, T* z) {
        margins_narrow<W, V>(X, rows, m, w, z);
    }
};
template <int W, int V, class T>
struct AccumulateNarrow {
    static void call(const DenseRows<T>& X, const Selection& rows, Index m, const T* r, T* g) {
        accumulate_narrow<W, V>(X, rows, m, r, g);
    }
};

}  // namespace gdfast::GDFAST_ISA
