// One fused step over the parameters, and the steps that parameters without a gradient have missed.
// Included by kernels.cpp only.
#pragma once
#include <cmath>
#include <utility>

#include "kernels.hpp"
#include "optimizers.hpp"

namespace gdfast::GDFAST_ISA {

// A strip of numbers, one a parameter: those given, or one for all.
template <class T>
struct Strip {
    static constexpr Index size = 256;
    Strip(PerParameter<T> values, Index n) : each(values.each) {
        for (Index i = 0; i < min(size, n) && !each; ++i) all[i] = values.all;
    }
    const T* from(Index start) const { return each ? each + start : all; }
    const T* each;
    T all[size];
};

// g -> scale and clip -> + l2 w -> step -> decay -> soft threshold -> bounds: one pass over w, g and the slots
template <class Optimizer, class T, std::size_t... S>
struct Update {
    const Step<T>& step;
    T* w;
    const T* g;
    T* slots;
    Index n;

    // the parameters [from, to) where nothing but l2 and decay covers them
    void smooth(Index from, Index to, T l2, T decay, T factor) const {
        const Optimizer optimizer(step.parameters, step.coefficients);
        const T scale = T(step.scale), limit = T(step.clip_value), lr = T(step.lr);
#pragma omp simd
        for (Index i = from; i < to; ++i) {
            const T gradient = clamp(scale * g[i], -limit, limit) + l2 * w[i];
            w[i] = optimizer.step({w[i], gradient, lr, T(0), factor}, slots[Index(S) * n + i]...).to - decay * w[i];
        }
    }

    void constrained(Index from, Index to, T l2, T decay) const {
        const Strip<T> factors(step.factor, to - from), lowers(step.lower, to - from), uppers(step.upper, to - from);
        const Optimizer optimizer(step.parameters, step.coefficients);
        const T scale = T(step.scale), limit = T(step.clip_value), lr = T(step.lr), l1 = T(step.l1);
        for (Index start = from; start < to; start += Strip<T>::size) {
            const Index count = min(Strip<T>::size, to - start);
            const T *factor = factors.from(start), *lower = lowers.from(start), *upper = uppers.from(start);
            T* const x = w + start;
            const T* const gradients = g + start;
            T* const slot = slots + start;
#pragma omp simd
            for (Index i = 0; i < count; ++i) {
                const T gradient = clamp(scale * gradients[i], -limit, limit) + l2 * factor[i] * x[i];
                const Move<T> move = optimizer.step({x[i], gradient, lr, l1 * factor[i], factor[i]}, slot[Index(S) * n + i]...);
                const T moved = move.to - decay * x[i];
                const T size = max(T(0), std::fabs(moved) - move.threshold);
                x[i] = clamp(std::copysign(size, moved), lower[i], upper[i]);
            }
        }
    }
};

template <class Optimizer, class T, std::size_t... S>
void update_by(const Step<T>& step, T* w, const T* g, T* slots, Index n, Index n_penalized, Index first, Index last,
               std::index_sequence<S...>) {
    const Update<Optimizer, T, S...> run{step, w, g, slots, n};
    const Index split = min(max(n_penalized, first), last);
    const T l2 = T(step.l2), decay = T(step.lr * step.decay);
    if (step.l1 > 0 || step.factor.each || step.bounded())
        run.constrained(first, split, l2, decay);
    else
        run.smooth(first, split, l2, decay, T(1));
    run.smooth(split, last, T(0), T(0), T(0));
}

template <template <class> class Optimizer, class T>
void update(const Step<T>& step, T* w, const T* g, T* slots, Index n, Index n_penalized, Index first, Index last) {
    update_by<Optimizer<T>>(step, w, g, slots, n, n_penalized, first, last,
                            std::make_index_sequence<std::size_t(Optimizer<T>::n_slots)>{});
}

// -------------------------------------------------------------------------------------------------- steps that were missed

template <class Optimizer, class = void>
inline constexpr bool is_idle = false;
template <class Optimizer>
inline constexpr bool is_idle<Optimizer, std::void_t<decltype(&Optimizer::idle)>> = true;
template <class Optimizer, class = void>
inline constexpr bool fades = false;
template <class Optimizer>
inline constexpr bool fades<Optimizer, std::void_t<decltype(&Optimizer::kept)>> = true;

// w shrinks by its factor, then by the sum of the thresholds, then to its bounds. A step without a gradient moves it towards 0
// or not at all, so that to stop once, at the end, at 0 or at a bound is to have stopped there on the way.
template <class Optimizer, class T, std::size_t... S>
struct CatchUp {
    static constexpr Index strip = Strip<T>::size;
    const Step<T>& step;
    const Missed& missed;
    const std::int32_t* seen;
    T* w;
    T* slots;
    Index n;
    const double now = 1 / missed.growth;

