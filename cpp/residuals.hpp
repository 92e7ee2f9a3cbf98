// The loops around the formulas of losses.hpp: margins become residuals. Included by kernels.cpp only.
#pragma once
#include <limits>

#include "kernels.hpp"
#include "losses.hpp"
#include "outputs.hpp"
#include "vector.hpp"
#include "views.hpp"

namespace gdfast::GDFAST_ISA {

// A loss that is `linear(z, y) + log(1 + excess(z))`, 0 <= excess <= 1: one logarithm serves a product of many factors. The
// product is kept as 1 + q, so that excesses far below 1 are not rounded away.
template <class Loss, class = void>
inline constexpr bool has_excess = false;
template <class Loss>
inline constexpr bool has_excess<Loss, std::void_t<decltype(&Loss::excess)>> = true;
inline constexpr Index most_factors = 96;  // a product of so many factors up to 2 is in range

// One output, in lanes
template <class T>
double sum_of_losses(const T* sums) {
    T sum = 0;
    for (Index l = 0; l < loss_lanes; ++l) sum += sums[l] + log_of_one_plus(sums[loss_lanes + l]);
    return double(sum);
}

template <template <class> class Loss, class T>
void residuals_in_lanes(const double* parameters, T* z, const T* y, const T* weight, Index m, T* sums) {
    constexpr Index lanes = loss_lanes;
    if constexpr (!std::is_same_v<Loss<T>, Softmax<T>>) {
        const Loss<T> loss(parameters);
        T losses[lanes], q[lanes];
        for (Index l = 0; l < lanes; ++l) losses[l] = sums[l], q[l] = sums[lanes + l];
        for (Index i = 0; i < m; i += lanes)
            if (weight) {
#pragma omp simd
                for (Index l = 0; l < lanes; ++l) {
                    losses[l] += weight[i + l] * loss.value(z[i + l], y[i + l]);
                    z[i + l] = weight[i + l] * loss.gradient(z[i + l], y[i + l]);
                }
            } else {
#pragma omp simd
                for (Index l = 0; l < lanes; ++l) {
                    if constexpr (has_excess<Loss<T>>) {
                        const T excess = loss.excess(z[i + l]);
                        losses[l] += loss.linear(z[i + l], y[i + l]);
                        q[l] = q[l] * (1 + excess) + excess;
                    } else {
                        losses[l] += loss.value(z[i + l], y[i + l]);
                    }
                    z[i + l] = loss.gradient(z[i + l], y[i + l]);
                }
            }
        for (Index l = 0; l < lanes; ++l) sums[l] = losses[l], sums[lanes + l] = q[l];
    }
}

// The same as one sum, for any m.
template <template <class> class Loss, class T>
double residuals_of_one(const double* parameters, T* z, const T* y, const T* weight, Index m) {
    constexpr Index lanes = loss_lanes, most = 1024;
    double total = 0;
    for (Index start = 0; start < m; start += most) {
        const Index count = min(most, m - start), whole = count / lanes * lanes;
        T sums[2 * lanes] = {};
        residuals_in_lanes<Loss>(parameters, z + start, y + start, weight ? weight + start : nullptr, whole, sums);
        if (whole < count) {  // filled up with rows of no weight
            T rest[lanes] = {}, targets[lanes] = {}, weights[lanes] = {};
            for (Index l = 0; l < count - whole; ++l) {
                const Index i = start + whole + l;
                rest[l] = z[i];
                targets[l] = y[i];
                weights[l] = weight ? weight[i] : T(1);
            }
            residuals_in_lanes<Loss>(parameters, rest, targets, weights, lanes, sums);
            for (Index l = 0; l < count - whole; ++l) z[start + whole + l] = rest[l];
        }
        total += sum_of_losses(sums);
    }
    return total;
}

// Many outputs. Targets and weights of a stretch of rows are written out, 16 at a time and over the end of a row: the next
// row writes over what is there. A group of rows is a whole number of registers, whatever the lanes.
inline constexpr Index written = 16, widest = 512, stretch = 1024;

// call(l) for l < count, in whole registers: nothing is peeled off for alignment, as a compiler does for longer loops
template <class Call>
inline void in_registers(Index count, const Call& call) {
    Index start = 0;
    for (; start + written <= count; start += written) {
#pragma omp simd
        for (int l = 0; l < int(written); ++l) call(start + l);
    }
    for (; start < count; ++start) call(start);
}

template <class T>
inline void write_targets(const Targets<T>& targets, Index first, Index rows, Index start, Index width, T* y) {
    const T* const given = targets.y + first;
    const bool shared = targets.form == TargetForm::shared;
    for (Index i = 0; i < rows; ++i, y += width)
        for (Index o = 0; o < width; o += written) {
            const T value = given[i], code = value - T(start + o);
#pragma omp simd
            for (int l = 0; l < int(written); ++l) y[o + l] = shared ? value : code == T(l) ? T(1) : T(0);
        }
}

template <class T>
inline void write_weights(const Targets<T>& targets, Index first, Index rows, Index start, Index width, T* weight) {
    const T *const held_out = targets.held_out + start, *const folds = targets.fold, *const given = targets.weight;
    for (Index i = first; i < first + rows; ++i, weight += width)
        for (Index o = 0; o < width; o += written) {
            const T value = given ? given[i] : T(1), fold = folds ? folds[i] : T(-2);
            if (folds)
#pragma omp simd
                for (int l = 0; l < int(written); ++l) weight[o + l] = fold == held_out[o + l] ? T(0) : value;
            else
#pragma omp simd
                for (int l = 0; l < int(written); ++l) weight[o + l] = value;
        }
}

// One group: values are added to sums, element by element, or to sums and factors where the loss is of that kind.
template <class Loss, class T>
inline void residuals_group(const Loss& loss, T* z, const T* y, const T* weight, Index count, bool product, T* sums, T* q) {
    if constexpr (has_excess<Loss>) {
        if (product) {
            const auto add = [&](Index l, T scale) {
                const T excess = scale * loss.excess(z[l]);
                sums[l] += scale * loss.linear(z[l], y[l]);
                q[l] = q[l] * (1 + excess) + excess;
                z[l] = scale * loss.gradient(z[l], y[l]);
            };
            if (weight) return in_registers(count, [&](Index l) { add(l, weight[l]); });
            return in_registers(count, [&](Index l) { add(l, T(1)); });
        }
    }
    const auto add = [&](Index l, T scale) {
        sums[l] += scale * loss.value(z[l], y[l]);
        z[l] = scale * loss.gradient(z[l], y[l]);
    };
    if (weight) return in_registers(count, [&](Index l) { add(l, weight[l]); });
    in_registers(count, [&](Index l) { add(l, T(1)); });
}

// The outputs [start, start + width) of rows [first, last), `group` rows at a time.
template <class Loss, class T>
struct Stretch {
    const Loss& loss;
    const Targets<T>& targets;
    const Index lanes;
    const bool product = has_excess<Loss> && !targets.weight;  // weights of 0 and 1 leave the factors what they are
    Index start = 0, width = 0, group = 0;
    Stretch(const Loss& loss, const Targets<T>& targets, Index lanes) : loss(loss), targets(targets), lanes(lanes) {}
    T sums[widest], q[widest], y[stretch + written], weight[stretch + written];

