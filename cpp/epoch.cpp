// An epoch of mini-batches.
#include <chrono>
#include <cmath>

#include "chunk.hpp"
#include "lazy_steps.hpp"
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
    if (rows < batch) shards = std::min(shards, shards_of(p, rows));
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
          shards_max(team.shards ? team.shards : shards_of(p, std::min(e.batch, p.n))),
          lanes(lanes_of(p)),
          size((p.d + 1) * lanes),
          outputs(p.k / e.n_models),
          parameters((p.d + 1) * outputs),
          blocks(parameter_blocks(parameters)),
          tiles(tiles_for(p, team.threads, shards_max, e.order)),
          partial(std::size_t(shards_max * size)),
          losses(std::size_t(shards_max * lanes)),
          squares(std::size_t(e.n_models * blocks)),
          g(std::size_t(e.n_models * parameters)),
          packed(lanes > 1 ? std::size_t(size + lanes_behind) : 0) {
        for (auto& flags : runs) flags.assign(std::size_t(e.n_models), true);
        for (Index i = 0; lanes > 1 && i < e.n_models; ++i)
            pad(e.models[i].update.w, p.d + 1, outputs, lanes, packed.data() + i * outputs);
    }

    int threads() const { return int(tiles.size()); }

    // Steps from b on, for about so many seconds (at least one step); returns how many. Stops where cancelled or not finite.
    Index run(Index b, double seconds, int threads) {
        const Index first = b;
        const auto start = std::chrono::steady_clock::now();
        Index end = count;  // written by the first member between the barriers that all read it behind
#pragma omp parallel num_threads(threads) firstprivate(b)
        for (const int me = thread_number(), members = team_size(); b < end; ++b) {
            const Share mine = share(p, e.batch, e.first + b, shards_max, me, members);
            const Share next = share(p, e.batch, e.first + std::min(b + 1, count - 1), shards_max, me, members);
            sum(mine, {mine.row(mine.last), next.row(next.first)}, tiles[std::size_t(me)]);
            wait_for_all(members);
            // the first member has a share wherever there is one
            const Index turns = e.n_models * blocks, from = (turns * me + members - 1) / members,
                        to = (turns * (me + 1) + members - 1) / members;
            for (Index c = from; c < to; ++c) reduce(mine, c);
            if (turns > 1) wait_for_all(members);
            for (Index i = 0; i < e.n_models; ++i)
                if (runs[b % 2][std::size_t(i)])
                    update(mine, b, i, me, std::max(from, i * blocks), std::min(to, (i + 1) * blocks));
            if (me == 0) stop = stops(b);
            if (me == 0 && (stop || seconds_since(start) > seconds)) end = b + 1;
            wait_for_all(members);
        }
        return std::min(end, count) - first;
    }

    const Problem<T>& p;
    const Epoch<T>& e;
    const std::atomic<bool>& cancel;
    const Index count;  // of steps
    bool stop = false;

