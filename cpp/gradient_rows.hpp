// Loss and gradient of one output in one go, a group of rows at a time: between its margins and its gradient a group stays in
// the nearest cache, and memory streams on meanwhile. Included by kernels.cpp only.
#pragma once
#include "dense_rows.hpp"
#include "kernels.hpp"

namespace gdfast::GDFAST_ISA {

// Asks for the row that is worked on some kilobytes later. Left alone, memory rests while residuals are computed.
template <class T>
class RowsAhead {
public:
    RowsAhead(const DenseRows<T>& X, const Selection& rows, Index m)
        : X_(X), rows_(rows), last_(m - 1), distance_(1 + bytes_ahead / (X.d * Index(sizeof(T)))) {}
    void ask(Index i, Index lines) const {
#if defined(__GNUC__) || defined(__clang__)
        // rows without an index go on behind the m-th
        const T* x = row(X_, rows_, rows_.index ? min(i + distance_, last_) : i + distance_);
        for (Index l = 0; l < lines; ++l) __builtin_prefetch(reinterpret_cast<const char*>(x) + 64 * l);
#else
        (void)i, (void)lines;
#endif
    }

private:
    static constexpr Index bytes_ahead = 2048;
    const DenseRows<T>& X_;
    const Selection& rows_;
    const Index last_, distance_;
};

// g += X' r over m rows; returns the sum of their losses.
template <class Shape, class T>
double gradient_of(const DenseRows<T>& X, const Selection& rows, Index m, const T* w, const WeightedLoss<T>& loss, T* g) {
    constexpr Index most = 64, L = loss_lanes;
    const Index group = max(L, min(most, 8192 / (X.d * Index(sizeof(T))) / L * L));
    const typename Shape::Margins margins(X, rows, w);
    typename Shape::Gradient gradient(X, rows, g);
    const RowsAhead<T> ahead(X, rows, m);
    const auto ask = [&](Index i) { ahead.ask(i, Shape::lines); };
    T z[most], sums[2 * L] = {}, bias[L] = {};
    double total = 0;
    for (Index i = 0; i < m; i += group) {
        const Index count = min(group, m - i), whole = count / L * L;
        const T *y = loss.y + i, *weight = loss.weight ? loss.weight + i : nullptr;
        margins(i, count, z, ask);
        loss.kernel->residuals_in_lanes(loss.parameters, z, y, weight, whole, sums);
        if (whole < count) {
            const Targets<T> rest{TargetForm::shared, y + whole, weight ? weight + whole : nullptr, nullptr, nullptr};
            loss.kernel->residuals(loss.parameters, z + whole, rest, count - whole, 1, 1, &total);
        }
        gradient(i, count, z);
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
