// Means of columns and squared deviations from them. Included by kernels.cpp only.
#pragma once
#include "csr_rows.hpp"
#include "dense_rows.hpp"
#include "views.hpp"

namespace gdfast::GDFAST_ISA {

// Two passes over rows in cache, then their moments are joined to those before (Chan, Golub and LeVeque 1979).
template <class T>
void add_moments_rows(DenseRows<T> X, Selection rows, Index m, const T* weight, double* total, double* mean, double* squares,
                      double* scratch) {
    const Index d = X.d;
    double *sums = scratch, *spread = scratch + d, mass = 0;
    for (Index j = 0; j < 2 * d; ++j) scratch[j] = 0;
    for (Index i = 0; i < m; ++i) {
        const T* x = row(X, rows, i);
        const double s = weight ? double(weight[i]) : 1.0;
        mass += s;
#pragma omp simd
        for (Index j = 0; j < d; ++j) sums[j] += s * double(x[j]);
    }
    if (mass == 0) return;
    for (Index j = 0; j < d; ++j) sums[j] /= mass;
    for (Index i = 0; i < m; ++i) {
        const T* x = row(X, rows, i);
        const double s = weight ? double(weight[i]) : 1.0;
#pragma omp simd
        for (Index j = 0; j < d; ++j) spread[j] += s * (double(x[j]) - sums[j]) * (double(x[j]) - sums[j]);
    }
    const double share = mass / (*total + mass);
    for (Index j = 0; j < d; ++j) {
        const double step = sums[j] - mean[j];
        squares[j] += spread[j] + step * (step * (*total * share));
        mean[j] += step * share;
    }
    *total += mass;
}

template <class T>
void add_moments_columns(DenseColumns<T> X, Index first, Index m, const T* weight, double* total, double* mean,
                         double* squares) {
    double mass = weight ? 0 : double(m);
    for (Index i = 0; weight && i < m; ++i) mass += double(weight[i]);
    if (mass == 0) return;
    const double share = mass / (*total + mass);
    for (Index j = 0; j < X.d; ++j) {
        const T* x = X.columns[j] + first;
        double sum = 0, spread = 0;
#pragma omp simd reduction(+ : sum)
        for (Index i = 0; i < m; ++i) sum += (weight ? double(weight[i]) : 1.0) * double(x[i]);
        const double center = sum / mass;
#pragma omp simd reduction(+ : spread)
        for (Index i = 0; i < m; ++i)
            spread += (weight ? double(weight[i]) : 1.0) * (double(x[i]) - center) * (double(x[i]) - center);
        const double step = center - mean[j];
        squares[j] += spread + step * (step * (*total * share));
        mean[j] += step * share;
    }
    *total += mass;
}

template <class T>
void add_moments_csr(CsrRows<T> X, Index first, Index m, const T* weight, const double* mean, double* sums, double* weights) {
    with_indices(X, [&](auto sparse) {
        for (Index i = 0; i < m; ++i) {
            const double s = weight ? double(weight[i]) : 1.0;
            for (Index p = sparse.indptr[first + i]; p < sparse.indptr[first + i + 1]; ++p) {
                const Index j = sparse.indices[p];
                const double x = double(X.x[p]) - (mean ? mean[j] : 0.0);
                sums[j] += mean ? s * x * x : s * x;
                if (mean) weights[j] += s;
            }
        }
    });
}

template <class T>
void add_squares_csr(CsrRows<T> X, Index first, Index m, const T* weight, double* sums) {
    with_indices(X, [&](auto sparse) {
        for (Index i = 0; i < m; ++i) {
            const double s = weight ? double(weight[i]) : 1.0;
            const Index last = sparse.indptr[first + i + 1];
            for (Index p = sparse.indptr[first + i]; p < last; ++p)
                sums[sparse.indices[p]] += s * double(X.x[p]) * double(X.x[p]);
        }
    });
}

}  // namespace gdfast::GDFAST_ISA
