// The steps of an epoch made by lazy models, one batch after the other. A second thread reads the next batches meanwhile;
// what is computed does not depend on it.
#pragma once
#include <chrono>

#include "lazy.hpp"

namespace gdfast {

template <class T>
class LazySteps {
public:
    LazySteps(const Problem<T>& problem, const Epoch<T>& epoch, const Team& team)
        : p(problem),
          e(epoch),
          cancel(*team.cancel),
          count(e.steps),
          batch(std::min(e.batch, p.n)),
          per_turn(std::max<Index>(1, std::min(count, Index(entries_per_turn / (1 + entries() * double(batch)))))),
          lanes(lanes_of(p)),
          most(1 + std::min(p.d, most_entries(p, batch))),
          small(of_batch(p, batch)),
          tile(small, nullptr, 0, false),
          sums(std::size_t(most * lanes)),
          losses(std::size_t(lanes)),
          packed(lanes > 1 ? std::size_t(most * lanes + lanes_behind) : 0),
          seen(std::size_t(p.d * (p.k / e.n_models))) {
        const bool ahead = team.threads > 1 && count > per_turn;
        for (int i = 0; i < 1 + ahead; ++i) turns.push_back(std::make_unique<Turn<T>>(p, e.order, batch, per_turn, e.first));
        for (Index i = 0; i < e.n_models; ++i) models.emplace_back(p, e, e.models[i], most);
        tracks = std::any_of(models.begin(), models.end(), [](const auto& model) { return model.tracks(); });
    }

    int threads() const { return int(turns.size()); }

    // Steps from b on, for about so many seconds, in whole turns; returns how many. Stops where cancelled or not finite.
    Index run(Index b, double seconds, int threads) {
        const Index first = b;
        const auto start = std::chrono::steady_clock::now();
        Index end = count;  // written by the first member between the barriers that all read it behind
#pragma omp parallel num_threads(threads) firstprivate(b)
        for (const int me = thread_number(), members = team_size(); b < end; b += per_turn) {
            Turn<T>&here = *turns[turn_of(b)], &next = *turns[turn_of(b + per_turn)];
            if (members > 1 && me == 1 && b + per_turn < count && !next.holds(b + per_turn)) next.read(b + per_turn);
            if (me == 0) {
                if (!here.holds(b)) here.read(b);
                const Index made = steps(here, b);
                stop = made < std::min(per_turn, count - b);
                const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
                if (stop || took.count() > seconds) end = b + 1;
                done = b + made;
            }
            wait_for_all(members);
        }
        return done - first;
    }

    // To be called once, behind the last step.
    void finish() {
        for (LazyModel<T>& model : models)
            if (model.runs()) model.catch_up(seen.data(), done);
    }

private:
    static constexpr double entries_per_turn = 16 * 1024;

    double entries() const { return double(p.entries) / double(p.n); }
    std::size_t turn_of(Index b) const { return std::size_t(b / per_turn) % turns.size(); }

    static Problem<T> of_batch(Problem<T> p, Index batch) {
        p.entries = Index(double(p.entries) / double(p.n) * double(batch));
        p.n = batch;
        p.csr.wide = false;
        return p;
    }

    // the steps of a turn from b on; how many were made
    Index steps(const Turn<T>& turn, Index b) {
        const Index last = std::min(count, b + per_turn);
        for (Index at = b; at < last; ++at)
            if (cancel.load(std::memory_order_relaxed) || !step(turn[at], at)) return at - b;
        return last - b;
    }

    // false where no model goes on
    bool step(const Batch<T>& rows, Index b) {
        const bool all = std::any_of(models.begin(), models.end(), [&](const auto& m) { return m.runs() && m.is_due(b); });
        if (all) catch_up(b);
        for (LazyModel<T>& model : models)
            if (model.runs()) model.take(rows, seen.data(), b);
        small.csr = rows.X, small.d = rows.columns, small.n = rows.rows;
        small.y = rows.y, small.weight = rows.weight, small.fold = rows.fold;
        std::fill_n(sums.data(), (rows.columns + 1) * lanes, 0.0);
        std::fill_n(losses.data(), lanes, 0.0);
        tile.gradient(0, rows.rows, {rows.rows, rows.rows}, weights(rows), sums.data(), losses.data(), cancel);
        bool any = false;
        const Index outputs = p.k / e.n_models;
        for (Index i = 0; i < e.n_models; ++i) {
            LazyModel<T>& model = models[std::size_t(i)];
            if (!model.runs()) continue;
            const bool made = model.update(rows, sums.data() + i * outputs, losses.data() + i * outputs, lanes, b, all);
            if (!made) model.catch_up(seen.data(), b);
            any |= made;
        }
        if (any && all) std::fill(seen.begin(), seen.end(), std::int32_t(b + 1));
        if (any && tracks && !all) models[0].see(rows, b, seen.data());
        return any;
    }

    void catch_up(Index b) {
        for (LazyModel<T>& model : models)
            if (model.runs()) model.catch_up(seen.data(), b);
        std::fill(seen.begin(), seen.end(), std::int32_t(b));
    }

    const T* weights(const Batch<T>& rows) {
        if (lanes == 1) return models[0].w();
        const Index outputs = p.k / e.n_models;
        for (Index i = 0; i < e.n_models; ++i)
            pad(models[std::size_t(i)].w(), rows.columns + 1, outputs, lanes, packed.data() + i * outputs);
        return packed.data();
    }

    const Problem<T>& p;
    const Epoch<T>& e;
    const std::atomic<bool>& cancel;

public:
    const Index count;  // of steps
    bool stop = false;

private:
    const Index batch, per_turn, lanes, most;
    Index done = 0;
    Problem<T> small;  // the rows of a batch
    Tile<T> tile;
    std::vector<std::unique_ptr<Turn<T>>> turns;
    std::vector<LazyModel<T>> models;
    Aligned<double> sums;
    std::vector<double> losses;
    Aligned<T> packed;
    std::vector<std::int32_t> seen;
    bool tracks = false;
};

}  // namespace gdfast
