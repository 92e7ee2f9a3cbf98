// The work on one chunk of rows: a pass of gradients, an epoch of mini-batches, a pass of margins. Free of any instruction
// set; passes.cpp, epoch.cpp and update.cpp are the places with parallel regions.
//
// The same bits for any number of threads: rows are cut into shards by n, d and k alone, every shard is summed by itself,
// and the shards are added in their order.
#pragma once
#include <algorithm>
#include <atomic>
#include <cmath>
#include <limits>

#include "kernels.hpp"

namespace gdfast {

enum class Layout { rows, columns, csr, quantized };

// One loss over n rows of features.
template <class T>
struct Problem {
    const Kernels<T>* kernels;
    Layout layout;  // which of the four holds X
    DenseRows<T> rows;
    DenseColumns<T> columns;
    CsrRows<T> csr;
    QuantizedRows<T> quantized;
    Index entries;  // of csr
    Scaling<T> scaling;
    Index n, d, k;
    TargetForm form;    // y holds n numbers, n class codes, or n x k values
    const T* y;         // may be null where no loss is asked for
    const T* weight;    // n, or null for ones
    const T* fold;      // n, or null: the number of each row's fold
    const T* held_out;  // k and as many numbers as a register holds: the fold that an output sees no rows of
    const LossKernel<T>* loss;
    const double* loss_parameters;
    bool intercept;
};

// Of an average row; indices count as 4 bytes, so that their width changes no sum.
template <class T>
double row_bytes(const Problem<T>& p) {
    if (p.layout == Layout::csr) return double(p.entries) / double(p.n) * (sizeof(T) + 4);
    return double(p.d > 0 ? p.d : 1) * sizeof(T);
}

template <class T>
Index lanes_of(const Problem<T>& p) {
    return p.layout == Layout::csr ? lanes_of_sparse(p.k) : lanes_of(p.k);
}

struct Team {
    int threads;
    Index shards;  // 0: chosen from n, d and k; anything else is for measuring what the fixed partition costs
    const std::atomic<bool>* cancel;
};

// Sum of the weighted losses; g (d + 1) x k becomes the sum of the weighted gradients. w is (d + 1) x k.
template <class T>
double gradient(const Problem<T>&, const T* w, double* g, const Team&);

// As gradient, and H (d + 1) x (d + 1) becomes X' diag(weight * curvature of output 0) X, the intercept last.
template <class T>
double hessian(const Problem<T>&, const T* w, double* g, double* H, const Team&);

// Hp (d + 1) x k becomes the second derivative of the sum of the weighted losses times p (d + 1) x k.
template <class T>
void hessian_product(const Problem<T>&, const T* w, const T* p, double* Hp, const Team&);

// The same of one output by parts, for who keeps margins from pass to pass. Sum of the weighted losses at the margins z (n);
// g as in gradient; h (n) becomes weight * curvature.
template <class T>
double gradient_at(const Problem<T>&, const T* z, double* g, T* h, const Team&);

// (H + l2) s = -g approximately, H = X' diag(h) X / total and g (d + 1) of one output, by conjugate gradients from 0 with
// this diagonal (d + 1) as preconditioner, until one more would bring less than about `share` of the average one.
template <class T>
struct NewtonSystem {
    const T* h;
    const double *g, *diagonal;
    double total, l2, share;
    Index most;  // products with H
};
struct NewtonStep {
    double fall;  // of the quadratic model
    Index products;
};
// s (d + 1) and margins (n) = X s
template <class T>
NewtonStep conjugate_gradients(const Problem<T>&, const NewtonSystem<T>&, double* s, T* margins, const Team&);

// z = X w + b, n x k
template <class T>
void margins(const Problem<T>&, const T* w, T* z, const Team&);

// Where the first NaN or infinity lies among `lines` lines of `length` numbers, a line every `stride` of them, and -1 where
// there is none: its place along the lines, line after line, or, with `across`, the lowest place in all lines and in the
// first one of these.
template <class T>
Index find_non_finite(const Kernels<T>&, const T* a, Index lines, Index length, Index stride, bool across, const Team&);

// The first row of a matrix in CSR that is not right, or `order` where no row is worse than that.
template <class T>
CsrCheck check_csr(const Problem<T>&, bool finite, const Team&);

// Dense rows as sparse ones: starts (n + 1) from the counts, then x and columns (starts[n]) from the rows. d < 2^31.
template <class T>
void count_non_zeros(const Problem<T>&, std::int64_t* starts, const Team&);
template <class T>
void pick_non_zeros(const Problem<T>&, const std::int64_t* starts, T* x, std::int32_t* columns, const Team&);

// Weighted means of the d columns and sums of squared deviations from them, divided by the total weight; problem.k is 1.
template <class T>
void moments(const Problem<T>&, double* mean, double* variance, const Team&);

// Weighted means of the squares of sparse columns, read once.
template <class T>
void mean_squares_csr(const Problem<T>&, double* out, const Team&);

// What all steps over n parameters share, by optimizer, penalties and clipping.
template <class T>
struct Update {
    const OptimizerKernel<T>* optimizer;
    Step<T> step;               // lr, scale and coefficients are set step by step
    double min_norm, max_norm;  // what the norm of a gradient is brought into, 0 and infinity for neither
    T* w;
    T* slots;
    Index n, n_penalized;
    bool by_norm() const { return min_norm > 0 || max_norm < std::numeric_limits<double>::infinity(); }
    double scale_of(double norm) const {
        return norm > max_norm ? max_norm / norm : norm < min_norm && norm > 0 ? min_norm / norm : 1.0;
    }
};

// The parameters are cut into blocks; the squares of a gradient are summed block by block.
inline constexpr Index parameters_per_block = 4096;
inline Index parameter_blocks(Index n) { return (n + parameters_per_block - 1) / parameters_per_block; }

// One step by the gradient g; the norm of g, or 0 where no clipping asks for it. Not to be interrupted.
template <class T>
double update(const Kernels<T>&, Update<T>, const T* g, int threads);

// n of the parameters of a group, which lie elsewhere; their place among the n of each slot of the group.
template <class T>
struct Tensor {
    Index group;
    T* w;
    const T* g;
    Index n, offset;
};

// One step of many tensors: a group has a rule, a rate and slots of its own, all are clipped as the first one says, by the
// norm over all of them. `scale` of the groups, equal but for its sign, is applied before clipping, and changed.
template <class T>
double update(const Kernels<T>&, Update<T>* groups, Index n_groups, const Tensor<T>*, Index n_tensors, int threads);

// One of the models that an epoch trains, with parameters, rule and record of its own. The k outputs of a problem are divided
// among them evenly; a model that diverges is left as it is, the others go on.
template <class T>
struct Model {
    Update<T> update;            // w is (d + 1) x outputs
    const double* coefficients;  // of the optimizer, a row a step; the last row holds for all steps behind it
    Index n_coefficients;        // rows
    double mean_weight;          // a step divides by this times its rows
    const double* rates;         // one a step
    double* norms;               // of the mean gradient before clipping, one a step
    double* losses;              // sums of the weighted losses, one a step
    Index first_step;            // steps made before
    Index average_from;          // first step (from 1) of the running mean of w, 0 for none
    T* average;
    // what comes out
    double loss;  // sum of the weighted losses, each row before its own step
    Index steps;  // made; fewer than asked for where the run was cancelled or diverged
    bool finite;  // false: a loss or a gradient was not finite; its step was not made

