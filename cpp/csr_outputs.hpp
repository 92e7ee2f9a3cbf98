// Margins and gradients of many outputs over rows that hold their non-zeros only. Included by kernels.cpp only.
#pragma once
#include "csr_rows.hpp"
#include "vector.hpp"

namespace gdfast::GDFAST_ISA {

template <int N, class T, class I>
void margins_csr_outputs(const Sparse<T, I>& X, const Selection& rows, Index m, const T* w, const T* bias, Index lanes, T* z) {
    using Block = Numbers<N, T>;
    constexpr int U = Block::C < 4 ? 4 / Block::C : 1;  // entries at a time, with sums of their own
    for (Index i = 0; i < m; ++i) {
        const Index last = X.indptr[rows[i] + 1];
        Index p = X.indptr[rows[i]];
        Block sums[U];
        sums[0] = Block(bias);
        for (; p + U <= last; p += U)
            for (int u = 0; u < U; ++u) sums[u].add(X.x[p + u], Block(w + Index(X.indices[p + u]) * lanes));
        for (; p < last; ++p) sums[0].add(X.x[p], Block(w + Index(X.indices[p]) * lanes));
        for (int u = 1; u < U; ++u) sums[0].add(1, sums[u]);
        sums[0].store_to(z + i * lanes);
    }
}

template <int N, class T, class I, class S>
void accumulate_csr_outputs(const Sparse<T, I>& X, const Selection& rows, Index m, const T* r, Index lanes, S* g) {
    for (Index i = 0; i < m; ++i) {
        S converted[N];
        for (int c = 0; c < N; ++c) converted[c] = S(r[i * lanes + c]);
        const Numbers<N, S> residuals(converted);
        const Index last = X.indptr[rows[i] + 1];
        for (Index p = X.indptr[rows[i]]; p < last; ++p) {
            S* const to = g + Index(X.indices[p]) * lanes;
            Numbers<N, S> sums(to);
            sums.add(S(X.x[p]), residuals);
            sums.store_to(to);
        }
    }
}

// Calls with the first output and the number of outputs of each block; lanes are `lanes_of_sparse`.
template <class Call>
inline void over_outputs(Index lanes, const Call& call) {
    if (lanes == 2) return call(Index(0), std::integral_constant<int, 2>{});
    if (lanes == 4) return call(Index(0), std::integral_constant<int, 4>{});
    if (lanes == 8) return call(Index(0), std::integral_constant<int, 8>{});
    for (Index o = 0; o < lanes; o += outputs_at_once) call(o, std::integral_constant<int, int(outputs_at_once)>{});
}

template <class T>
void margins_csr(CsrRows<T> X, Selection rows, Index m, const T* w, Index lanes, T* z) {
    const T* bias = w + X.d * lanes;
    with_indices(X, [&](auto sparse) {
        if (lanes == 1) return margins_csr_1(sparse, rows, m, w, *bias, z);
        over_outputs(lanes, [&](Index o, auto count) {
            margins_csr_outputs<decltype(count)::value>(sparse, rows, m, w + o, bias + o, lanes, z + o);
        });
    });
}

// S is what the sums are in.
template <class T, class S>
void accumulate_csr(CsrRows<T> X, Selection rows, Index m, const T* r, Index lanes, S* g) {
    for (Index i = 0; i < m; ++i)
        for (Index o = 0; o < lanes; ++o) g[X.d * lanes + o] += S(r[i * lanes + o]);
    with_indices(X, [&](auto sparse) {
        if (lanes == 1) return accumulate_csr_1(sparse, rows, m, r, g);
        over_outputs(lanes, [&](Index o, auto count) {
            accumulate_csr_outputs<decltype(count)::value>(sparse, rows, m, r + o, lanes, g + o);
        });
    });
}

}  // namespace gdfast::GDFAST_ISA