    void run(T* z, Index first, Index last) {
        const bool values = targets.form == TargetForm::values, weighted = targets.weight || targets.fold;
        const Index step = stretch / (group * width) * group;
        for (Index i = first; i < last; i += step) {
            const Index rows = min(step, last - i);
            if (!values) write_targets(targets, i, rows, start, width, y);
            if (weighted) write_weights(targets, i, rows, start, width, weight);
            for (Index s = 0; s < rows; s += group) {
                const Index place = (i + s) * lanes + start, count = min(group, rows - s) * width;
                residuals_group(loss, z + place, values ? targets.y + place : y + s * width,
                                weighted ? weight + s * width : nullptr, count, product, sums, q);
            }
        }
    }
};

template <class Loss, class T>
void residuals_many(const Loss& loss, T* z, const Targets<T>& targets, Index m, Index lanes, double* losses) {
    Stretch<Loss, T> part(loss, targets, lanes);
    for (Index start = 0; start < lanes; start += widest) {
        const Index width = min(widest, lanes - start);
        const Index group = width < lanes || lanes % 16 == 0 ? 1 : lanes % 8 == 0 ? 2 : lanes % 4 == 0 ? 4 : 8;
        part.start = start, part.width = width, part.group = group;
        for (Index first = 0; first < m; first += most_factors * group) {
            for (Index l = 0; l < group * width; ++l) part.sums[l] = part.q[l] = 0;
            part.run(z, first, min(m, first + most_factors * group));
#pragma omp simd
            for (Index l = 0; l < group * width; ++l) part.sums[l] += log_of_one_plus(part.q[l]);
            for (Index s = 0; s < group; ++s)
                for (Index o = 0; o < width; ++o) losses[start + o] += double(part.sums[s * width + o]);
        }
    }
}

// The softmax of W rows at a time: maxima and sums across outputs come from trees over whole registers. r becomes
// weight * (softmax(z) - y); the loss of all outputs is added to losses[0]. Rows of more than `most_lanes` outputs fill
// registers by themselves.
template <class T>
struct SoftmaxRows {
    static constexpr int W = native_lanes<T>;
    static constexpr Index most_lanes = 64;
    const Targets<T>& targets;
    Index k, lanes;

