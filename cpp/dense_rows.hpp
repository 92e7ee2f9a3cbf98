// Margins and gradients of one output over rows that lie in memory one after the other. Included by kernels.cpp only.
//
// A shape of rows is two classes: Margins(X, rows, w)(i, m, z) and Gradient(X, rows, g)(i, m, r) work on m rows from i on;
// Gradient::finish() adds to g what registers still hold.
#pragma once
#include "elementary.hpp"
#include "vector.hpp"
#include "views.hpp"

namespace gdfast::GDFAST_ISA {

template <class T>
inline const T* row(const DenseRows<T>& X, const Selection& rows, Index i) {
    return X.x + rows[i] * X.stride;
}

// z[i] = products of row i, summed over lanes, + bias, for m rows: W rows at a time. One row after the other, and not several
// at once: the hardware reads ahead of one stream, not of many.
template <int W, class T, class Products>
inline void margins_of(Index m, T bias, T* z, const Products& products) {
    Index i = 0;
    for (; i + W <= m; i += W) {
        Vector<T, W> sums[W];
        for (int s = 0; s < W; ++s) sums[s] = products(i + s);
        store<W>(z + i, sums_of_rows<W, T>(sums) + bias);
    }
    for (; i < m; ++i) z[i] = sum_of_lanes<W, T>(products(i)) + bias;
}

// d <= V vectors of W lanes: the row is in registers, W rows are summed across lanes at once.
template <int W, int V, class T>
struct NarrowRows {
    static constexpr Index lines = (V * W * Index(sizeof(T)) + 63) / 64;  // of 64 bytes, a row

    class Margins {
    public:
        Margins(const DenseRows<T>& X, const Selection& rows, const T* w) : X_(X), rows_(rows), bias_(w[X.d]) {
            for (int v = 0; v < V - 1; ++v) weights_[v] = load<W>(w + v * W);
            weights_[V - 1] = load_tail<W>(w, X.d, int(X.d - (V - 1) * W));
        }
        template <class Each>
        void operator()(Index first, Index m, T* z, const Each& each) const {
            margins_of<W>(m, bias_, z, [&](Index i) {
                each(first + i);
                const T* x = row(X_, rows_, first + i);
                Vector<T, W> sum = load<W>(x + X_.d - W) * weights_[V - 1];
                for (int v = 0; v < V - 1; ++v) sum += load<W>(x + v * W) * weights_[v];
                return sum;
            });
        }

    private:
        const DenseRows<T> X_;
        const Selection rows_;
        const T bias_;
        Vector<T, W> weights_[V];
    };

    class Gradient {
    public:
        Gradient(const DenseRows<T>& X, const Selection& rows, T* g) : X_(X), rows_(rows), g_(g) {
            for (int u = 0; u < U; ++u)
                for (int v = 0; v < V; ++v) sums_[u][v] = zero<W, T>();
        }
        void operator()(Index first, Index m, const T* r) {
            Index i = 0;
            for (; i + U <= m; i += U)
                for (int u = 0; u < U; ++u) add(sums_[u], first + i + u, r[i + u]);
            for (; i < m; ++i) add(sums_[0], first + i, r[i]);
        }
        void finish() {
            const Index d = X_.d;
            for (int u = 1; u < U; ++u)
                for (int v = 0; v < V; ++v) sums_[0][v] += sums_[u][v];
            for (int v = 0; v < V - 1; ++v) store<W>(g_ + v * W, load<W>(g_ + v * W) + sums_[0][v]);
            const Vector<T, W> mask = tail_mask<W, T>(int(d - (V - 1) * W));
            store<W>(g_ + d - W, load<W>(g_ + d - W) + mask * sums_[0][V - 1]);
        }

    private:
        static constexpr int U = V <= 2 ? 4 : 2;  // independent sums, to hide the latency of the additions
        void add(Vector<T, W>* sum, Index i, T r) const {
            const T* x = row(X_, rows_, i);
            for (int v = 0; v < V - 1; ++v) sum[v] += r * load<W>(x + v * W);
            sum[V - 1] += r * load<W>(x + X_.d - W);
        }
        const DenseRows<T> X_;
        const Selection rows_;
        T* const g_;
        Vector<T, W> sums_[U][V];
    };
};

// Rows of any length.
template <class T>
struct WideRows {
    static constexpr int W = native_lanes<T>;
    static constexpr Index lines = 4;

