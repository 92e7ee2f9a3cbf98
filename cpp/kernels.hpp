// The table of kernels: one set of function pointers a type and instruction set. Free of any instruction set itself.
#pragma once
#include <atomic>
#include <limits>

#include "idle.hpp"
#include "views.hpp"

namespace gdfast {

// Weights, margins and gradients of k outputs are matrices of `lanes_of(k)` columns: an even number, beyond 64 a multiple of
// 16, over sparse rows of `lanes_of_sparse(k)`; what is behind column k does not matter. Kernels read on over the end of such a
// matrix, by less than `lanes_behind`.
inline Index lanes_of(Index k) { return k == 1 ? 1 : k <= 64 ? (k + 1) / 2 * 2 : (k + 15) / 16 * 16; }
inline constexpr Index outputs_at_once = 16;
inline Index lanes_of_sparse(Index k) {
    Index lanes = 1;
    while (lanes < k && lanes < outputs_at_once) lanes *= 2;
    return k <= lanes ? lanes : (k + outputs_at_once - 1) / outputs_at_once * outputs_at_once;
}
inline constexpr Index lanes_behind = 32;

// Losses of one output are also summed in so many lanes, with one logarithm a lane.
inline constexpr Index loss_lanes = 16;

// The fused kernel works on a group of rows at a time, and asks for rows of so many bytes behind the next half of a group.
inline constexpr Index group_bytes = 8192, bytes_ahead = 8192, rows_of_group_max = 256;
inline Index rows_of_group(Index row_bytes) {
    const Index rows = group_bytes / row_bytes / loss_lanes * loss_lanes;
    return rows < loss_lanes ? loss_lanes : rows < rows_of_group_max ? rows : rows_of_group_max;
}
inline Index rows_ahead(Index row_bytes) { return rows_of_group(row_bytes) / 2 + bytes_ahead / row_bytes; }

// The residuals of a tile of m rows: margins z (m x lanes) are overwritten by r = weight * d loss / d z. losses[o] += the
// weighted sum of the loss of output o; the loss of softmax belongs to all outputs and goes to losses[0].
template <class T>
struct LossKernel {
    const char* name;
    int n_parameters;
    void (*residuals)(const double* parameters, T* z, const Targets<T>&, Index m, Index k, Index lanes, double* losses);
    // As residuals, for one output and m a multiple of loss_lanes; the losses of many calls, 1,024 rows at most, are the sum
    // over the lanes of sums[l] + log(1 + sums[loss_lanes + l]), sums starting at 0.
    void (*residuals_in_lanes)(const double* parameters, T* z, const T* y, const T* weight, Index m, T* sums);
    // h = weight * d2 loss / d z2 at margins z, of the shape of z, before `residuals` overwrites them
    void (*curvatures)(const double* parameters, const T* z, const Targets<T>&, Index m, Index k, Index lanes, T* h);
    // u = weight * (d2 loss / d z d z) u at margins z, row by row: u is a direction of z, of its shape
    void (*times_curvature)(const double* parameters, const T* z, const Targets<T>&, Index m, Index k, Index lanes, T* u);
};

// The loss of one output over some rows, as the fused kernel takes it.
template <class T>
struct WeightedLoss {
    const LossKernel<T>* kernel;
    const double* parameters;
    const T* y;
    const T* weight;  // may be null
};

// One number for all parameters, or one each where `each` is set.
template <class T>
struct PerParameter {
    T all;
    const T* each = nullptr;
};

// What one step over the parameters needs beside them. Penalties, decay and bounds cover the first n_penalized parameters.
template <class T>
struct Step {
    double lr = 0, scale = 1;  // rate; factor of the gradient, which clipping by norm sets
    double clip_value = 0;     // limit of each component, infinity for none
    double l1 = 0, l2 = 0, decay = 0;
    PerParameter<T> factor{1};  // of the penalties
    PerParameter<T> lower{-std::numeric_limits<T>::infinity()}, upper{std::numeric_limits<T>::infinity()};
    const double* parameters = nullptr;    // of the optimizer
    const double* coefficients = nullptr;  // of the optimizer, in this step
    bool bounded() const {
        constexpr T infinity = std::numeric_limits<T>::infinity();
        return lower.each || upper.each || lower.all > -infinity || upper.all < infinity;
    }
};

template <class T>
struct OptimizerKernel {
    const char* name;
    int n_slots, n_parameters, n_coefficients;
    // parameters [first, last) of w; slots are n_slots arrays of n parameters each
    void (*update)(const Step<T>&, T* w, const T* g, T* slots, Index n, Index n_penalized, Index first, Index last);
    Idle (*idle)(const double* parameters);
    // The first `last` parameters after the steps that they have not seen, seen[i] to missed.steps, all without a gradient.
    // Not for a rule that moves.
    void (*catch_up)(const Step<T>&, const Missed&, const std::int32_t* seen, T* w, T* slots, Index n, Index last);
};

// What is wrong with a matrix in CSR, and the first row where it is; `order`, told where nothing else is wrong: the columns of
// a row do not increase.
enum class CsrFault { none, indptr, index, value, order };
struct CsrCheck {
    CsrFault fault;
    Index row;
};

// The change of an objective with p weights and an intercept, which is at its best for them:
//     g'(w - w0) + (w - w0)' (H - h h' / c) (w - w0) / 2 + l1 |w|_1
// H is p x p or, where `starts` is not null, the values of its rows, p + 1 starts and their columns.
struct QuadraticModel {
    Index p;
    const double* H;
    const std::int64_t* starts;
    const std::int32_t* columns;
    const double* h;
    double c;
    const double* g;
    double l1;
};

// By how much a model fell, and in its last sweep over the coordinates.
struct ModelFall {
    double fall, left;
    bool converged;
};
inline constexpr Index model_scratch = 7;  // numbers a weight

template <class T>
struct Kernels {
    // z = X w + b for m rows; w is (d + 1) x lanes, the intercept last; z is m x lanes
    void (*margins_rows)(DenseRows<T>, Selection, Index m, const T* w, Index lanes, T* z);
    void (*margins_columns)(DenseColumns<T>, Index first, Index m, const T* w, Index lanes, T* z);
    // g += X' r, g of the shape of w
    void (*accumulate_rows)(DenseRows<T>, Selection, Index m, const T* r, Index lanes, T* g);
    void (*accumulate_columns)(DenseColumns<T>, Index first, Index m, const T* r, Index lanes, T* g);
    // both at once and the residuals between them, for one output: g += X' r, returns the sum of the losses
    double (*gradient_rows)(DenseRows<T>, Selection, Index m, Upcoming, const T* w, WeightedLoss<T>, T* g);
    // the same for CSR. The sums are in double from the first where to clear d numbers a tile and to add them would cost more
    // than the tile.
    void (*margins_csr)(CsrRows<T>, Selection, Index m, const T* w, Index lanes, T* z);
    void (*accumulate_csr)(CsrRows<T>, Selection, Index m, const T* r, Index lanes, double* g);
    void (*accumulate_csr_in_place)(CsrRows<T>, Selection, Index m, const T* r, Index lanes, T* g);
    void (*unpack_csr)(CsrRows<T>, Selection, Index m, T* dense);  // m x d
    // rows [first, last) of a matrix with `entries` numbers in memory; NaN and infinity are faults where `finite`
    CsrCheck (*check_csr)(CsrRows<T>, Index first, Index last, Index entries, bool finite);
    // packed (m x d) = rows of X, the first m of `known` selected ones; the others are asked for
    void (*gather_rows)(DenseRows<T>, Selection, Index m, Index known, T* packed);
    void (*widen_rows)(QuantizedRows<T>, Selection, Index m, Index known, T* packed);  // the same
    // packed (m x d) = rows of X, scaled; X may be what is packed already
    void (*scale_rows)(DenseRows<T>, Selection, Index m, Scaling<T>, T* packed);
    // m more rows of weight (null for ones) to the total weight, the means and the sums of squared deviations of d columns;
    // scratch: 2 d numbers
    void (*add_moments_rows)(DenseRows<T>, Selection, Index m, const T* weight, double* total, double* mean, double* squares,
                             double* scratch);
    void (*add_moments_columns)(DenseColumns<T>, Index first, Index m, const T* weight, double* total, double* mean,
                                double* squares);
    // of m rows of CSR: sums += weight x where mean is null, else += weight (x - mean)^2 and weights += weight, entry by entry
    void (*add_moments_csr)(CsrRows<T>, Index first, Index m, const T* weight, const double* mean, double* sums,
                            double* weights);
    // sums += weight x^2, of m rows of CSR
    void (*add_squares_csr)(CsrRows<T>, Index first, Index m, const T* weight, double* sums);
    // upper triangle of H += A' diag(h) A, A = (X 1) packed as m x stride with zeros behind column d; scaled is scratch
    void (*gram)(const T* packed, Index stride, Index m, const T* h, T* scaled, T* H);
    void (*add)(const T* a, Index n, double* sum);  // sum += a
    double (*sum_of_squares)(const T* a, Index n);  // in double
    Index (*find_non_finite)(const T* a, Index n);  // first NaN or infinity, -1 where there is none
    Index (*count_non_zeros)(const T* a, Index n);  // n < 2^31
    // the numbers of a that are not 0, and their places; x and places have room for n. Returns how many.
    Index (*pick_non_zeros)(const T* a, Index n, T* x, std::int32_t* places);
    // rows[i] = the row at position first + i of a shuffled order of n rows
    void (*order_rows)(Index n, Order order, Index first, Index count, Index* rows);
    Index (*cholesky)(double* A, Index n, double smallest, const std::atomic<bool>& cancel);
    void (*cholesky_solve)(const double* L, Index n, double* b, Index k);
    // w, w0 before, becomes what minimises the model but for about `precision` of its fall or `enough`, if so many rounds do;
    // scratch: model_scratch p numbers
    ModelFall (*minimize_model)(const QuadraticModel&, double precision, double enough, Index rounds, double* w,
                                double* scratch, const std::atomic<bool>& cancel);
    const LossKernel<T>* losses;
    int n_losses;
    const OptimizerKernel<T>* optimizers;
    int n_optimizers;
};

}  // namespace gdfast
