// Passes over all rows: gradient, Hessian, margins, moments, checks.
#include <cmath>
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
    const Index size = (p.d + 1) * lanes_of(p);
    const Aligned<T> weights = padded(p, w);
    Aligned<double> partial(std::size_t(shards * size), 0.0), losses(std::size_t(shards * lanes_of(p)), 0.0);
    std::vector<Tile<T>> tiles = tiles_for(p, team.threads, shards);
    over_shards(shards, tiles, [&](Index s, Tile<T>& tile) {
        const Index first = shard_start(p.n, shards, s), last = shard_start(p.n, shards, s + 1);
        tile.gradient(first, last, {last, last}, weights.data(), partial.data() + s * size, losses.data() + s * lanes_of(p),
                      *team.cancel);
    });
    add_shards(partial.data(), shards, size, p.k, lanes_of(p), 0, (p.d + 1) * p.k, 1.0, g);
    if (!p.intercept) std::fill_n(g + p.d * p.k, p.k, 0.0);
    return add_losses(losses.data(), shards, lanes_of(p), 0, p.k);
}

template <class T>
double hessian(const Problem<T>& p, const T* w, double* g, double* H, const Team& team) {
    const Index size = (p.d + 1) * lanes_of(p), stride = (p.d + 1 + 31) / 32 * 32;
    // a shard carries a whole matrix: fewer of them, and never less work than clearing and adding it costs
    Index shards = team.shards ? team.shards : shards_of(p, p.n);
    while (!team.shards && shards > 1 &&
           (shards * stride * stride * 8 > partial_bytes || p.n / shards < (shards > shards_few ? 32 : 2) * stride))
        shards /= 2;
    const Aligned<T> weights = padded(p, w);
    Aligned<double> partial(std::size_t(shards * size), 0.0), losses(std::size_t(shards * lanes_of(p)), 0.0);
    std::vector<double> matrices(std::size_t(shards * stride * stride), 0.0);
    std::vector<Tile<T>> tiles = tiles_for(p, team.threads, shards, nullptr, stride);
    over_shards(shards, tiles, [&](Index s, Tile<T>& tile) {
        tile.hessian(shard_start(p.n, shards, s), shard_start(p.n, shards, s + 1), weights.data(), partial.data() + s * size,
                     matrices.data() + s * stride * stride, losses.data() + s * lanes_of(p), *team.cancel);
    });
    add_shards(partial.data(), shards, size, p.k, lanes_of(p), 0, (p.d + 1) * p.k, 1.0, g);
    if (!p.intercept) std::fill_n(g + p.d * p.k, p.k, 0.0);
    for (Index i = 0; i <= p.d; ++i) {
        double* sums = matrices.data() + i * stride;
        for (Index s = 1; s < shards; ++s)
            for (Index j = i; j <= p.d; ++j) sums[j] += matrices[std::size_t((s * stride + i) * stride + j)];
        for (Index j = i; j <= p.d; ++j) H[i * (p.d + 1) + j] = H[j * (p.d + 1) + i] = sums[j];
    }
    return add_losses(losses.data(), shards, lanes_of(p), 0, p.k);
}

template <class T>
void hessian_product(const Problem<T>& problem, const T* w, const T* p, double* Hp, const Team& team) {
    const Index shards = shards_of(problem, problem.n), rows = problem.d + 1;
    const Index size = rows * lanes_of(problem);
    const Aligned<T> weights = padded(problem, w);
    Aligned<T> direction = padded(problem, p);
    if (!problem.intercept) std::fill(direction.begin() + problem.d * lanes_of(problem), direction.end(), T(0));
    Aligned<double> partial(std::size_t(shards * size), 0.0);
    std::vector<Tile<T>> tiles = tiles_for(problem, team.threads, shards, nullptr, 0, true);
    over_shards(shards, tiles, [&](Index s, Tile<T>& tile) {
        tile.hessian_product(shard_start(problem.n, shards, s), shard_start(problem.n, shards, s + 1), weights.data(),
                             direction.data(), partial.data() + s * size, *team.cancel);
    });
    add_shards(partial.data(), shards, size, problem.k, lanes_of(problem), 0, rows * problem.k, 1.0, Hp);
    if (!problem.intercept) std::fill_n(Hp + problem.d * problem.k, problem.k, 0.0);
}

