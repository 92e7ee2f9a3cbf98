// The kernels, compiled once per instruction set. No threads, no allocation, no standard containers, no exceptions, and
// everything in the namespace of its instruction set, so that no weak symbol can reach a machine without it.
#include "kernels.hpp"

#include <cmath>

#include "coordinate_descent.hpp"
#include "csr_outputs.hpp"
#include "csr_rows.hpp"
#include "dense_columns.hpp"
#include "dense_rows.hpp"
#include "gather.hpp"
#include "gradient_rows.hpp"
#include "gram.hpp"
#include "linear_algebra.hpp"
#include "losses.hpp"
#include "moments.hpp"
#include "optimizers.hpp"
#include "order.hpp"
#include "outputs.hpp"
#include "quantized.hpp"
#include "residuals.hpp"
#include "step.hpp"
#include "vector.hpp"
namespace gdfast::GDFAST_ISA {

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
    constexpr int W = 16;  // reads on over the end of a row
    for (Index o = 0; o < lanes; o += W) {
        double sums[W] = {};  // in double: equal residuals would round the same way row after row
        for (Index i = 0; i < m; ++i)
            for (int c = 0; c < W; ++c) sums[c] += double(r[i * lanes + o + c]);
        for (int c = 0; c < W && o + c < lanes; ++c) g[o + c] += T(sums[c]);
    }
}

template <class T>
void margins_rows(DenseRows<T> X, Selection rows, Index m, const T* w, Index lanes, T* z) {
    if (lanes > 1) return margins_many<T>(AtRows<T>{X, rows}, X.d, m, w, lanes, z);
    NothingAhead nothing;
    by_width<T>(X.d, [&](auto shape) { typename decltype(shape)::Margins(X, rows, w)(0, m, z, nothing); });
}

template <class T>
void accumulate_rows(DenseRows<T> X, Selection rows, Index m, const T* r, Index lanes, T* g) {
    accumulate_bias(r, m, lanes, g + X.d * lanes);
    if (lanes > 1 && accumulate_across_columns(X, rows, m, r, lanes, g)) return;
    if (lanes > 1) return accumulate_many<T>(AtRows<T>{X, rows}, X.d, m, r, lanes, g);
    NothingAhead nothing;
    by_width<T>(X.d, [&](auto shape) {
        typename decltype(shape)::Gradient gradient(X, rows, g);
        gradient(0, m, r, nothing);
        gradient.finish();
    });
}

template <class T>
double gradient_rows(DenseRows<T> X, Selection rows, Index m, Upcoming upcoming, const T* w, WeightedLoss<T> loss, T* g) {
    return by_width<T>(X.d, [&](auto shape) { return gradient_of<decltype(shape)>(X, rows, m, upcoming, w, loss, g); });
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
void gather_rows(DenseRows<T> X, Selection rows, Index m, Index known, T* packed) {
    constexpr int W = native_lanes<T>;
    const auto by = [&](auto copy) { gather_rows_by(X, rows, m, known, packed, copy); };
    if (X.d < W || X.d > 2 * W) return by([](const T* x, Index d, T* to) { copy_long_row(x, d, to); });
    if (X.d == W) return by([](const T* x, Index d, T* to) { copy_row<W, 1>(x, d, to); });
    by([](const T* x, Index d, T* to) { copy_row<W, 2>(x, d, to); });
}

template <class T>
void scale_rows(DenseRows<T> X, Selection rows, Index m, Scaling<T> scaling, T* packed) {
    for (Index i = 0; i < m; ++i) {
        const T* x = row(X, rows, i);
        T* to = packed + i * X.d;
#pragma omp simd
        for (Index j = 0; j < X.d; ++j) to[j] = (x[j] - scaling.offset[j]) * scaling.factor[j];
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

template <class T>
Index count_non_zeros(const T* a, Index n) {
    typename Bits<T>::Int count = 0;
#pragma omp simd reduction(+ : count)
    for (Index i = 0; i < n; ++i) count += a[i] != 0;
    return Index(count);
}

template <class T>
Index pick_non_zeros(const T* a, Index n, T* x, std::int32_t* places) {
    constexpr Index block = 16;
    Index count = 0;
    for (Index start = 0; start < n; start += block) {
        const Index end = min(start + block, n);
        if (end - start == block && count_non_zeros(a + start, block) == 0) continue;  // zeros often lie together
        for (Index i = start; i < end; ++i) {
            x[count] = a[i];
            places[count] = std::int32_t(i);
            count += a[i] != 0;
        }
    }
    return count;
}

// ---------------------------------------------------------------------------------------------------------- tables

template <class T, class List>
struct LossTable;
template <class T, template <class> class... Loss>
struct LossTable<T, LossList<Loss...>> {
    static constexpr int size = sizeof...(Loss);
    static constexpr LossKernel<T> entries[] = {{Loss<T>::name, Loss<T>::n_parameters, residuals<Loss, T>,
                                                 residuals_in_lanes<Loss, T>, curvatures<Loss, T>,
                                                 times_curvature<Loss, T>}...};
};

template <class T, class List>
struct OptimizerTable;
template <class T, template <class> class... Optimizer>
struct OptimizerTable<T, OptimizerList<Optimizer...>> {
    static constexpr int size = sizeof...(Optimizer);
    static constexpr OptimizerKernel<T> entries[] = {{Optimizer<T>::name, Optimizer<T>::n_slots, Optimizer<T>::n_parameters,
                                                      Optimizer<T>::n_coefficients, update<Optimizer, T>, idle<Optimizer, T>,
                                                      catch_up<Optimizer, T>}...};
};

template <class T>
constexpr Kernels<T> table() {
    return {margins_rows<T>,
            margins_columns<T>,
            accumulate_rows<T>,
            accumulate_columns<T>,
            gradient_rows<T>,
            margins_csr<T>,
            accumulate_csr<T, double>,
            accumulate_csr<T, T>,
            unpack_csr<T>,
            check_csr<T>,
            gather_rows<T>,
            widen_rows<T>,
            scale_rows<T>,
            add_moments_rows<T>,
            add_moments_columns<T>,
            add_moments_csr<T>,
            add_squares_csr<T>,
            gram<T>,
            add<T>,
            sum_of_squares<T>,
            find_non_finite<T>,
            count_non_zeros<T>,
            pick_non_zeros<T>,
            order_rows,
            cholesky,
            cholesky_solve,
            minimize_model,
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