    // Step b comes to this; can it be made?
    bool record(Index b, double batch_loss, double norm) {
        finite = std::isfinite(batch_loss) && std::isfinite(norm);
        loss += batch_loss;
        steps += finite;
        norms[b] = norm;
        losses[b] = batch_loss;
        return finite;
    }

    // `step`, of these parameters or of some, as step b with a gradient of that norm
    Step<T> step_of(Index b, double norm, Step<T> step) const {
        step.lr = rates[b];
        step.scale = update.scale_of(norm);
        step.coefficients = coefficients + std::min(b, n_coefficients - 1) * update.optimizer->n_coefficients;
        return step;
    }

    // w [first, last) behind step b
    void add_to_average(Index b, const T* w, T* mean, Index first, Index last) const {
        const double t = double(first_step + b + 1);
        if (!average_from || t < double(average_from)) return;
        const T gain = T(1 / (t - double(average_from) + 1));
        for (Index l = first; l < last; ++l) mean[l] += gain * (w[l] - mean[l]);
    }
};

// One epoch of mini-batches.
template <class T>
struct Epoch {
    Index batch;         // rows a step
    Index steps;         // to make, at most as many as there are batches
    double seconds;      // begin no step after so many
    const Order* order;  // null for rows as they lie
    Model<T>* models;
    Index n_models;
    bool held_only;  // steps over sparse rows change only the columns that a row of their batch holds
    Index first;     // batches of this order of rows that are behind us
};
template <class T>
void epoch(const Problem<T>&, const Epoch<T>&, const Team&);

}  // namespace gdfast
