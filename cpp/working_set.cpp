#include "working_set.hpp"

#include "shards.hpp"
#include "team.hpp"

namespace gdfast {

template <class T>
void curvatures(const Problem<T>& p, const T* w, T* h, const Team& team) {
    constexpr Index block = 4096;
    std::vector<T> z(std::size_t(p.n) + lanes_behind);
    margins(p, w, z.data(), team);
#pragma omp parallel for schedule(static) num_threads(team.threads)
    for (Index b = 0; b < (p.n + block - 1) / block; ++b) {
        const Index i = b * block;
        const Targets<T> targets{p.form, p.y + i, p.weight ? p.weight + i : nullptr, nullptr, nullptr};
        p.loss->curvatures(p.loss_parameters, z.data() + i, targets, std::min(block, p.n - i), 1, 1, h + i);
    }
}

namespace {

// Some columns of a few dense rows, packed as the gram kernel takes them.
template <class T>
struct Design {
    const Problem<T>& problem;
    const Index* columns;
    Index count, stride;

    void pack(Index first, Index m, T* out) const {
        const Problem<T>& p = problem;
        for (Index i = 0; i < m; ++i) {
            T* to = out + i * stride;
            if (p.layout == Layout::rows) {
                const T* x = p.rows.x + (first + i) * p.rows.stride;
                for (Index j = 0; j < count; ++j) to[j] = x[columns[j]];
            } else {
                for (Index j = 0; j < count; ++j) to[j] = p.columns.columns[columns[j]][first + i];
            }
            for (Index j = 0; p.scaling.factor && j < count; ++j)
                to[j] = (to[j] - p.scaling.offset[columns[j]]) * p.scaling.factor[columns[j]];
            to[count] = p.intercept ? T(1) : T(0);
        }
    }
};

}  // namespace

template <class T>
void gram(const Problem<T>& p, const Index* columns, Index count, const T* h, double* H, const Team& team) {
    constexpr Index tile = sizeof(T) == 4 ? rows_summed_in_place : 4096, at_once = 32;
    const Design<T> design{p, columns, count, (count + 1 + 31) / 32 * 32};
    const Index stride = design.stride, square = stride * stride;
    Index shards = shards_few;  // a shard carries a whole matrix
    while (shards > 1 && (shards * square * 8 > partial_bytes || p.n / shards < 2 * stride)) shards /= 2;
    const std::size_t members = std::size_t(std::min<Index>(team.threads, shards));
    std::vector<double> sums(std::size_t(shards * square), 0.0);
    std::vector<T> blocks(members * std::size_t(square)), rows(members * std::size_t(2 * at_once * stride));
#pragma omp parallel for schedule(dynamic, 1) num_threads(int(members))
    for (Index s = 0; s < shards; ++s) {
        T* const block = blocks.data() + thread_number() * square;
        T* const packed = rows.data() + thread_number() * 2 * at_once * stride;
        const Index last = shard_start(p.n, shards, s + 1);
        for (Index from = shard_start(p.n, shards, s); from < last && !team.cancel->load(std::memory_order_relaxed);
             from += tile) {
            std::fill_n(block, square, T(0));
            const Index to = std::min(from + tile, last);
            for (Index i = from; i < to; i += at_once) {
                const Index m = std::min(at_once, to - i);
                design.pack(i, m, packed);
                p.kernels->gram(packed, stride, m, h + i, packed + at_once * stride, block);
            }
            p.kernels->add(block, square, sums.data() + s * square);
        }
    }
    for (Index i = 0; i <= count; ++i)
        for (Index j = i; j <= count; ++j) {
            double sum = 0;
            for (Index s = 0; s < shards; ++s) sum += sums[std::size_t(s * square + i * stride + j)];
            H[i * (count + 1) + j] = H[j * (count + 1) + i] = sum;
        }
}

namespace {

template <class T, class Call>
auto with_indices(const CsrRows<T>& X, const Call& call) {
    if (X.wide) return call(static_cast<const std::int64_t*>(X.indices), static_cast<const std::int64_t*>(X.indptr));
    return call(static_cast<const std::int32_t*>(X.indices), static_cast<const std::int32_t*>(X.indptr));
}

}  // namespace

template <class T>
SparseColumns<T>::SparseColumns(const Problem<T>& p, const Team& team) {
    const Index d = p.d, n = p.n;
    Index parts = 1;  // of the rows, each with a counter a column
    while (parts < 16 && 2 * parts * d * 8 <= p.entries) parts *= 2;
    std::vector<Index> next(std::size_t(parts * d), 0), most(std::size_t(parts), 0);
    starts.resize(std::size_t(d + 1));
    rows.reset(new std::int32_t[std::size_t(p.entries)]);
    x.reset(new T[std::size_t(p.entries)]);
    with_indices(p.csr, [&](const auto* indices, const auto* indptr) {
#pragma omp parallel for schedule(dynamic, 1) num_threads(team.threads)
        for (Index part = 0; part < parts; ++part) {
            Index* const counts = next.data() + part * d;
            const Index first = n * part / parts, last = n * (part + 1) / parts;
            for (Index e = indptr[first]; e < Index(indptr[last]); ++e) ++counts[indices[e]];
            Index& length = most[std::size_t(part)];
            for (Index i = first; i < last; ++i) length = std::max<Index>(length, indptr[i + 1] - indptr[i]);
        }
        Index sum = 0;
        for (Index j = 0; j < d; ++j) {
            starts[std::size_t(j)] = sum;
            for (Index part = 0; part < parts; ++part) {
                const Index count = next[std::size_t(part * d + j)];
                next[std::size_t(part * d + j)] = sum;
                sum += count;
            }
        }
        starts[std::size_t(d)] = sum;
        longest = *std::max_element(most.begin(), most.end());
#pragma omp parallel for schedule(dynamic, 1) num_threads(team.threads)
        for (Index part = 0; part < parts; ++part) {
            Index* const to = next.data() + part * d;
            for (Index i = n * part / parts; i < n * (part + 1) / parts; ++i)
                for (Index e = indptr[i]; e < Index(indptr[i + 1]); ++e) {
                    const std::size_t at = std::size_t(to[indices[e]]++);
                    rows[at] = std::int32_t(i);
                    x[at] = p.csr.x[e];
                }
        }
    });
}

// sum[k] += sum_i h_i x_ij x_ik for the columns k up to j, and anything behind it; total = sum_i h_i x_ij
template <class T>
template <class I>
void SparseGram<T>::sum_rows(const Problem<T>& problem, const SparseColumns<T>& X, const I* indices, const I* indptr, Index j,
                             double* sum, double* total) const {
    const I column = I(columns_[std::size_t(j)]);
    const bool ordered = parts_.empty();  // what comes before in the row is all that comes before in columns_
    const T* const x = problem.csr.x;
    const std::int32_t* const rank = rank_.data();
    *total = 0;
    for (Index e = X.starts[std::size_t(column)]; e < X.starts[std::size_t(column + 1)]; ++e) {
        const Index i = X.rows[std::size_t(e)];
        const double a = double(h_[i]) * double(X.x[std::size_t(e)]);
        *total += a;
        Index o = indptr[i];
        if (ordered) {
            for (; indices[o] < column; ++o) sum[rank[indices[o]]] += a * double(x[o]);
            sum[j] += a * double(x[o]);
        } else {
            for (; o < Index(indptr[i + 1]); ++o)
                if (rank[indices[o]] <= j) sum[rank[indices[o]]] += a * double(x[o]);
        }
    }
}

template <class T>
void SparseGram<T>::add(const Problem<T>& problem, const SparseColumns<T>& X, const std::int32_t* columns, Index count,
                        const Team& team) {
    const Index first = Index(columns_.size()), p = first + count;
    columns_.insert(columns_.end(), columns, columns + count);
    sums.resize(std::size_t(p));
    rank_.assign(std::size_t(problem.d), std::int32_t(p));
    for (Index j = 0; j < p; ++j) rank_[std::size_t(columns_[std::size_t(j)])] = std::int32_t(j);
    Part part{first, std::vector<Index>(std::size_t(count + 1)), std::vector<Index>(std::size_t(count)), nullptr, nullptr};
    for (Index r = 0; r < count; ++r) {
        const Index held = X.starts[std::size_t(columns[r] + 1)] - X.starts[std::size_t(columns[r])];
        part.starts[std::size_t(r + 1)] = part.starts[std::size_t(r)] + std::min(first + r + 1, held * X.longest + 1);
    }
    part.columns.reset(new std::int32_t[std::size_t(part.starts[std::size_t(count)])]);  // most of it is never touched
    part.values.reset(new double[std::size_t(part.starts[std::size_t(count)])]);
    std::vector<double> all(std::size_t(team.threads * (p + 1)), 0.0);
    const T* const factor = problem.scaling.factor;
    with_indices(problem.csr, [&](const auto* indices, const auto* indptr) {
#pragma omp parallel for schedule(dynamic, 1) num_threads(team.threads)
        for (Index r = 0; r < count; ++r) {
            if (team.cancel->load(std::memory_order_relaxed)) continue;
            const Index j = first + r;
            double* const sum = all.data() + thread_number() * (p + 1);
            double total;
            sum_rows(problem, X, indices, indptr, j, sum, &total);
            const double own = scale_ * (factor ? double(factor[columns[r]]) : 1.0);
            sums[std::size_t(j)] = own * total;
            std::size_t at = std::size_t(part.starts[std::size_t(r)]);
            for (Index k = 0; k <= j; ++k) {
                if (sum[k] == 0 && k < j) continue;
                const double other = factor ? double(factor[columns_[std::size_t(k)]]) : 1.0;
                part.columns[at] = std::int32_t(k);
                part.values[at++] = own * sum[k] * other + (k == j ? ridge_ : 0.0);
                sum[k] = 0;
            }
            part.counts[std::size_t(r)] = Index(at) - part.starts[std::size_t(r)];
        }
    });
    parts_.push_back(std::move(part));
}

template <class T>
SparseMatrix SparseGram<T>::matrix() const {
    const Index p = Index(columns_.size());
    const auto each = [&](const auto& call) {  // of the lower triangle, row after row
        for (const Part& part : parts_)
            for (std::size_t r = 0; r < part.counts.size(); ++r)
                for (Index e = part.starts[r]; e < part.starts[r] + part.counts[r]; ++e)
                    call(part.first + Index(r), Index(part.columns[std::size_t(e)]), part.values[std::size_t(e)]);
    };
    SparseMatrix out;
    out.starts.assign(std::size_t(p + 1), 0);
    each([&](Index j, Index k, double) {
        ++out.starts[std::size_t(j + 1)];
        if (k != j) ++out.starts[std::size_t(k + 1)];
    });
    for (Index j = 0; j < p; ++j) out.starts[std::size_t(j + 1)] += out.starts[std::size_t(j)];
    out.columns.resize(std::size_t(out.starts[std::size_t(p)]));
    out.values.resize(out.columns.size());
    std::vector<std::int64_t> next(out.starts.begin(), out.starts.end() - 1);
    const auto put = [&](Index row, Index column, double value) {
        const std::size_t at = std::size_t(next[std::size_t(row)]++);
        out.columns[at] = std::int32_t(column);
        out.values[at] = value;
    };
    each([&](Index j, Index k, double value) {
        put(j, k, value);
        if (k != j) put(k, j, value);
    });
    return out;
}

#define GDFAST_INSTANTIATE(T)                                                                   \
    template void curvatures(const Problem<T>&, const T*, T*, const Team&);                     \
    template void gram(const Problem<T>&, const Index*, Index, const T*, double*, const Team&); \
    template struct SparseColumns<T>;                                                           \
    template class SparseGram<T>;
GDFAST_INSTANTIATE(float)
GDFAST_INSTANTIATE(double)

}  // namespace gdfast