    // rows [first, first + count) of z, count <= W
    double block(T* z, Index first, Index count) const {
        const Index width = (k + W - 1) / W * W;
        T e[W * (most_lanes + W)], tops[W], sums[W];
        Vector<T, W> reduced[W];
        for (int s = 0; s < W; ++s) {
            const T* row = z + min(Index(s), count - 1) * lanes;
            T* to = e + s * width;
            for (Index o = 0; o < width; o += W)
#pragma omp simd
                for (int l = 0; l < W; ++l) to[o + l] = o + l < k ? row[o + l] : -std::numeric_limits<T>::infinity();
            reduced[s] = load<W>(to);
            for (Index o = W; o < width; o += W) reduced[s] = Larger()(reduced[s], load<W>(to + o));
        }
        store<W>(tops, sums_of_rows<W, T, Larger>(reduced));
        for (int s = 0; s < W; ++s) {
            T* to = e + s * width;
            for (Index o = 0; o < width; o += W) {
#pragma omp simd
                for (int l = 0; l < W; ++l) to[o + l] = exp(to[o + l] - tops[s]);
            }
            reduced[s] = load<W>(to);
            for (Index o = W; o < width; o += W) reduced[s] += load<W>(to + o);
        }
        store<W>(sums, sums_of_rows<W, T>(reduced));
        T logs[W];
#pragma omp simd
        for (int s = 0; s < W; ++s) logs[s] = log(sums[s]);
        double total = 0;
        for (Index s = 0; s < count; ++s) {
            const T scale = weight(first + s);
            total += double(scale) * double(logs[s] - picked(z + s * lanes, first + s, tops[s]));
            subtract_target(z + s * lanes, e + s * width, first + s, scale, scale / sums[s]);
        }
        return total;
    }

    // one row, in place
    double row(T* z, Index i) const {
        T top = z[0], sum = 0;
        for (Index o = 1; o < k; ++o) top = max(top, z[o]);
        const T scale = weight(i), shifted = picked(z, i, top);
#pragma omp simd reduction(+ : sum)
        for (Index o = 0; o < k; ++o) {
            z[o] = exp(z[o] - top);
            sum += z[o];
        }
        subtract_target(z, z, i, scale, scale / sum);
        return double(scale) * double(log(sum) - shifted);
    }

private:
    bool is_output(T code) const { return code >= 0 && code < T(k); }
    T weight(Index i) const { return targets.weight ? targets.weight[i] : T(1); }

    // sum_o y_o (z_o - top)
    T picked(const T* z, Index i, T top) const {
        if (targets.form == TargetForm::codes) return is_output(targets.y[i]) ? z[Index(targets.y[i])] - top : T(0);
        T sum = 0;
        for (Index o = 0; o < k; ++o) sum += (z[o] - top) * targets.y[i * lanes + o];
        return sum;
    }