template <class T>
double gradient_at(const Problem<T>& p, const T* z, double* g, T* h, const Team& team) {
    const Index shards = shards_of(p, p.n), size = p.d + 1;
    Aligned<double> partial(std::size_t(shards * size), 0.0), losses(std::size_t(shards), 0.0);
    std::vector<Tile<T>> tiles = tiles_for(p, team.threads, shards, nullptr, 0, true);
    over_shards(shards, tiles, [&](Index s, Tile<T>& tile) {
        tile.gradient_at(shard_start(p.n, shards, s), shard_start(p.n, shards, s + 1), z, partial.data() + s * size, h,
                         losses.data() + s, *team.cancel);
    });
    add_shards(partial.data(), shards, size, 1, 1, 0, size, 1.0, g);
    if (!p.intercept) g[p.d] = 0;
    return add_losses(losses.data(), shards, 1, 0, 1);
}

// Hp = X' diag(h) X p, again and again.
template <class T>
class CurvedProducts {
public:
    CurvedProducts(const Problem<T>& problem, const T* h, const Team& team)
        : problem_(problem),
          h_(h),
          team_(team),
          shards_(shards_of(problem, problem.n)),
          size_(problem.d + 1),
          tiles_(tiles_for(problem, team.threads, shards_, nullptr, 0, true)),
          direction_(std::size_t(size_ + lanes_behind)),
          partial_(std::size_t(shards_ * size_)) {}

    // p (d + 1) in double keeps its digits in T as p / size, size its largest number; u = X p / size. Returns size.
    double operator()(const double* p, T* u, double* Hp) {
        double size = 0;
        for (Index j = 0; j < size_; ++j) size = std::max(size, std::fabs(p[j]));
        for (Index j = 0; j < size_; ++j) direction_[std::size_t(j)] = T(p[j] / size);
        if (!problem_.intercept) direction_[std::size_t(size_ - 1)] = 0;
        over_shards(shards_, tiles_, [&](Index s, Tile<T>& tile) {
            double* sums = partial_.data() + s * size_;
            std::fill_n(sums, std::size_t(size_), 0.0);
            tile.curved_product(shard_start(problem_.n, shards_, s), shard_start(problem_.n, shards_, s + 1), h_,
                                direction_.data(), u, sums, *team_.cancel);
        });
        add_shards(partial_.data(), shards_, size_, 1, 1, 0, size_, size, Hp);
        if (!problem_.intercept) Hp[size_ - 1] = 0;
        return size;
    }

private:
    const Problem<T>& problem_;
    const T* h_;
    const Team& team_;
    const Index shards_, size_;
    std::vector<Tile<T>> tiles_;
    std::vector<T> direction_;
    std::vector<double> partial_;
};

template <class T>
NewtonStep conjugate_gradients(const Problem<T>& problem, const NewtonSystem<T>& system, double* s, T* margins,
                               const Team& team) {
    const Index size = problem.d + 1;
    std::vector<double> r(std::size_t(size), 0.0), y(r), p(r), Hp(r);
    std::vector<T> u(std::size_t(problem.n), T(0));
    CurvedProducts<T> product(problem, system.h, team);
    const auto dot = [&](const std::vector<double>& a, const std::vector<double>& b) {
        double sum = 0;
#pragma omp simd reduction(+ : sum)
        for (Index j = 0; j < size; ++j) sum += a[std::size_t(j)] * b[std::size_t(j)];
        return sum;
    };
    const auto precondition = [&] {
        for (Index j = 0; j < size; ++j) y[std::size_t(j)] = r[std::size_t(j)] / system.diagonal[j];
        return dot(r, y);
    };
    std::fill_n(s, std::size_t(size), 0.0);
    std::fill_n(margins, std::size_t(problem.n), T(0));
    for (Index j = 0; j < size; ++j) r[std::size_t(j)] = -system.g[j];
    double rz = precondition();
    p = y;
    NewtonStep step{0, 0};
    while (step.products < system.most && rz > 0 && !team.cancel->load(std::memory_order_relaxed)) {
        const double scale = product(p.data(), u.data(), Hp.data());
        ++step.products;
        for (Index j = 0; j < size; ++j)
            Hp[std::size_t(j)] = Hp[std::size_t(j)] / system.total + (j < problem.d ? system.l2 * p[std::size_t(j)] : 0.0);
        const double curvature = dot(p, Hp);
        if (!(curvature > 0)) break;
        const double a = rz / curvature, part = 0.5 * a * rz;
        const T moved = T(a * scale);
        for (Index i = 0; i < problem.n; ++i) margins[i] += moved * u[std::size_t(i)];
        for (Index j = 0; j < size; ++j) {
            s[j] += a * p[std::size_t(j)];
            r[std::size_t(j)] -= a * Hp[std::size_t(j)];
        }
        step.fall += part;
        if (double(step.products) * part <= system.share * step.fall) break;
        const double next = precondition();
        for (Index j = 0; j < size; ++j) p[std::size_t(j)] = y[std::size_t(j)] + next / rz * p[std::size_t(j)];
        rz = next;
    }
    return step;
}

