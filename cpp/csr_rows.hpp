// Margins and gradients of one output over rows that hold their non-zeros only, and checks of these. Included by kernels.cpp
// only.
#pragma once
#include <cstdint>
#include <limits>
#include <type_traits>

#include "views.hpp"

namespace gdfast::GDFAST_ISA {

// CsrRows with the type of its indices.
template <class T, class I>
struct Sparse {
    const T* x;
    const I* indices;
    const I* indptr;
};

template <class T, class Call>
inline auto with_indices(const CsrRows<T>& X, const Call& call) {
    if (X.wide)
        return call(Sparse<T, std::int64_t>{X.x, static_cast<const std::int64_t*>(X.indices),
                                            static_cast<const std::int64_t*>(X.indptr)});
    return call(
        Sparse<T, std::int32_t>{X.x, static_cast<const std::int32_t*>(X.indices), static_cast<const std::int32_t*>(X.indptr)});
}

template <class T, class I>
void margins_csr_1(const Sparse<T, I>& X, const Selection& rows, Index m, const T* w, T bias, T* z) {
    for (Index i = 0; i < m; ++i) {
        const Index first = X.indptr[rows[i]], last = X.indptr[rows[i] + 1];
        T sum = 0;
#pragma omp simd reduction(+ : sum)
        for (Index p = first; p < last; ++p) sum += X.x[p] * w[X.indices[p]];
        z[i] = sum + bias;
    }
}

template <class T, class I, class S>
void accumulate_csr_1(const Sparse<T, I>& X, const Selection& rows, Index m, const T* r, S* g) {
    constexpr int R = 4;
    for (Index i = 0; i < m; ++i) {
        const Index first = X.indptr[rows[i]], last = X.indptr[rows[i] + 1];
        const S residual = r[i];
        Index p = first;
        for (; p + R <= last; p += R) {  // all reads before all writes: the columns of a row differ
            S sums[R];
            for (int s = 0; s < R; ++s) sums[s] = g[X.indices[p + s]] + residual * S(X.x[p + s]);
            for (int s = 0; s < R; ++s) g[X.indices[p + s]] = sums[s];
        }
        for (; p < last; ++p) g[X.indices[p]] += residual * S(X.x[p]);
    }
}

template <class T>
void unpack_csr(CsrRows<T> X, Selection rows, Index m, T* dense) {
    for (Index i = 0; i < m * X.d; ++i) dense[i] = 0;
    with_indices(X, [&](auto sparse) {
        for (Index i = 0; i < m; ++i)
            for (Index p = sparse.indptr[rows[i]]; p < sparse.indptr[rows[i] + 1]; ++p)
                dense[i * X.d + sparse.indices[p]] = X.x[p];
    });
}

template <class T>
Index find_non_finite(const T* a, Index n);

template <class T>
CsrCheck check_csr(CsrRows<T> X, Index first, Index last, Index entries, bool finite) {
    return with_indices(X, [&](auto sparse) -> CsrCheck {
        using I = std::decay_t<decltype(*sparse.indices)>;
        using Unsigned = std::make_unsigned_t<I>;
        const I *indptr = sparse.indptr, *indices = sparse.indices;
        const Unsigned limit = X.d > Index(std::numeric_limits<I>::max()) ? (Unsigned(-1) >> 1) + 1 : Unsigned(X.d);
        if (first == 0 && indptr[0] != 0) return {CsrFault::indptr, 0};
        CsrCheck found{CsrFault::none, -1};
        for (Index i = first; i < last; ++i) {
            const Index begin = indptr[i], end = indptr[i + 1];
            if (begin < 0 || end < begin || end > entries) return {CsrFault::indptr, i};
            int outside = 0, disorder = 0;
#pragma omp simd reduction(| : outside)
            for (Index p = begin; p < end; ++p) outside |= Unsigned(indices[p]) >= limit;
#pragma omp simd reduction(| : disorder)
            for (Index p = begin + 1; p < end; ++p) disorder |= indices[p] <= indices[p - 1];
            if (outside) return {CsrFault::index, i};
            if (finite && find_non_finite(X.x + begin, end - begin) >= 0) return {CsrFault::value, i};
            if (disorder && found.fault == CsrFault::none) found = {CsrFault::order, i};
        }
        return found;
    });
}

}  // namespace gdfast::GDFAST_ISA
