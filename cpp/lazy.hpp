// The steps of an epoch of sparse rows, each at the cost of the entries of its batch: a column that no row of a batch holds is
// left alone, and catches up with the steps that it has missed when a row holds it again. Nothing of it is approximate: the
// weights are those of the steps of all columns, up to rounding.
#pragma once
#include <cmath>

#include "batches.hpp"
#include "shards.hpp"
#include "team.hpp"

namespace gdfast {

// Below this product of 1 - lr (l2 + decay) a step is made by all columns, and the running sums start again.
inline constexpr double smallest_shrink = 1e-3;

// Does a model's step leave a parameter without a gradient to a sum over the steps that it has missed?
template <class T>
bool catches_up(const Model<T>& m, Index steps) {
    const Step<T>& s = m.update.step;
    const bool l1 = s.l1 > 0, l2 = s.l2 > 0, bounded = s.bounded();
    if (m.average_from && (l1 || bounded)) return false;  // the mean of a path with a corner
    switch (m.update.optimizer->idle(s.parameters)) {
        case Idle::moves:
            return false;
        case Idle::shrinks:
            return !(l2 && s.factor.each);  // one product for all columns
        case Idle::rests:
            return !l2;
        case Idle::fades:
            return !l2 && !l1;
        case Idle::settles:
            return !l2 && !l1 && !bounded && s.decay == 0 &&
                   std::all_of(m.rates, m.rates + steps, [&](double lr) { return lr == m.rates[0]; });
    }
    return false;
}

// Is an epoch made so? Where all models can, and a batch has fewer entries than there are columns; always where a model asks
// for steps of the columns held only, which is a different rule.
template <class T>
bool is_lazy(const Problem<T>& p, const Epoch<T>& e) {
    if (p.layout != Layout::csr || p.scaling.factor) return false;  // a centred column is held by every row
    const Model<T>*const begin = e.models, *const end = begin + e.n_models;
    if (e.held_only) return true;
    return double(p.entries) / double(p.n) * double(std::min(e.batch, p.n)) <= double(p.d) &&
           std::max(p.d, e.steps) < std::numeric_limits<std::int32_t>::max() &&
           std::all_of(begin, end, [&](const Model<T>& m) { return catches_up(m, e.steps); });
}

// One model of an epoch: its parameters in the columns of a batch, side by side, and the running sums over the steps that other
// columns miss. `seen` is by parameter, for the features.
template <class T>
class LazyModel {
public:
    // most: columns of a batch, the intercept among them
    LazyModel(const Problem<T>& p, const Epoch<T>& e, Model<T>& model, Index most)
        : p_(p),
          m_(model),
          outputs_(p.k / e.n_models),
          held_only_(e.held_only),
          idle_(m_.update.optimizer->idle(m_.update.step.parameters)) {
        const Step<T>& s = m_.update.step;
        const auto size = std::size_t(most * outputs_), steps = std::size_t(e.steps + 1);
        w_.resize(size), g_.resize(size), seen_.resize(size);
        slots_.resize(size * std::size_t(m_.update.optimizer->n_slots));
        average_.resize(m_.average_from ? size : 0);
        factor_.resize(s.factor.each ? size : 0), lower_.resize(s.lower.each ? size : 0),
            upper_.resize(s.upper.each ? size : 0);
        dense_.resize(held_only_ ? 0 : std::size_t(m_.update.n));
        sums_.resize(m_.average_from ? steps : 0);
        if (held_only_) return;
        pull_ = s.decay + (idle_ == Idle::shrinks ? s.l2 : 0);
        thresholds_.resize(s.l1 > 0 ? steps : 0);
    }

    // whether columns have to be told which steps they miss
    bool tracks() const { return idle_ == Idle::fades || !thresholds_.empty() || !sums_.empty(); }
    bool runs() const { return runs_; }
    const T* w() const { return w_.data(); }

    // Has step b to be made by all columns? The first one, which brings them within their bounds and to rest, and when the
    // shrinking since the last one has come far enough to cost digits, or the factor of this one is nothing to divide by.
    bool is_due(Index b) const {
        if (held_only_ || b == 0) return !held_only_;
        return pull_ > 0 && shrink(b) < smallest_shrink * growth_;
    }

    // the parameters of the batch of step b, as they are before it
    void take(const Batch<T>& batch, const std::int32_t* seen, Index b) {
        const Update<T>& u = m_.update;
        n_ = (batch.columns + 1) * outputs_;
        features_ = batch.columns * outputs_;
        gather(batch, u.w, w_.data());
        for (Index s = 0; s < u.optimizer->n_slots; ++s) gather(batch, u.slots + s * u.n, slots_.data() + s * n_);
        if (m_.average_from) gather(batch, m_.average, average_.data());
        compact_ = u.step;
        of_each(batch, compact_.factor, factor_), of_each(batch, compact_.lower, lower_),
            of_each(batch, compact_.upper, upper_);
        if (tracks()) gather(batch, seen, seen_.data(), 0);
        catch_up(compact_, seen_.data(), b, w_.data(), slots_.data(), average_.data(), n_, features_);
    }

    // Step b by the sums of a batch, in rows of `lanes`; false where its numbers are not finite, and it is not made.
    bool update(const Batch<T>& batch, const double* sums, const double* losses, Index lanes, Index b, bool all) {
        add_shards(sums, 1, 0, outputs_, lanes, 0, n_, 1 / (double(batch.rows) * m_.mean_weight), g_.data());
        for (Index l = features_; l < n_ && !p_.intercept; ++l) g_[std::size_t(l)] = 0;
        const double norm = std::sqrt(p_.kernels->sum_of_squares(g_.data(), n_));
        runs_ = m_.record(b, add_losses(losses, 1, lanes, 0, outputs_), norm);
        if (!runs_) return false;
        if (all)
            make(m_.step_of(b, norm, m_.update.step), scattered(batch), m_.update.w, m_.update.slots, m_.average, b,
                 m_.update.n, m_.update.n_penalized);
        else
            make(m_.step_of(b, norm, compact_), g_.data(), w_.data(), slots_.data(), average_.data(), b, n_, features_);
        advance(b, all);
        if (all)
            scatter_zeros(batch);
        else
            put(batch);
        return true;
    }