template <class T>
void margins(const Problem<T>& p, const T* w, T* z, const Team& team) {
    const Index shards = shards_of(p.n, double(p.n) * row_bytes(p), 0, 0, 0), lanes = lanes_of(p);
    const Aligned<T> weights = padded(p, w);
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
void count_non_zeros(const Problem<T>& p, std::int64_t* starts, const Team& team) {
    starts[0] = 0;
#pragma omp parallel for schedule(static) num_threads(team.threads)
    for (Index i = 0; i < p.n; ++i) starts[i + 1] = p.kernels->count_non_zeros(p.rows.x + i * p.rows.stride, p.d);
    for (Index i = 0; i < p.n; ++i) starts[i + 1] += starts[i];
}

template <class T>
void pick_non_zeros(const Problem<T>& p, const std::int64_t* starts, T* x, std::int32_t* columns, const Team& team) {
#pragma omp parallel num_threads(team.threads)
    {
        std::vector<T> numbers(std::size_t(p.d));
        std::vector<std::int32_t> places(std::size_t(p.d));
#pragma omp for schedule(dynamic, 256)
        for (Index i = 0; i < p.n; ++i) {
            const Index found = p.kernels->pick_non_zeros(p.rows.x + i * p.rows.stride, p.d, numbers.data(), places.data());
            const Index count = std::min(found, starts[i + 1] - starts[i]);  // whoever writes to X meanwhile breaks no memory
            std::copy_n(numbers.data(), std::size_t(count), x + starts[i]);
            std::copy_n(places.data(), std::size_t(count), columns + starts[i]);
        }
    }
}

// The moments of one shard of dense rows.
template <class T>
static void add_moments(const Problem<T>& p, Index first, Index last, double* total, double* mean, double* squares,
                        double* scratch, const std::atomic<bool>& cancel) {
    const bool rows = p.layout != Layout::columns;
    const Index tile = std::clamp<Index>(Index((rows ? 16 : 256) * 1024 / row_bytes(p)), 16, 1024);
    std::vector<T> widened(std::size_t(p.layout == Layout::quantized ? tile * p.d : 0));
    for (Index i = first; i < last && !cancel.load(std::memory_order_relaxed); i += tile) {
        const Index m = std::min(tile, last - i);
        const T* weight = p.weight ? p.weight + i : nullptr;
        if (p.layout == Layout::quantized) {
            p.kernels->widen_rows(p.quantized, {nullptr, i}, m, last - i, widened.data());
            const DenseRows<T> dense{widened.data(), p.d, p.d};
            p.kernels->add_moments_rows(dense, {nullptr, 0}, m, weight, total, mean, squares, scratch);
        } else if (rows)
            p.kernels->add_moments_rows(p.rows, {nullptr, i}, m, weight, total, mean, squares, scratch);
        else
            p.kernels->add_moments_columns(p.columns, i, m, weight, total, mean, squares);
    }
}

// Two passes: the zeros that are not there have one deviation from the mean, which has to be known.
template <class T>
static void moments_csr(const Problem<T>& p, Index shards, double* mean, double* variance, const Team& team) {
    std::vector<double> sums(std::size_t(shards * p.d)), weights(std::size_t(shards * p.d));
    double total = 0;
    for (Index i = 0; i < p.n; ++i) total += p.weight ? double(p.weight[i]) : 1.0;
    for (int pass = 0; pass < 2; ++pass) {
        std::fill(sums.begin(), sums.end(), 0.0);
#pragma omp parallel for schedule(dynamic, 1) num_threads(team.threads)
        for (Index s = 0; s < shards; ++s) {
            const Index first = shard_start(p.n, shards, s), m = shard_start(p.n, shards, s + 1) - first;
            p.kernels->add_moments_csr(p.csr, first, m, p.weight ? p.weight + first : nullptr, pass ? mean : nullptr,
                                       sums.data() + s * p.d, weights.data() + s * p.d);
        }
        double* out = pass ? variance : mean;
        for (Index j = 0; j < p.d; ++j) {
            double sum = 0, seen = 0;
            for (Index s = 0; s < shards; ++s) sum += sums[std::size_t(s * p.d + j)], seen += weights[std::size_t(s * p.d + j)];
            out[j] = (pass ? sum + (total - seen) * mean[j] * mean[j] : sum) / total;
        }
    }
}

template <class T>
void mean_squares_csr(const Problem<T>& p, double* out, const Team& team) {
    const Index shards = shards_of(p, p.n);
    std::vector<double> sums(std::size_t(shards * p.d), 0.0);
    double total = p.weight ? 0.0 : double(p.n);
    for (Index i = 0; p.weight && i < p.n; ++i) total += double(p.weight[i]);
#pragma omp parallel for schedule(dynamic, 1) num_threads(team.threads)
    for (Index s = 0; s < shards; ++s) {
        const Index first = shard_start(p.n, shards, s), m = shard_start(p.n, shards, s + 1) - first;
        p.kernels->add_squares_csr(p.csr, first, m, p.weight ? p.weight + first : nullptr, sums.data() + s * p.d);
    }
    add_shards(sums.data(), shards, p.d, 1, 1, 0, p.d, 1 / total, out);
}

template <class T>
void moments(const Problem<T>& p, double* mean, double* variance, const Team& team) {
    const Index shards = shards_of(p, p.n), d = p.d;
    if (p.layout == Layout::csr) return moments_csr(p, shards, mean, variance, team);
    std::vector<double> totals(std::size_t(shards), 0.0), means(std::size_t(shards * d), 0.0),
        squares(std::size_t(shards * d), 0.0);
    std::vector<double> scratch(std::size_t(2 * d * team.threads));
#pragma omp parallel for schedule(dynamic, 1) num_threads(team.threads)
    for (Index s = 0; s < shards; ++s)
        add_moments(p, shard_start(p.n, shards, s), shard_start(p.n, shards, s + 1), totals.data() + s, means.data() + s * d,
                    squares.data() + s * d, scratch.data() + 2 * d * thread_number(), *team.cancel);
    double total = totals[0];
    for (Index s = 1; s < shards; ++s) {  // joined in their order
        const double mass = totals[std::size_t(s)], share = mass > 0 ? mass / (total + mass) : 0.0;
        for (Index j = 0; j < d; ++j) {
            const double step = means[std::size_t(s * d + j)] - means[std::size_t(j)];
            squares[std::size_t(j)] += squares[std::size_t(s * d + j)] + step * (step * (total * share));
            means[std::size_t(j)] += step * share;
        }
        total += mass;
    }
    for (Index j = 0; j < d; ++j) mean[j] = means[std::size_t(j)], variance[j] = squares[std::size_t(j)] / total;
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

#define GDFAST_INSTANTIATE(T)                                                                                     \
    template double gradient(const Problem<T>&, const T*, double*, const Team&);                                  \
    template double hessian(const Problem<T>&, const T*, double*, double*, const Team&);                          \
    template void hessian_product(const Problem<T>&, const T*, const T*, double*, const Team&);                   \
    template double gradient_at(const Problem<T>&, const T*, double*, T*, const Team&);                           \
    template NewtonStep conjugate_gradients(const Problem<T>&, const NewtonSystem<T>&, double*, T*, const Team&); \
    template void mean_squares_csr(const Problem<T>&, double*, const Team&);                                      \
    template void moments(const Problem<T>&, double*, double*, const Team&);                                      \
    template CsrCheck check_csr(const Problem<T>&, bool, const Team&);                                            \
    template void count_non_zeros(const Problem<T>&, std::int64_t*, const Team&);                                 \
    template void pick_non_zeros(const Problem<T>&, const std::int64_t*, T*, std::int32_t*, const Team&);         \
    template void margins(const Problem<T>&, const T*, T*, const Team&);                                          \
    template Index find_non_finite(const Kernels<T>&, const T*, Index, Index, Index, bool, const Team&);
GDFAST_INSTANTIATE(float)
GDFAST_INSTANTIATE(double)

}  // namespace gdfast
