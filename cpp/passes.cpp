// Passes over all rows: gradient, Hessian, margins, checks.
#include <limits>

#include "chunk.hpp"
#include "shards.hpp"
#include "team.hpp"

namespace gdfast {

// Runs `work(shard, tile)` over all shards, one tile a thread. Nothing inside may throw or allocate.
template <class T, class Work>
static void over_shards(Index shards, std::vector<Tile<T>>& tiles, const Work& work) {
#pragma omp parallel num_threads(int(tiles.size()))
    {
        Tile<T>& tile = tiles[std::size_t(thread_number())];
#pragma omp for schedule(dynamic, 1)
        for (Index s = 0; s < shards; ++s) work(s, tile);
    }
}

template <class T>
double gradient(const Problem<T>& p, const T* w, double* g, const Team& team) {
    const Index shards = team.shards ? team.shards : shards_of(p, p.n);
    const Index size = (p.d + 1) * lanes_of(p.k);
    const std::vector<T> weights = padded(w, p.d + 1, p.k);
    std::vector<double> partial(std::size_t(shards * size), 0.0), losses(std::size_t(shards * lanes_of(p.k)), 0.0);
    std::vector<Tile<T>> tiles = tiles_for(p, team.threads, shards);
    over_shards(shards, tiles, [&](Index s, Tile<T>& tile) {
        tile.gradient(shard_start(p.n, shards, s), shard_start(p.n, shards, s + 1), weights.data(), partial.data() + s * size,
                      losses.data() + s * lanes_of(p.k), *team.cancel);
    });
    add_shards(partial.data(), shards, size, p.k, lanes_of(p.k), 0, (p.d + 1) * p.k, 1.0, g);
    if (!p.intercept) std::fill_n(g + p.d * p.k, p.k, 0.0);
    return add_losses(losses.data(), shards, lanes_of(p.k), 0, p.k);
}

template <class T>
double hessian(const Problem<T>& p, const T* w, double* g, double* H, const Team& team) {
    const Index size = (p.d + 1) * lanes_of(p.k), stride = (p.d + 1 + 31) / 32 * 32;
    // a shard carries a whole matrix: fewer of them, and never less work than clearing and adding it costs
    Index shards = team.shards ? team.shards : shards_of(p, p.n);
    while (!team.shards && shards > 1 &&
           (shards * stride * stride * 8 > partial_bytes || p.n / shards < (shards > shards_few ? 32 : 2) * stride))
        shards /= 2;
    const std::vector<T> weights = padded(w, p.d + 1, p.k);
    std::vector<double> partial(std::size_t(shards * size), 0.0), losses(std::size_t(shards * lanes_of(p.k)), 0.0);
    std::vector<double> matrices(std::size_t(shards * stride * stride), 0.0);
    std::vector<Tile<T>> tiles = tiles_for(p, team.threads, shards, nullptr, stride);
    over_shards(shards, tiles, [&](Index s, Tile<T>& tile) {
        tile.hessian(shard_start(p.n, shards, s), shard_start(p.n, shards, s + 1), weights.data(), partial.data() + s * size,
                     matrices.data() + s * stride * stride, losses.data() + s * lanes_of(p.k), *team.cancel);
    });
    add_shards(partial.data(), shards, size, p.k, lanes_of(p.k), 0, (p.d + 1) * p.k, 1.0, g);
    if (!p.intercept) std::fill_n(g + p.d * p.k, p.k, 0.0);
    for (Index i = 0; i <= p.d; ++i) {
        double* sums = matrices.data() + i * stride;
        for (Index s = 1; s < shards; ++s)
            for (Index j = i; j <= p.d; ++j) sums[j] += matrices[std::size_t((s * stride + i) * stride + j)];
        for (Index j = i; j <= p.d; ++j) H[i * (p.d + 1) + j] = H[j * (p.d + 1) + i] = sums[j];
    }
    return add_losses(losses.data(), shards, lanes_of(p.k), 0, p.k);
}

template <class T>
void hessian_product(const Problem<T>& problem, const T* w, const T* p, double* Hp, const Team& team) {
    const Index shards = shards_of(problem, problem.n), rows = problem.d + 1;
    const Index size = rows * lanes_of(problem.k);
    const std::vector<T> weights = padded(w, rows, problem.k);
    std::vector<T> direction = padded(p, rows, problem.k);
    if (!problem.intercept) std::fill(direction.begin() + problem.d * lanes_of(problem.k), direction.end(), T(0));
    std::vector<double> partial(std::size_t(shards * size), 0.0);
    std::vector<Tile<T>> tiles = tiles_for(problem, team.threads, shards, nullptr, 0, true);
    over_shards(shards, tiles, [&](Index s, Tile<T>& tile) {
        tile.hessian_product(shard_start(problem.n, shards, s), shard_start(problem.n, shards, s + 1), weights.data(),
                             direction.data(), partial.data() + s * size, *team.cancel);
    });
    add_shards(partial.data(), shards, size, problem.k, lanes_of(problem.k), 0, rows * problem.k, 1.0, Hp);
    if (!problem.intercept) std::fill_n(Hp + problem.d * problem.k, problem.k, 0.0);
}

template <class T>
void margins(const Problem<T>& p, const T* w, T* z, const Team& team) {
    const Index shards = shards_of(p.n, double(p.n) * row_bytes(p), 0, 0, 0), lanes = lanes_of(p.k);
    const std::vector<T> weights = padded(w, p.d + 1, p.k);
    std::vector<Tile<T>> tiles = tiles_for(p, team.threads, shards);
    over_shards(shards, tiles, [&](Index s, Tile<T>& tile) {
        const Index last = shard_start(p.n, shards, s + 1);
        for (Index i = shard_start(p.n, shards, s); i < last && !team.cancel->load(std::memory_order_relaxed);
             i += tile.rows()) {
            const Index m = std::min(tile.rows(), last - i);
            const T* from = tile.margins(i, m, weights.data());
            if (lanes == 1) std::copy_n(from, std::size_t(m), z + i);
            for (Index r = 0; lanes > 1 && r < m; ++r) std::copy_n(from + r * lanes, std::size_t(p.k), z + (i + r) * p.k);
        }
    });
}

template <class T>
Index find_non_finite(const Kernels<T>& kernels, const T* a, Index lines, Index length, Index stride, bool across,
                      const Team& team) {
    if (lines == 0 || length == 0) return -1;
    if (stride == length && !across) length *= lines, stride = length, lines = 1;
    constexpr Index block = 1 << 16;
    const Index parts = (length + block - 1) / block, none = std::numeric_limits<Index>::max();
    std::atomic<Index> first{none};
#pragma omp parallel for schedule(dynamic, 16) num_threads(team.threads)
    for (Index b = 0; b < lines * parts; ++b) {
        const Index line = b / parts, start = b % parts * block, count = std::min(block, length - start);
        const auto place = [&](Index i) { return across ? i * lines + line : line * length + i; };
        if (team.cancel->load(std::memory_order_relaxed) || place(start) > first.load(std::memory_order_relaxed)) continue;
        const Index at = kernels.find_non_finite(a + line * stride + start, count);
        if (at < 0) continue;
        Index known = first.load(std::memory_order_relaxed);
        while (place(start + at) < known && !first.compare_exchange_weak(known, place(start + at))) {
        }
    }
    return first == none ? -1 : first.load();
}

template <class T>
CsrCheck check_csr(const Problem<T>& p, bool finite, const Team& team) {
    constexpr Index block = 4096;
    std::vector<CsrCheck> found(std::size_t((p.n + block - 1) / block), CsrCheck{CsrFault::none, -1});
#pragma omp parallel for schedule(dynamic, 1) num_threads(team.threads)
    for (Index b = 0; b < Index(found.size()); ++b)
        if (!team.cancel->load(std::memory_order_relaxed))
            found[std::size_t(b)] = p.kernels->check_csr(p.csr, b * block, std::min(p.n, (b + 1) * block), p.entries, finite);
    CsrCheck first{CsrFault::none, -1};
    for (const CsrCheck& check : found) {
        if (check.fault == CsrFault::none || (check.fault == CsrFault::order && first.fault == CsrFault::order)) continue;
        first = check;
        if (check.fault != CsrFault::order) break;
    }
    return first;
}

#define GDFAST_INSTANTIATE(T)                                                                   \
    template double gradient(const Problem<T>&, const T*, double*, const Team&);                \
    template double hessian(const Problem<T>&, const T*, double*, double*, const Team&);        \
    template void hessian_product(const Problem<T>&, const T*, const T*, double*, const Team&); \
    template CsrCheck check_csr(const Problem<T>&, bool, const Team&);                          \
    template void margins(const Problem<T>&, const T*, T*, const Team&);                        \
    template Index find_non_finite(const Kernels<T>&, const T*, Index, Index, Index, bool, const Team&);
GDFAST_INSTANTIATE(float)
GDFAST_INSTANTIATE(double)

}  // namespace gdfast