    // all columns of X after `steps` steps
    void catch_up(const std::int32_t* seen, Index steps) {
        const Update<T>& u = m_.update;
        catch_up(u.step, seen, steps, u.w, u.slots, m_.average, u.n, p_.d * outputs_);
        growth_ = 1;
    }

    // the columns of a batch have seen step b
    void see(const Batch<T>& batch, Index b, std::int32_t* seen) const {
        const auto now = std::int32_t(b + 1);
        if (outputs_ == 1)
            for (Index i = 0; i < batch.columns; ++i) seen[batch.column[i]] = now;
        else
            for (Index i = 0; i < batch.columns; ++i) std::fill_n(seen + batch.column[i] * outputs_, outputs_, now);
    }

private:
    double shrink(Index b) const { return 1 - m_.rates[b] * pull_; }
    // how many of the first steps of the epoch count in the average
    double counted(Index steps) const { return std::max(0.0, double(m_.first_step + steps - m_.average_from + 1)); }

    template <class V>
    void gather(const Batch<T>& batch, const V* from, V* to, Index behind = 1) const {
        const Index count = batch.columns + behind;
        if (outputs_ == 1)
            for (Index i = 0; i < count; ++i) to[i] = from[batch.column[i]];
        else
            for (Index i = 0; i < count; ++i) std::copy_n(from + batch.column[i] * outputs_, outputs_, to + i * outputs_);
    }
    void scatter(const Batch<T>& batch, const T* from, T* to) const {
        if (outputs_ == 1)
            for (Index i = 0; i <= batch.columns; ++i) to[batch.column[i]] = from[i];
        else
            for (Index i = 0; i <= batch.columns; ++i)
                std::copy_n(from + i * outputs_, outputs_, to + batch.column[i] * outputs_);
    }
    void of_each(const Batch<T>& batch, PerParameter<T>& values, std::vector<T>& to) const {
        if (!values.each) return;
        gather(batch, values.each, to.data(), 0);
        values.each = to.data();
    }
    void put(const Batch<T>& batch) {
        const Update<T>& u = m_.update;
        if (growth_ != 1) std::for_each_n(w_.begin(), features_, [growth = T(growth_)](T& w) { w *= growth; });
        scatter(batch, w_.data(), u.w);
        for (Index s = 0; s < u.optimizer->n_slots; ++s) scatter(batch, slots_.data() + s * n_, u.slots + s * u.n);
        if (m_.average_from) scatter(batch, average_.data(), m_.average);
    }

    // the gradient with its zeros
    const T* scattered(const Batch<T>& batch) {
        scatter(batch, g_.data(), dense_.data());
        return dense_.data();
    }
    void scatter_zeros(const Batch<T>& batch) {
        std::fill_n(g_.begin(), n_, T(0));
        scatter(batch, g_.data(), dense_.data());
    }

    void make(const Step<T>& step, const T* g, T* w, T* slots, T* average, Index b, Index n, Index n_penalized) const {
        m_.update.optimizer->update(step, w, g, slots, n, n_penalized, 0, n);
        m_.add_to_average(b, w, average, 0, n);
    }

    void catch_up(const Step<T>& step, const std::int32_t* seen, Index steps, T* w, T* slots, T* average, Index n, Index last) {
        if (steps == 0) return;  // not within their bounds yet
        const Missed missed{steps, growth_, thresholds_.empty() ? nullptr : thresholds_.data()};
        if (!sums_.empty()) catch_up_average(steps, seen, w, average, last);
        if (pull_ > 0 || (tracks() && !held_only_)) m_.update.optimizer->catch_up(step, missed, seen, w, slots, n, last);
    }

    // w before it catches up: what it was in each step goes by the growth alone
    void catch_up_average(Index steps, const std::int32_t* seen, const T* w, T* average, Index last) const {
        const double now = counted(steps), all = sums_[std::size_t(steps)];
        for (Index i = 0; i < last && now > 0; ++i) {
            const Index t = seen[i];
            if (t == steps) continue;
            average[i] = T((counted(t) * double(average[i]) + (all - sums_[std::size_t(t)]) * double(w[i])) / now);
        }
    }

    // the running sums behind step b
    void advance(Index b, bool all) {
        const auto t = std::size_t(b);
        growth_ = all ? 1 : growth_ / shrink(b);
        if (!thresholds_.empty()) thresholds_[t + 1] = all ? 0 : thresholds_[t] + m_.rates[b] * growth_;
        if (!sums_.empty()) sums_[t + 1] = all ? 0 : sums_[t] + (counted(b + 1) > 0 ? 1 / growth_ : 0);
    }

    const Problem<T>& p_;
    Model<T>& m_;
    const Index outputs_;
    const bool held_only_;
    const Idle idle_;
    bool runs_ = true;
    double pull_ = 0, growth_ = 1;  // l2 + decay of columns at rest; as in Missed
    Index n_ = 0, features_ = 0;    // parameters in the batch, with and without intercepts
    Step<T> compact_;
    std::vector<T> w_, g_, slots_, average_, factor_, lower_, upper_, dense_;
    std::vector<std::int32_t> seen_;
    std::vector<double> thresholds_, sums_;  // as in Missed; sum of 1 / growth over the steps that count
};

}  // namespace gdfast