    class Margins {
    public:
        Margins(const DenseRows<T>& X, const Selection& rows, const T* w)
            : X_(X), rows_(rows), w_(w), whole_(X.d / W * W), tail_(load_tail<W>(w, X.d, int(X.d - whole_))) {}
        template <class Each>
        void operator()(Index first, Index m, T* z, const Each& each) const {
            const Index d = X_.d;
            margins_of<W>(m, w_[d], z, [&](Index i) {
                each(first + i);
                const T* x = row(X_, rows_, first + i);
                Vector<T, W> sum = zero<W, T>();
                for (Index j = 0; j < whole_; j += W) sum += load<W>(x + j) * load<W>(w_ + j);
                if (whole_ < d) sum += load<W>(x + d - W) * tail_;
                return sum;
            });
        }

    private:
        const DenseRows<T> X_;
        const Selection rows_;
        const T* const w_;
        const Index whole_;
        const Vector<T, W> tail_;
    };

    class Gradient {
    public:
        Gradient(const DenseRows<T>& X, const Selection& rows, T* g)
            : X_(X), rows_(rows), g_(g), mask_(tail_mask<W, T>(int(X.d % W))) {}
        void operator()(Index first, Index m, const T* r) {
            constexpr int R = 8;
            Index i = 0;
            for (; i + R <= m; i += R) add<R>(first + i, r + i);
            for (; i < m; ++i) add<1>(first + i, r + i);
        }
        void finish() {}

    private:
        template <int R>
        void add(Index first, const T* r) {
            const Index d = X_.d, whole = d / W * W;
            const T* x[R];
            for (int s = 0; s < R; ++s) x[s] = row(X_, rows_, first + s);
            for (Index j = 0; j < whole; j += W) {
                Vector<T, W> sum = load<W>(g_ + j);
                for (int s = 0; s < R; ++s) sum += r[s] * load<W>(x[s] + j);
                store<W>(g_ + j, sum);
            }
            if (whole == d) return;
            Vector<T, W> sum = zero<W, T>();
            for (int s = 0; s < R; ++s) sum += r[s] * load<W>(x[s] + d - W);
            store<W>(g_ + d - W, load<W>(g_ + d - W) + mask_ * sum);
        }
        const DenseRows<T> X_;
        const Selection rows_;
        T* const g_;
        const Vector<T, W> mask_;
    };
};

// Rows too short for any register.
template <class T>
struct TinyRows {
    static constexpr Index lines = 1;

    class Margins {
    public:
        Margins(const DenseRows<T>& X, const Selection& rows, const T* w) : X_(X), rows_(rows), w_(w) {}
        template <class Each>
        void operator()(Index first, Index m, T* z, const Each& each) const {
            for (Index i = 0; i < m; ++i) {
                each(first + i);
                const T* x = row(X_, rows_, first + i);
                T sum = 0;
                for (Index j = 0; j < X_.d; ++j) sum += x[j] * w_[j];
                z[i] = sum + w_[X_.d];
            }
        }

    private:
        const DenseRows<T> X_;
        const Selection rows_;
        const T* const w_;
    };

    class Gradient {
    public:
        Gradient(const DenseRows<T>& X, const Selection& rows, T* g) : X_(X), rows_(rows), g_(g) {}
        void operator()(Index first, Index m, const T* r) {
            for (Index i = 0; i < m; ++i) {
                const T* x = row(X_, rows_, first + i);
                for (Index j = 0; j < X_.d; ++j) g_[j] += r[i] * x[j];
            }
        }
        void finish() {}

    private:
        const DenseRows<T> X_;
        const Selection rows_;
        T* const g_;
    };
};

// call(shape) with the shape for rows of d numbers: the widest register that a row fills.
template <class T, int W = native_lanes<T>, class Call>
inline auto by_width(Index d, const Call& call) {
    if constexpr (W >= 4) {
        if (d < W) return by_width<T, W / 2>(d, call);
        switch ((d + W - 1) / W) {
            case 1:
                return call(NarrowRows<W, 1, T>{});
            case 2:
                return call(NarrowRows<W, 2, T>{});
            case 3:
                return call(NarrowRows<W, 3, T>{});
            case 4:
                return call(NarrowRows<W, 4, T>{});
            default:
                return call(WideRows<T>{});
        }
    } else {
        return d < native_lanes<T> ? call(TinyRows<T>{}) : call(WideRows<T>{});
    }
}

}  // namespace gdfast::GDFAST_ISA
