// Margins and gradients of one output over rows that lie in memory one after the other. Included by kernels.cpp only.
//
// A shape of rows is two classes: Margins(X, rows, w)(i, m, z, ahead) and Gradient(X, rows, g)(i, m, r, ahead) work on m rows
// from i on and tell `ahead` what they have read; Gradient::finish() adds to g what registers still hold.
#pragma once
#include "ahead.hpp"
#include "elementary.hpp"
#include "vector.hpp"
#include "views.hpp"

namespace gdfast::GDFAST_ISA {

// z[i] = products of row i, summed over lanes, + bias, for m rows: W rows at a time, one after the other.
template <int W, class T, class Products, class Next>
inline void margins_of(Index m, T bias, T* z, const Products& products, Next& ahead) {
    Index i = 0;
    for (; i + W <= m; i += W) {
        Vector<T, W> sums[W];
        ahead.rows(W);
        for (int s = 0; s < W; ++s) sums[s] = products(i + s);
        store<W>(z + i, sums_of_rows<W, T>(sums) + bias);
    }
    for (; i < m; ++i) z[i] = sum_of_lanes<W, T>(products(i)) + bias;
}

// d <= V vectors of W lanes: the row is in registers, W rows are summed across lanes at once.
template <int W, int V, class T>
struct NarrowRows {
    class Margins {
    public:
        Margins(const DenseRows<T>& X, const Selection& rows, const T* w) : X_(X), rows_(rows), bias_(w[X.d]) {
            for (int v = 0; v < V - 1; ++v) weights_[v] = load<W>(w + v * W);
            weights_[V - 1] = load_tail<W>(w, X.d, int(X.d - (V - 1) * W));
        }
        template <class Next>
        void operator()(Index first, Index m, T* z, Next& ahead) const {
            const auto products = [&](Index i) {
                const T* x = row(X_, rows_, first + i);
                Vector<T, W> sum = load<W>(x + X_.d - W) * weights_[V - 1];
                for (int v = 0; v < V - 1; ++v) sum += load<W>(x + v * W) * weights_[v];
                return sum;
            };
            margins_of<W>(m, bias_, z, products, ahead);
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
        template <class Next>
        void operator()(Index first, Index m, const T* r, Next& ahead) {
            constexpr int block = 16;
            Index i = 0;
            for (; i + block <= m; i += block) {
                ahead.rows(block);
                for (int s = 0; s < block; ++s) add(sums_[s % U], first + i + s, r[i + s]);
            }
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
    class Margins {
    public:
        Margins(const DenseRows<T>& X, const Selection& rows, const T* w)
            : X_(X), rows_(rows), w_(w), whole_(X.d / W * W), tail_(load_tail<W>(w, X.d, int(X.d - whole_))) {}
        template <class Next>
        void operator()(Index first, Index m, T* z, Next& ahead) const {
            NothingAhead asked;  // by products
            const auto products = [&](Index i) { return this->products(row(X_, rows_, first + i), ahead); };
            margins_of<W>(m, w_[X_.d], z, products, asked);
        }

    private:
        template <class Next>
        Vector<T, W> products(const T* x, Next& ahead) const {
            constexpr int block = 8;
            Vector<T, W> sum = zero<W, T>(), other = zero<W, T>();
            Index j = 0;
            for (; j + block * W <= whole_; j += block * W) {
                ahead.lines(block * register_bytes / 128);
                for (int v = 0; v < block; v += 2) {
                    sum += load<W>(x + j + v * W) * load<W>(w_ + j + v * W);
                    other += load<W>(x + j + (v + 1) * W) * load<W>(w_ + j + (v + 1) * W);
                }
            }
            ahead.rows(1);
            for (; j < whole_; j += W) sum += load<W>(x + j) * load<W>(w_ + j);
            if (whole_ < X_.d) other += load<W>(x + X_.d - W) * tail_;
            return sum + other;
        }
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
        template <class Next>
        void operator()(Index first, Index m, const T* r, Next& ahead) {
            constexpr int R = 8;
            Index i = 0;
            for (; i + R <= m; i += R) add<R>(first + i, r + i, ahead);
            for (; i < m; ++i) add<1>(first + i, r + i, ahead);
        }
        void finish() {}

    private:
        template <int R, class Next>
        void add(Index first, const T* r, Next& ahead) {
            const Index d = X_.d, whole = d / W * W;
            const T* x[R];
            for (int s = 0; s < R; ++s) x[s] = row(X_, rows_, first + s);
            for (Index j = 0; j < whole; j += W) {
                ahead.lines(R * register_bytes / 128);
                Vector<T, W> sum = load<W>(g_ + j);
                for (int s = 0; s < R; ++s) sum += r[s] * load<W>(x[s] + j);
                store<W>(g_ + j, sum);
            }
            ahead.rows(R);
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
    class Margins {
    public:
        Margins(const DenseRows<T>& X, const Selection& rows, const T* w) : X_(X), rows_(rows), w_(w) {}
        template <class Next>
        void operator()(Index first, Index m, T* z, Next&) const {
            for (Index i = 0; i < m; ++i) {
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
        template <class Next>
        void operator()(Index first, Index m, const T* r, Next&) {
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
