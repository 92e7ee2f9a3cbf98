// The kernels, compiled once per instruction set. No threads, no allocation, no standard containers, no exceptions, and
// everything in the namespace of its instruction set, so that no weak symbol can reach a machine without it.
#include "kernels.hpp"

#include <cmath>

#include "linear_algebra.hpp"
#include "losses.hpp"
#include "optimizers.hpp"
#include "order.hpp"
#include "vector.hpp"

namespace gdfast::GDFAST_ISA {

// ---------------------------------------------------------------------------------------------- one output, rows

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

// ------------------------------------------------------------------------------------------- one output, columns

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

// --------------------------------------------------------------------------------------- many outputs, any layout

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

// --------------------------------------------------------------------------------------------------- table entries

// the gradient of the intercepts: g += sum of the residuals
template <class T>
void accumulate_bias(const T* r, Index m, Index lanes, T* g) {
    if (lanes == 1) {
        T sum = 0;
#pragma omp simd reduction(+ : sum)
        for (Index i = 0; i < m; ++i) sum += r[i];
        *g += sum;
        return;
    }
    for (Index i = 0; i < m; ++i)
        for (Index o = 0; o < lanes; ++o) g[o] += r[i * lanes + o];
}

template <class T>
void margins_rows(DenseRows<T> X, Selection rows, Index m, const T* w, Index lanes, T* z) {
    if (lanes > 1) return margins_many<T>(AtRows<T>{X, rows}, X.d, m, w, lanes, z);
    if (dispatch_narrow<T, MarginsNarrow>(X.d, X, rows, m, w, z)) return;
    X.d < 4 && X.d < native_lanes<T> ? margins_tiny(X, rows, m, w, z) : margins_wide(X, rows, m, w, z);
}

template <class T>
void accumulate_rows(DenseRows<T> X, Selection rows, Index m, const T* r, Index lanes, T* g) {
    accumulate_bias(r, m, lanes, g + X.d * lanes);
    if (lanes > 1) return accumulate_many<T>(AtRows<T>{X, rows}, X.d, m, r, lanes, g);
    if (dispatch_narrow<T, AccumulateNarrow>(X.d, X, rows, m, r, g)) return;
    X.d < 4 && X.d < native_lanes<T> ? accumulate_tiny(X, rows, m, r, g) : accumulate_wide(X, rows, m, r, g);
}

template <class T>
void margins_columns(DenseColumns<T> X, Index first, Index m, const T* w, Index lanes, T* z) {
    if (lanes > 1) return margins_many<T>(AtColumns<T>{X, first}, X.d, m, w, lanes, z);
    margins_columns_1(X, first, m, w, z);
}

template <class T>
void accumulate_columns(DenseColumns<T> X, Index first, Index m, const T* r, Index lanes, T* g) {
    accumulate_bias(r, m, lanes, g + X.d * lanes);
    if (lanes > 1) return accumulate_many<T>(AtColumns<T>{X, first}, X.d, m, r, lanes, g);
    accumulate_columns_1(X, first, m, r, g);
}

template <class T>
void gram(const T* packed, Index stride, Index m, const T* h, T* scaled, T* H) {
    constexpr int W = native_lanes<T>, R = 4, C = 2;
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

template <class T>
void add(const T* a, Index n, double* sum) {
#pragma omp simd
    for (Index i = 0; i < n; ++i) sum[i] += double(a[i]);
}

template <class T>
double sum_of_squares(const T* a, Index n) {
    double sum = 0;
#pragma omp simd reduction(+ : sum)
    for (Index i = 0; i < n; ++i) sum += double(a[i]) * double(a[i]);
    return sum;
}

template <class T>
Index find_non_finite(const T* a, Index n) {
    using Int = typename Bits<T>::Int;
    const Int exponent = bit_cast<Int>(std::numeric_limits<T>::infinity());
    constexpr Index block = 4096;
    for (Index start = 0; start < n; start += block) {
        const Index end = min(start + block, n);
        Int bad = 0;
#pragma omp simd reduction(| : bad)
        for (Index i = start; i < end; ++i) bad |= (bit_cast<Int>(a[i]) & exponent) == exponent ? Int(1) : Int(0);
        if (!bad) continue;
        for (Index i = start; i < end; ++i)
            if ((bit_cast<Int>(a[i]) & exponent) == exponent) return i;
    }
    return -1;
}

// A loss that is `linear(z, y) + log(factor(z))`, 1 <= factor <= 2: one logarithm serves a product of many factors.
template <class Loss, class = void>
inline constexpr bool has_factor = false;
template <class Loss>
inline constexpr bool has_factor<Loss, std::void_t<decltype(&Loss::factor)>> = true;

template <class Loss, class T>
double residuals_by_product(const Loss& loss, T* z, const T* y, Index m) {
    constexpr Index block = sizeof(T) == 4 ? 96 : 960;  // 2^block is in range
    double total = 0;
    for (Index start = 0; start < m; start += block) {
        const Index end = min(start + block, m);
        T sum = 0, product = 1;
#pragma omp simd reduction(+ : sum) reduction(* : product)
        for (Index i = start; i < end; ++i) {
            sum += loss.linear(z[i], y[i]);
            product *= loss.factor(z[i]);
            z[i] = loss.gradient(z[i], y[i]);
        }
        total += double(sum) + double(log(product));
    }
    return total;
}

// The loops around the formulas. A row of weights is 1 where there are none.
template <template <class> class Loss, class T>
double residuals(const double* parameters, T* z, const T* y, const T* weight, Index m, Index k, Index lanes) {
    const Loss<T> loss(parameters);
    if constexpr (std::is_same_v<Loss<T>, Softmax<T>>) {
        double total = 0;
        for (Index i = 0; i < m; ++i) {
            const T scale = weight ? weight[i] : T(1);
            total += double(scale) * double(loss.gradient_row(z + i * lanes, y + i * lanes, k));
            for (Index o = 0; o < k; ++o) z[i * lanes + o] *= scale;
            for (Index o = k; o < lanes; ++o) z[i * lanes + o] = 0;
        }
        return total;
    } else {
        if constexpr (has_factor<Loss<T>>) {
            if (lanes == 1 && !weight) return residuals_by_product(loss, z, y, m);
        }
        const auto run = [&loss](T* z, const T* y, T scale, Index count) {
            T sum = 0;
#pragma omp simd reduction(+ : sum)
            for (Index i = 0; i < count; ++i) {
                sum += loss.value(z[i], y[i]);
                z[i] = scale * loss.gradient(z[i], y[i]);
            }
            return scale * sum;
        };
        if (lanes == 1 && !weight) return double(run(z, y, T(1), m));
        if (lanes == 1) {
            T sum = 0;
#pragma omp simd reduction(+ : sum)
            for (Index i = 0; i < m; ++i) {
                sum += weight[i] * loss.value(z[i], y[i]);
                z[i] = weight[i] * loss.gradient(z[i], y[i]);
            }
            return double(sum);
        }
        double total = 0;
        for (Index i = 0; i < m; ++i) {
            total += double(run(z + i * lanes, y + i * lanes, weight ? weight[i] : T(1), k));
            for (Index o = k; o < lanes; ++o) z[i * lanes + o] = 0;
        }
        return total;
    }
}

template <template <class> class Loss, class T>
void curvatures(const double* parameters, const T* z, const T* y, const T* weight, Index m, Index k, Index lanes, T* h) {
    const Loss<T> loss(parameters);
    for (Index i = 0; i < m; ++i) {
        const T scale = weight ? weight[i] : T(1);
        if constexpr (std::is_same_v<Loss<T>, Softmax<T>>) {
            T* row = h + i * lanes;
            for (Index o = 0; o < k; ++o) row[o] = z[i * lanes + o];
            loss.gradient_row(row, y + i * lanes, k);
            for (Index o = 0; o < k; ++o) row[o] = scale * loss.curvature(row[o], y[i * lanes + o]);
        } else {
            for (Index o = 0; o < k; ++o) h[i * lanes + o] = scale * loss.curvature(z[i * lanes + o], y[i * lanes + o]);
        }
        for (Index o = k; o < lanes; ++o) h[i * lanes + o] = 0;
    }
}

// g -> scale and clip -> + l2 w -> step -> soft threshold: one pass over w, g and the slots
template <template <class> class Optimizer, class T>
void update(const Step& step, T* w, const T* g, T* slots, Index n, Index n_penalized, Index first, Index last) {
    const Optimizer<T> optimizer(step.parameters, step.lr, step.t);
    const T scale = T(step.scale), lr = T(step.lr), limit = T(step.clip_value);
    T* const slot_0 = slots;
    T* const slot_1 = Optimizer<T>::n_slots > 1 ? slots + n : slots;
    const auto run = [&](Index from, Index to, T l2, T threshold) {
#pragma omp simd
        for (Index i = from; i < to; ++i) {
            const T gradient = min(max(scale * g[i], -limit), limit) + l2 * w[i];
            const T moved = w[i] - optimizer.step(gradient, slot_0[i], slot_1[i], lr);
            const T size = max(absolute(moved) - threshold, T(0));
            w[i] = threshold > 0 ? (moved < 0 ? -size : size) : moved;
        }
    };
    const Index split = min(max(n_penalized, first), last);
    run(first, split, T(step.l2), T(step.l1 * step.lr));
    run(split, last, T(0), T(0));
}

// ---------------------------------------------------------------------------------------------------------- tables

template <class T, class List>
struct LossTable;
template <class T, template <class> class... Loss>
struct LossTable<T, LossList<Loss...>> {
    static constexpr int size = sizeof...(Loss);
    static constexpr LossKernel<T> entries[] = {
        {Loss<T>::name, Loss<T>::n_parameters, residuals<Loss, T>, curvatures<Loss, T>}...};
};

template <class T, class List>
struct OptimizerTable;
template <class T, template <class> class... Optimizer>
struct OptimizerTable<T, OptimizerList<Optimizer...>> {
    static constexpr int size = sizeof...(Optimizer);
    static constexpr OptimizerKernel<T> entries[] = {
        {Optimizer<T>::name, Optimizer<T>::n_slots, Optimizer<T>::n_parameters, update<Optimizer, T>}...};
};

template <class T>
constexpr Kernels<T> table() {
    return {margins_rows<T>,
            margins_columns<T>,
            accumulate_rows<T>,
            accumulate_columns<T>,
            gram<T>,
            add<T>,
            sum_of_squares<T>,
            find_non_finite<T>,
            order_rows,
            cholesky,
            cholesky_solve,
            LossTable<T, Losses>::entries,
            LossTable<T, Losses>::size,
            OptimizerTable<T, Optimizers>::entries,
            OptimizerTable<T, Optimizers>::size};
}

extern const Kernels<float> kernels_f32;
extern const Kernels<double> kernels_f64;
const Kernels<float> kernels_f32 = table<float>();
const Kernels<double> kernels_f64 = table<double>();

}  // namespace gdfast::GDFAST_ISA
