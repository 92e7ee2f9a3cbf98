#include "chunk.hpp"

#include <chrono>
#include <cmath>

#include "tile.hpp"

#ifdef _OPENMP
#include <omp.h>
static int thread_number() { return omp_get_thread_num(); }
static int team_size() { return omp_get_num_threads(); }
#else
static int thread_number() { return 0; }
static int team_size() { return 1; }
#endif

static double seconds_since(std::chrono::steady_clock::time_point start) {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

// To be called by all members of a team. A team of one would pay a system call for OpenMP's own.
static void wait_for_all(int members) {
    if (members == 1) return;
#pragma omp barrier
}

#ifdef __linux__
#include <sched.h>
#endif

namespace gdfast {

void spread_team([[maybe_unused]] int threads) {
#if defined(__linux__) && defined(_OPENMP)
    cpu_set_t allowed;
    if (sched_getaffinity(0, sizeof(allowed), &allowed) != 0 || CPU_COUNT(&allowed) < threads) return;
    const int home = sched_getcpu();
#pragma omp parallel num_threads(threads)
    {
        // The creator goes one core on, which frees its core for the new ones to run and to leave in turn.
        int left = thread_number() + 1, cpu = home < 0 ? 0 : home;
        while (!CPU_ISSET(cpu, &allowed) || left-- > 0) cpu = (cpu + 1) % CPU_SETSIZE;
        cpu_set_t one;
        CPU_ZERO(&one);
        CPU_SET(cpu, &one);
        // moved, and free again to be moved by the scheduler
        if (sched_setaffinity(0, sizeof(one), &one) == 0) sched_setaffinity(0, sizeof(allowed), &allowed);
    }
#endif
}

// A shard is worth a thread's attention from here on, and all partial sums together may take this much memory.
static constexpr Index shard_bytes = 16 * 1024, partial_bytes = 64 * 1024 * 1024, shards_max = 128;

Index shards_of(Index rows, Index d, Index k, std::size_t itemsize) {
    const double bytes = double(rows) * double(std::max<Index>(d, 1)) * double(itemsize);
    const double sums = double(d + 1) * double(lanes_of(k)) * sizeof(double);
    Index shards = 1;
    while (2 * shards <= shards_max && bytes >= double(2 * shards * shard_bytes) && rows >= 2 * shards * 16 &&
           double(2 * shards) * sums <= double(partial_bytes))
        shards *= 2;
    return shards;
}

// Shard s of `rows` rows: whole groups of 16, so that no two shards share a tile's registers.
static Index shard_start(Index rows, Index shards, Index s) {
    if (s == 0) return 0;
    if (s == shards) return rows;
    const Index groups = (rows + 15) / 16;
    return std::min(rows, groups * s / shards * 16);
}

template <class T>
static std::vector<T> padded(const T* w, Index rows, Index k) {
    const Index lanes = lanes_of(k);
    std::vector<T> out(std::size_t(rows * lanes), T(0));
    for (Index j = 0; j < rows; ++j) std::copy_n(w + j * k, std::size_t(k), out.data() + j * lanes);
    return out;
}

// out[j k + o] = sum over the shards, in their order, of partial[s][j lanes + o], for first <= j k + o < last
template <class T>
static void add_shards(const double* partial, Index shards, Index size, Index k, Index first, Index last, double scale,
                       T* out) {
    const Index lanes = lanes_of(k);
    double sums[256];
    for (Index start = first; start < last; start += 256) {
        const Index count = std::min<Index>(256, last - start);
        for (Index i = 0; i < count; ++i) sums[i] = 0;
        for (Index s = 0; s < shards; ++s) {
            const double* from = partial + s * size;
            if (k == 1)
                for (Index i = 0; i < count; ++i) sums[i] += from[start + i];
            else
                for (Index i = 0; i < count; ++i) sums[i] += from[(start + i) / k * lanes + (start + i) % k];
        }
        for (Index i = 0; i < count; ++i) out[start + i] = T(sums[i] * scale);
    }
}

template <class T>
static std::vector<Tile<T>> tiles_for(const Problem<T>& problem, int threads, Index shards,
                                      const std::uint32_t* order = nullptr, Index gram_stride = 0) {
    std::vector<Tile<T>> tiles;
    const Index count = std::max<Index>(1, std::min<Index>(threads, shards));
    tiles.reserve(std::size_t(count));
    for (Index i = 0; i < count; ++i) tiles.emplace_back(problem, order, gram_stride);
    return tiles;
}

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
    const Index shards = team.shards ? team.shards : shards_of(p.n, p.d, p.k, sizeof(T));
    const Index size = (p.d + 1) * lanes_of(p.k);
    const std::vector<T> weights = padded(w, p.d + 1, p.k);
    std::vector<double> partial(std::size_t(shards * size), 0.0), losses(std::size_t(shards), 0.0);
    std::vector<Tile<T>> tiles = tiles_for(p, team.threads, shards);
    over_shards(shards, tiles, [&](Index s, Tile<T>& tile) {
        losses[std::size_t(s)] = tile.gradient(shard_start(p.n, shards, s), shard_start(p.n, shards, s + 1), weights.data(),
                                               partial.data() + s * size, *team.cancel);
    });
    add_shards(partial.data(), shards, size, p.k, 0, (p.d + 1) * p.k, 1.0, g);
    if (!p.intercept) std::fill_n(g + p.d * p.k, p.k, 0.0);
    double loss = 0;
    for (double value : losses) loss += value;
    return loss;
}

template <class T>
double hessian(const Problem<T>& p, const T* w, double* g, double* H, const Team& team) {
    const Index size = (p.d + 1) * lanes_of(p.k), stride = (p.d + 1 + 31) / 32 * 32;
    // a shard carries a whole matrix: fewer of them, and never less work than adding it costs
    Index shards = team.shards ? team.shards : shards_of(p.n, p.d, p.k, sizeof(T));
    while (!team.shards && shards > 1 && (shards * stride * stride * 8 > partial_bytes || p.n / shards < 2 * stride))
        shards /= 2;
    const std::vector<T> weights = padded(w, p.d + 1, p.k);
    std::vector<double> partial(std::size_t(shards * size), 0.0), losses(std::size_t(shards), 0.0);
    std::vector<double> matrices(std::size_t(shards * stride * stride), 0.0);
    std::vector<Tile<T>> tiles = tiles_for(p, team.threads, shards, nullptr, stride);
    over_shards(shards, tiles, [&](Index s, Tile<T>& tile) {
        losses[std::size_t(s)] = tile.hessian(shard_start(p.n, shards, s), shard_start(p.n, shards, s + 1), weights.data(),
                                              partial.data() + s * size, matrices.data() + s * stride * stride, *team.cancel);
    });
    add_shards(partial.data(), shards, size, p.k, 0, (p.d + 1) * p.k, 1.0, g);
    if (!p.intercept) std::fill_n(g + p.d * p.k, p.k, 0.0);
    for (Index i = 0; i <= p.d; ++i)
        for (Index j = i; j <= p.d; ++j) {
            double sum = 0;
            for (Index s = 0; s < shards; ++s) sum += matrices[std::size_t((s * stride + i) * stride + j)];
            H[i * (p.d + 1) + j] = H[j * (p.d + 1) + i] = sum;
        }
    double loss = 0;
    for (double value : losses) loss += value;
    return loss;
}

template <class T>
void margins(const Problem<T>& p, const T* w, T* z, const Team& team) {
    const Index shards = shards_of(p.n, p.d, p.k, sizeof(T)), lanes = lanes_of(p.k);
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

// The shards of batch b that one member of a team sums.
struct Share {
    Index batch_start, rows, shards, first, last;
    Index row(Index s) const { return batch_start + shard_start(rows, shards, s); }
};

template <class T>
static Share share(const Problem<T>& p, Index batch, Index b, Index shards, int me, int members) {
    const Index rows = std::min(batch, p.n - b * batch);
    if (rows < batch) shards = std::min(shards, shards_of(rows, p.d, p.k, sizeof(T)));
    if (members == 1) return {b * batch, rows, shards, 0, shards};
    return {b * batch, rows, shards, shards * me / members, shards * (me + 1) / members};
}

// The parameters are cut into blocks, one a turn of a thread; the squares of a gradient are summed block by block.
static constexpr Index parameters_per_block = 4096;

// The steps of one epoch, on any number of threads from step to step.
template <class T>
class Steps {
public:
    Steps(const Problem<T>& problem, const Epoch<T>& epoch, const Team& team)
        : p(problem),
          e(epoch),
          cancel(*team.cancel),
          count((p.n + e.batch - 1) / e.batch),
          shards_max(team.shards ? team.shards : shards_of(std::min(e.batch, p.n), p.d, p.k, sizeof(T))),
          lanes(lanes_of(p.k)),
          size((p.d + 1) * lanes),
          parameters((p.d + 1) * p.k),
          blocks((parameters + parameters_per_block - 1) / parameters_per_block),
          tiles(tiles_for(p, team.threads, shards_max, e.shuffled ? e.keys : nullptr)),
          partial(std::size_t(shards_max * size)),
          losses(std::size_t(shards_max)),
          squares(std::size_t(blocks)),
          g(std::size_t(parameters)) {
        if (lanes > 1) packed = padded(e.w, p.d + 1, p.k);
    }

    int threads() const { return int(tiles.size()); }

    // Steps from b on, for about so many seconds (at least one step); returns how many. Stops where cancelled or not finite.
    Index run(Index b, double seconds, int threads) {
        const Index first = b;
        const auto start = std::chrono::steady_clock::now();
        Index end = count;  // written by the first member between the barriers that all read it behind
#pragma omp parallel num_threads(threads) firstprivate(b)
        for (const int me = thread_number(), members = team_size(); b < end; ++b) {
            const Share mine = share(p, e.batch, b, shards_max, me, members);
            sum(mine, tiles[std::size_t(me)]);
            wait_for_all(members);
            for (Index c = me; c < blocks; c += members) reduce(mine, c);
            if (blocks > 1) wait_for_all(members);
            if (me < blocks) update(mine, b, me, members);
            if (me == 0 && (stop || seconds_since(start) > seconds)) end = b + 1;
            wait_for_all(members);
        }
        return std::min(end, count) - first;
    }

    const Problem<T>& p;
    const Epoch<T>& e;
    const std::atomic<bool>& cancel;
    const Index count;  // of steps
    EpochResult result{0.0, 0, true};
    bool stop = false;

private:
    // the gradients of one member's shards of a batch
    void sum(const Share& mine, Tile<T>& tile) {
        const T* weights = lanes > 1 ? packed.data() : e.w;
        for (Index s = mine.first; s < mine.last; ++s) {
            double* sums = partial.data() + s * size;
            std::fill_n(sums, size, 0.0);
            losses[std::size_t(s)] = tile.gradient(mine.row(s), mine.row(s + 1), weights, sums, cancel);
        }
    }

    // the mean gradient of block c of the parameters, and its squares
    void reduce(const Share& batch, Index c) {
        const Index from = c * parameters_per_block, to = std::min(parameters, from + parameters_per_block);
        add_shards(partial.data(), batch.shards, size, p.k, from, to, 1 / (double(batch.rows) * e.mean_weight), g.data());
        if (!p.intercept)
            for (Index i = std::max(from, p.d * p.k); i < to; ++i) g[std::size_t(i)] = 0;
        squares[std::size_t(c)] = p.kernels->sum_of_squares(g.data() + from, to - from);
    }

    // one member's blocks of the parameters
    void update(const Share& batch, Index b, int me, int members) {
        double loss = 0, square = 0;
        for (Index s = 0; s < batch.shards; ++s) loss += losses[std::size_t(s)];
        for (double value : squares) square += value;
        const double norm = std::sqrt(square);
        const bool finite = std::isfinite(loss) && std::isfinite(norm);
        // every member comes to the same `finite`; only the first one writes what all share
        if (me == 0) {
            result.loss += loss;
            result.finite = finite;
            if (finite) ++result.steps;
            e.norms[b] = norm;
            stop = !finite || cancel.load(std::memory_order_relaxed);
        }
        if (!finite) return;
        Step step = e.step;
        step.lr = e.rates[b];
        step.t = double(e.first_step + b + 1);
        step.scale = norm > e.clip_norm ? e.clip_norm / norm : 1.0;
        for (Index c = me; c < blocks; c += members) {
            const Index from = c * parameters_per_block, to = std::min(parameters, from + parameters_per_block);
            e.optimizer->update(step, e.w, g.data(), e.slots, parameters, p.d * p.k, from, to);
            for (Index i = from; lanes > 1 && i < to; ++i) packed[std::size_t(i / p.k * lanes + i % p.k)] = e.w[i];
            if (e.average_from && step.t >= double(e.average_from)) {
                const T gain = T(1 / (step.t - double(e.average_from) + 1));
                for (Index i = from; i < to; ++i) e.average[i] += gain * (e.w[i] - e.average[i]);
            }
        }
    }

    const Index shards_max, lanes, size, parameters, blocks;
    std::vector<Tile<T>> tiles;
    std::vector<double> partial, losses, squares;
    std::vector<T> g, packed;
};

// One thread or the team, by their measured speed. Waiting for each other three times a batch is cheap on idle cores and
// ruinous on busy ones; as the bits are the same either way, the choice is free at any step. Now and then the other one is
// tried, more seldom each time that it loses.
class Pace {
public:
    bool alone() const { return alone_; }

    void took(double seconds_per_step) {
        double& mine = per_step_[alone_];
        const double other = per_step_[!alone_];
        mine = trial_ || mine == 0 ? seconds_per_step : 0.7 * mine + 0.3 * seconds_per_step;
        if (trial_) {
            trial_ = false;
            const bool won = mine < other;
            between_trials_ = won ? shortest : std::min(2 * between_trials_, 64 * shortest);
            turns_ = 0;
            if (!won) alone_ = !alone_;
        } else if (other == 0 || ++turns_ >= between_trials_) {
            trial_ = true;
            alone_ = !alone_;
        }
    }

private:
    static constexpr int shortest = 16;
    bool alone_ = false, trial_ = false;
    int turns_ = 0, between_trials_ = shortest;
    double per_step_[2] = {0, 0};  // of the team, of one thread
};

template <class T>
EpochResult epoch(const Problem<T>& p, const Epoch<T>& e, const Team& team) {
    constexpr double turn = 1e-3, forever = 1e30;
    Steps<T> steps(p, e, team);
    Pace pace;
    for (Index b = 0; b < steps.count && !steps.stop;) {
        const auto start = std::chrono::steady_clock::now();
        const Index made =
            steps.threads() == 1 ? steps.run(b, forever, 1) : steps.run(b, turn, pace.alone() ? 1 : steps.threads());
        pace.took(seconds_since(start) / double(made));
        b += made;
    }
    return steps.result;
}

#define GDFAST_INSTANTIATE(T)                                                            \
    template double gradient(const Problem<T>&, const T*, double*, const Team&);         \
    template double hessian(const Problem<T>&, const T*, double*, double*, const Team&); \
    template void margins(const Problem<T>&, const T*, T*, const Team&);                 \
    template EpochResult epoch(const Problem<T>&, const Epoch<T>&, const Team&);
GDFAST_INSTANTIATE(float)
GDFAST_INSTANTIATE(double)

}  // namespace gdfast