    // z = factor * e - scale * y
    void subtract_target(T* z, const T* e, Index i, T scale, T factor) const {
        Index o = 0;
        for (; o + W <= k; o += W) store<W>(z + o, factor * load<W>(e + o));
        T values[W];
        store<W>(values, factor * load<W>(e + o));
        store_first<W>(z + o, values, k - o);
        if (targets.form != TargetForm::codes)
            for (o = 0; o < k; ++o) z[o] -= scale * targets.y[i * lanes + o];
        else if (is_output(targets.y[i]))
            z[Index(targets.y[i])] -= scale;
    }
};

template <template <class> class Loss, class T>
void residuals(const double* parameters, T* z, const Targets<T>& targets, Index m, Index k, Index lanes, double* losses) {
    const Loss<T> loss(parameters);
    if constexpr (std::is_same_v<Loss<T>, Softmax<T>>) {
        const SoftmaxRows<T> rows{targets, k, lanes};
        const Index step = lanes <= rows.most_lanes ? rows.W : 1;
        for (Index i = 0; i < m; i += step)
            *losses += step > 1 ? rows.block(z + i * lanes, i, min(m - i, step)) : rows.row(z + i * lanes, i);
    } else if (lanes == 1 && !targets.fold) {
        *losses += residuals_of_one<Loss>(parameters, z, targets.y, targets.weight, m);
    } else {
        residuals_many(loss, z, targets, m, lanes, losses);
    }
}

template <template <class> class Loss, class T>
void curvatures(const double* parameters, const T* z, const Targets<T>& targets, Index m, Index k, Index lanes, T* h) {
    const Loss<T> loss(parameters);
    if constexpr (!std::is_same_v<Loss<T>, Softmax<T>>) {
        if (lanes == 1) {
            const T *const y = targets.y, *const weight = targets.weight;
#pragma omp simd
            for (Index i = 0; i < m; ++i) h[i] = (weight ? weight[i] : T(1)) * loss.curvature(z[i], y[i]);
            return;
        }
    }
    for (Index i = 0; i < m; ++i) {
        const T scale = targets.weight ? targets.weight[i] : T(1);
        T* row = h + i * lanes;
        if constexpr (std::is_same_v<Loss<T>, Softmax<T>>) {
            T top = z[i * lanes], sum = 0;
            for (Index o = 1; o < k; ++o) top = max(top, z[i * lanes + o]);
            for (Index o = 0; o < k; ++o) sum += row[o] = exp(z[i * lanes + o] - top);
            for (Index o = 0; o < k; ++o) row[o] = scale * (row[o] / sum) * (1 - row[o] / sum);
        } else {
            for (Index o = 0; o < k; ++o) row[o] = scale * loss.curvature(z[i * lanes + o], targets.at(i, o, lanes));
        }
        for (Index o = k; o < lanes; ++o) row[o] = 0;
    }
}

// Softmax couples the outputs of a row: (diag(p) - p p') u.
template <template <class> class Loss, class T>
void times_curvature(const double* parameters, const T* z, const Targets<T>& targets, Index m, Index k, Index lanes, T* u) {
    const Loss<T> loss(parameters);
    if constexpr (!std::is_same_v<Loss<T>, Softmax<T>>) {
        if (lanes == 1) {
            const T *const y = targets.y, *const weight = targets.weight;
#pragma omp simd
            for (Index i = 0; i < m; ++i) u[i] *= (weight ? weight[i] : T(1)) * loss.curvature(z[i], y[i]);
            return;
        }
    }
    for (Index i = 0; i < m; ++i, z += lanes, u += lanes) {
        const T scale = targets.weight ? targets.weight[i] : T(1);
        if constexpr (std::is_same_v<Loss<T>, Softmax<T>>) {
            T top = z[0], sum = 0, mean = 0;
            for (Index o = 1; o < k; ++o) top = max(top, z[o]);
#pragma omp simd reduction(+ : sum, mean)
            for (Index o = 0; o < k; ++o) {
                const T e = exp(z[o] - top);
                sum += e;
                mean += e * u[o];
            }
            mean /= sum;
#pragma omp simd
            for (Index o = 0; o < k; ++o) u[o] = scale * exp(z[o] - top) / sum * (u[o] - mean);
        } else {
#pragma omp simd
            for (Index o = 0; o < k; ++o) u[o] *= scale * loss.curvature(z[o], targets.at(i, o, lanes));
        }
    }
}

}  // namespace gdfast::GDFAST_ISA
