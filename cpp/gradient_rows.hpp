// Loss and gradient of one output in one go, a group of rows at a time: between its margins and its gradient a group stays in
// the nearest cache, and memory streams on meanwhile. Included by kernels.cpp only.
#pragma once
#include "dense_rows.hpp"
#include "kernels.hpp"

namespace gdfast::GDFAST_ISA {

// g += X' r over m rows; returns the sum of their losses.
template <class Shape, class T>
double gradient_of(const DenseRows<T>& X, const Selection& rows, Index m, Upcoming upcoming, const T* w,
                   const WeightedLoss<T>& loss, T* g) {
    constexpr Index L = loss_lanes;
    const Index group = rows_of_group(X.d * Index(sizeof(T)));
    const typename Shape::Margins margins(X, rows, w);
    typename Shape::Gradient gradient(X, rows, g);
    Ahead<T> ahead(X, rows, upcoming);
    T z[rows_of_group_max], sums[2 * L] = {}, bias[L] = {};
    double total = 0;
    for (Index i = 0; i < m; i += group) {
        const Index count = min(group, m - i), whole = count / L * L;
        const T *y = loss.y + i, *weight = loss.weight ? loss.weight + i : nullptr;
        margins(i, count, z, ahead);
        loss.kernel->residuals_in_lanes(loss.parameters, z, y, weight, whole, sums);
        if (whole < count) {
            const Targets<T> rest{TargetForm::shared, y + whole, weight ? weight + whole : nullptr, nullptr, nullptr};
            loss.kernel->residuals(loss.parameters, z + whole, rest, count - whole, 1, 1, &total);
        }
        gradient(i, count, z, ahead);
        for (Index s = 0; s < whole; s += L)
            for (Index l = 0; l < L; ++l) bias[l] += z[s + l];
        for (Index l = 0; l < count - whole; ++l) bias[l] += z[whole + l];
    }
    gradient.finish();
    T sum = 0, residual = 0;
#pragma omp simd reduction(+ : sum, residual)
    for (Index l = 0; l < L; ++l) {
        sum += sums[l] + log_of_one_plus(sums[L + l]);
        residual += bias[l];
    }
    g[X.d] += residual;
    return total + double(sum);
}

}  // namespace gdfast::GDFAST_ISA
