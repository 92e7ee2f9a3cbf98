// The small dense linear algebra of the solvers, on one thread: a second thread pool (BLAS) would slow the solvers down
// and change bits with the number of threads. Included by kernels.cpp only.
#pragma once
#include <atomic>
#include <cmath>

#include "vector.hpp"
#include "views.hpp"

namespace gdfast::GDFAST_ISA {

// sums[s] = a[s] . b over n numbers
template <int R>
inline void dot_rows(const double* const* a, const double* b, Index n, double* sums) {
    constexpr int W = native_lanes<double>;
    Vector<double, W> partial[R];
    for (int s = 0; s < R; ++s) partial[s] = zero<W, double>();
    const Index whole = n / W * W;
    for (Index j = 0; j < whole; j += W) {
        const Vector<double, W> v = load<W>(b + j);
        for (int s = 0; s < R; ++s) partial[s] += load<W>(a[s] + j) * v;
    }
    for (int s = 0; s < R; ++s) {
        sums[s] = sum_of_lanes<W, double>(partial[s]);
        for (Index j = whole; j < n; ++j) sums[s] += a[s][j] * b[j];
    }
}

// A = L L': the lower triangle of the n x n matrix A (row-major, only its lower triangle is read) becomes L.
// Returns -1, or the first column whose pivot is not above `smallest`, or -2 where cancelled; then A is left half done.
inline Index cholesky(double* A, Index n, double smallest, const std::atomic<bool>& cancel) {
    constexpr int R = 8;
    for (Index j = 0; j < n; ++j) {
        if (cancel.load(std::memory_order_relaxed)) return -2;
        double* row_j = A + j * n;
        const double* one[] = {row_j};
        double sum;
        dot_rows<1>(one, row_j, j, &sum);
        const double pivot = row_j[j] - sum;
        if (!(pivot > smallest)) return j;
        row_j[j] = std::sqrt(pivot);
        const double inverse = 1 / row_j[j];
        Index i = j + 1;
        for (; i + R <= n; i += R) {
            const double* rows[R];
            double sums[R];
            for (int s = 0; s < R; ++s) rows[s] = A + (i + s) * n;
            dot_rows<R>(rows, row_j, j, sums);
            for (int s = 0; s < R; ++s) A[(i + s) * n + j] = (A[(i + s) * n + j] - sums[s]) * inverse;
        }
        for (; i < n; ++i) {
            const double* row[] = {A + i * n};
            dot_rows<1>(row, row_j, j, &sum);
            A[i * n + j] = (A[i * n + j] - sum) * inverse;
        }
    }
    return -1;
}

// b becomes the solution of L L' x = b
inline void cholesky_solve_1(const double* L, Index n, double* b) {
    for (Index i = 0; i < n; ++i) {
        const double* row[] = {L + i * n};
        double sum;
        dot_rows<1>(row, b, i, &sum);
        b[i] = (b[i] - sum) / L[i * n + i];
    }
    for (Index i = n; i-- > 0;) {
        const double x = b[i] /= L[i * n + i];
        const double* row = L + i * n;
#pragma omp simd
        for (Index j = 0; j < i; ++j) b[j] -= row[j] * x;
    }
}

// The same for N columns of b, which is n x stride; four rows at a time.
template <int N>
inline void cholesky_solve_columns(const double* L, Index n, double* b, Index stride) {
    constexpr int R = 4;
    const auto at = [&](Index i) { return b + i * stride; };
    for (Index i = 0; i < n; i += R) {
        const int count = int(n - i < R ? n - i : R);
        Numbers<N, double> rows[R];
        for (int s = 0; s < count; ++s) rows[s] = Numbers<N, double>(at(i + s));
        for (Index j = 0; j < i; ++j) {
            const Numbers<N, double> known(at(j));
            for (int s = 0; s < R; ++s) rows[s].add(-L[(s < count ? i + s : i) * n + j], known);
        }
        for (int s = 0; s < count; ++s) {
            for (int r = 0; r < s; ++r) rows[s].add(-L[(i + s) * n + i + r], rows[r]);
            rows[s].scale(1 / L[(i + s) * n + i + s]);
            rows[s].store_to(at(i + s));
        }
    }
    for (Index last = n; last > 0;) {
        const Index i = last > R ? last - R : 0;
        const int count = int(last - i);
        Numbers<N, double> rows[R];
        for (int s = count; s-- > 0;) {
            rows[s] = Numbers<N, double>(at(i + s));
            for (int r = s + 1; r < count; ++r) rows[s].add(-L[(i + r) * n + i + s], rows[r]);
            rows[s].scale(1 / L[(i + s) * n + i + s]);
            rows[s].store_to(at(i + s));
        }
        for (Index j = 0; j < i; ++j) {
            Numbers<N, double> left(at(j));
            for (int s = 0; s < R; ++s) left.add(-L[(i + s) * n + j], rows[s]);
            left.store_to(at(j));
        }
        last = i;
    }
}

// b (n x k) becomes the solution of L L' x = b; k is 1 or a multiple of 8
inline void cholesky_solve(const double* L, Index n, double* b, Index k) {
    if (k == 1) return cholesky_solve_1(L, n, b);
    Index o = 0;
    for (; o + 16 <= k; o += 16) cholesky_solve_columns<16>(L, n, b + o, k);
    for (; o < k; o += 8) cholesky_solve_columns<8>(L, n, b + o, k);
}

}  // namespace gdfast::GDFAST_ISA
