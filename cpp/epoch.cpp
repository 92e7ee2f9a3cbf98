// An epoch of mini-batches.
#include <chrono>
#include <cmath>

#include "chunk.hpp"
#include "shards.hpp"
#include "team.hpp"

namespace gdfast {

static double seconds_since(std::chrono::steady_clock::time_point start) {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
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

// The steps of one epoch, on any number of threads from step to step.
template <class T>
class Steps {
public:
    Steps(const Problem<T>& problem, const Epoch<T>& epoch, const Team& team)
        : p(problem),
          e(epoch),
          cancel(*team.cancel),
          count(e.steps),
          shards_max(team.shards ? team.shards : shards_of(std::min(e.batch, p.n), p.d, p.k, sizeof(T))),
          lanes(lanes_of(p.k)),
          size((p.d + 1) * lanes),
          parameters((p.d + 1) * p.k),
          blocks(parameter_blocks(parameters)),
          tiles(tiles_for(p, team.threads, shards_max, e.order)),
          partial(std::size_t(shards_max * size)),
          losses(std::size_t(shards_max)),
          squares(std::size_t(blocks)),
          g(std::size_t(parameters)) {
        if (lanes > 1) packed = padded(e.update.w, p.d + 1, p.k);
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
        const T* weights = lanes > 1 ? packed.data() : e.update.w;
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
            e.losses[b] = loss;
            stop = !finite || cancel.load(std::memory_order_relaxed);
        }
        if (!finite) return;
        const double t = double(e.first_step + b + 1);
        Step<T> step = e.update.step;
        step.lr = e.rates[b];
        step.scale = e.update.scale_of(norm);
        step.coefficients = e.coefficients + std::min(b, e.n_coefficients - 1) * e.update.optimizer->n_coefficients;
        T* const w = e.update.w;
        for (Index c = me; c < blocks; c += members) {
            const Index from = c * parameters_per_block, to = std::min(parameters, from + parameters_per_block);
            e.update.optimizer->update(step, w, g.data(), e.update.slots, parameters, e.update.n_penalized, from, to);
            for (Index i = from; lanes > 1 && i < to; ++i) packed[std::size_t(i / p.k * lanes + i % p.k)] = w[i];
            if (e.average_from && t >= double(e.average_from)) {
                const T gain = T(1 / (t - double(e.average_from) + 1));
                for (Index i = from; i < to; ++i) e.average[i] += gain * (w[i] - e.average[i]);
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
    // What is learned is kept while the same weights are trained with the same batches.
    void start(const void* weights, Index batch) {
        if (weights != weights_ || batch != batch_) *this = Pace{};
        weights_ = weights;
        batch_ = batch;
    }
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
    const void* weights_ = nullptr;
    Index batch_ = 0;
    bool alone_ = false, trial_ = false;
    int turns_ = 0, between_trials_ = shortest;
    double per_step_[2] = {0, 0};  // of the team, of one thread
};

template <class T>
EpochResult epoch(const Problem<T>& p, const Epoch<T>& e, const Team& team) {
    constexpr double turn = 1e-3;
    const auto began = std::chrono::steady_clock::now();
    Steps<T> steps(p, e, team);
    thread_local Pace pace;  // as long as the worker, so from epoch to epoch of a fit
    pace.start(e.update.w, e.batch);
    for (Index b = 0; b < steps.count && !steps.stop;) {
        const auto start = std::chrono::steady_clock::now();
        const double left = e.seconds - seconds_since(began);
        if (left <= 0) break;
        const Index made = steps.threads() == 1 ? steps.run(b, left, 1)
                                                : steps.run(b, std::min(turn, left), pace.alone() ? 1 : steps.threads());
        pace.took(seconds_since(start) / double(made));
        b += made;
    }
    return steps.result;
}

template EpochResult epoch(const Problem<float>&, const Epoch<float>&, const Team&);
template EpochResult epoch(const Problem<double>&, const Epoch<double>&, const Team&);

}  // namespace gdfast