    void shrink(Index start, Index count) const {
        T *const x = w + start, shrunk = T(now);
#pragma omp simd
        for (Index i = 0; i < count; ++i) x[i] *= shrunk;
    }

    void fade(const Optimizer& optimizer, Index start, Index count) const {
        const T logarithm = log(max(optimizer.kept(), std::numeric_limits<T>::min()));
        T* const slot = slots + start;
#pragma omp simd
        for (Index i = 0; i < count; ++i) {
            const T power = exp(T(missed.steps - seen[start + i]) * logarithm);
            ((slot[Index(S) * n + i] *= power), ...);
        }
    }

    void threshold(const Optimizer& optimizer, Index start, Index count, const T* factor) const {
        const double scale = step.l1 * now, all = missed.thresholds[missed.steps];
        T *const x = w + start, *const slot = slots + start;
        (void)slot;
#pragma omp simd
        for (Index i = 0; i < count; ++i) {
            const T sum = T(scale * (all - missed.thresholds[seen[start + i]]));
            const T size = sum * factor[i] * optimizer.size(slot[Index(S) * n + i]...);
            x[i] = std::copysign(max(T(0), std::fabs(x[i]) - size), x[i]);
        }
    }

    void operator()(Index last) const {
        const Optimizer optimizer(step.parameters, step.coefficients);
        const Index limited = step.bounded() ? last : 0, thresholds = missed.thresholds ? last : 0;
        const Strip<T> factors(step.factor, thresholds), lowers(step.lower, limited), uppers(step.upper, limited);
        for (Index start = 0; start < last; start += strip) {
            const Index count = min(strip, last - start);
            if (now != 1) shrink(start, count);
            if constexpr (fades<Optimizer>)
                fade(optimizer, start, count);
            else if (missed.thresholds)
                threshold(optimizer, start, count, factors.from(start));
            if (!limited) continue;
            const T *lower = lowers.from(start), *upper = uppers.from(start);
            for (Index i = 0; i < count; ++i) w[start + i] = clamp(w[start + i], lower[i], upper[i]);
        }
    }
};

template <class Optimizer, class T, std::size_t... S>
void catch_up_by(const Step<T>& step, const Missed& missed, const std::int32_t* seen, T* w, T* slots, Index n, Index last,
                 std::index_sequence<S...>) {
    if constexpr (is_idle<Optimizer>) CatchUp<Optimizer, T, S...>{step, missed, seen, w, slots, n}(last);
}

template <template <class> class Optimizer, class T>
void catch_up(const Step<T>& step, const Missed& missed, const std::int32_t* seen, T* w, T* slots, Index n, Index last) {
    catch_up_by<Optimizer<T>>(step, missed, seen, w, slots, n, last,
                              std::make_index_sequence<std::size_t(Optimizer<T>::n_slots)>{});
}

template <template <class> class Optimizer, class T>
Idle idle([[maybe_unused]] const double* parameters) {
    if constexpr (is_idle<Optimizer<T>>)
        return Optimizer<T>::idle(parameters);
    else
        return Idle::moves;
}

}  // namespace gdfast::GDFAST_ISA