private:
    // the gradients of one member's shards of a batch; what it reads next
    void sum(const Share& mine, Upcoming next, Tile<T>& tile) {
        const T* weights = lanes > 1 ? packed.data() : e.models[0].update.w;
        for (Index s = mine.first; s < mine.last; ++s) {
            double *sums = partial.data() + s * size, *values = losses.data() + s * lanes;
            std::fill_n(sums, size, 0.0);
            std::fill_n(values, lanes, 0.0);
            tile.gradient(mine.row(s), mine.row(s + 1), next, weights, sums, values, cancel);
        }
    }

    // A block of the parameters of one of the models. Blocks count through the models.
    struct Block {
        Index model, from, to;
    };
    Block block(Index c) const {
        const Index from = c % blocks * parameters_per_block;
        return {c / blocks, from, std::min(parameters, from + parameters_per_block)};
    }
    T* gradient_of(Index model) { return g.data() + model * parameters; }

    // the mean gradient of block c, and its squares
    void reduce(const Share& batch, Index c) {
        const auto [i, from, to] = block(c);
        T* const out = gradient_of(i);
        add_shards(partial.data() + i * outputs, batch.shards, size, outputs, lanes, from, to,
                   1 / (double(batch.rows) * e.models[i].mean_weight), out);
        if (!p.intercept)
            for (Index l = std::max(from, p.d * outputs); l < to; ++l) out[l] = 0;
        squares[std::size_t(c)] = p.kernels->sum_of_squares(out + from, to - from);
    }

    // the blocks [first, last) of model i, by one member
    void update(const Share& batch, Index b, Index i, int me, Index first, Index last) {
        if (me > 0 && first >= last) return;
        Model<T>& model = e.models[i];
        const double loss = add_losses(losses.data(), batch.shards, lanes, i * outputs, outputs);
        double square = 0;
        for (Index c = 0; c < blocks; ++c) square += squares[std::size_t(i * blocks + c)];
        const double norm = std::sqrt(square);
        const bool finite = std::isfinite(loss) && std::isfinite(norm);
        // every member comes to the same `finite`; only the first one writes what all share
        if (me == 0) runs[(b + 1) % 2][std::size_t(i)] = model.record(b, loss, norm);
        if (!finite) return;
        const Step<T> step = model.step_of(b, norm, model.update.step);
        T* const w = model.update.w;
        for (Index c = first; c < last; ++c) {
            const auto [_, from, to] = block(c);
            model.update.optimizer->update(step, w, gradient_of(i), model.update.slots, parameters, model.update.n_penalized,
                                           from, to);
            if (lanes > 1) pack(i, from, to);
            model.add_to_average(b, w, model.average, from, to);
        }
    }

    void pack(Index i, Index from, Index to) {
        const T* const w = e.models[i].update.w;
        T* const out = packed.data() + i * outputs;
        if (outputs == 1)
            for (Index l = from; l < to; ++l) out[l * lanes] = w[l];
        else
            for (Index l = from; l < to; ++l) out[l / outputs * lanes + l % outputs] = w[l];
    }

    // Was step b the last one that can be made?
    bool stops(Index b) {
        bool any = false;
        for (Index i = 0; i < e.n_models; ++i) {
            if (!runs[b % 2][std::size_t(i)]) runs[(b + 1) % 2][std::size_t(i)] = false;
            any |= runs[(b + 1) % 2][std::size_t(i)] != 0;
        }
        return !any || cancel.load(std::memory_order_relaxed);
    }

    const Index shards_max, lanes, size, outputs, parameters, blocks;  // the last three of one model
    std::vector<Tile<T>> tiles;
    Aligned<double> partial;
    std::vector<double> losses, squares;
    std::vector<T> g;
    Aligned<T> packed;
    std::vector<char> runs[2];  // which models make even and odd steps
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

// Makes the steps, in turns short enough that the choice can be made anew.
template <class Steps, class T>
void make(Steps& steps, const Epoch<T>& e) {
    constexpr double turn = 1e-3;
    const auto began = std::chrono::steady_clock::now();
    thread_local Pace pace;  // as long as the worker, so from epoch to epoch of a fit
    pace.start(e.models[0].update.w, e.batch);
    for (Index b = 0; b < steps.count && !steps.stop;) {
        const auto start = std::chrono::steady_clock::now();
        const double left = e.seconds - seconds_since(began);
        if (left <= 0) break;
        const Index made = steps.threads() == 1 ? steps.run(b, left, 1)
                                                : steps.run(b, std::min(turn, left), pace.alone() ? 1 : steps.threads());
        if (made > 0) pace.took(seconds_since(start) / double(made));
        b += made;
    }
}

template <class T>
void epoch(const Problem<T>& p, const Epoch<T>& e, const Team& team) {
    if (is_lazy(p, e)) {
        LazySteps<T> steps(p, e, team);
        make(steps, e);
        steps.finish();
    } else {
        Steps<T> steps(p, e, team);
        make(steps, e);
    }
}

template void epoch(const Problem<float>&, const Epoch<float>&, const Team&);
template void epoch(const Problem<double>&, const Epoch<double>&, const Team&);

}  // namespace gdfast
