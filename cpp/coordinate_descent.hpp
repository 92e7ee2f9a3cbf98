// The quadratic model of a proximal Newton step: coordinate descent finds its support, conjugate gradients its minimum there.
// Included by kernels.cpp only.
#pragma once
#include <atomic>
#include <cmath>

#include "views.hpp"

namespace gdfast::GDFAST_ISA {

inline double soft_threshold(double x, double t) { return std::copysign(std::fmax(std::fabs(x) - t, 0.0), x); }

// Row j times x is added to `to`.
struct SquareMatrix {
    const double* values;
    Index p;
    double diagonal(Index j) const { return values[j * p + j]; }
    void add_row(Index j, double x, double* to) const {
        const double* row = values + j * p;
#pragma omp simd
        for (Index k = 0; k < p; ++k) to[k] += x * row[k];
    }
};
struct RowsOfMatrix {
    const double* values;
    const std::int64_t* starts;
    const std::int32_t* columns;
    double diagonal(Index j) const {
        for (Index e = starts[j]; e < starts[j + 1]; ++e)
            if (columns[e] == j) return values[e];
        return 0;
    }
    void add_row(Index j, double x, double* to) const {
#pragma omp simd  // the columns of a row differ
        for (Index e = starts[j]; e < starts[j + 1]; ++e) to[columns[e]] += x * values[e];
    }
};

template <class Matrix>
class Descent {
public:
    // scratch: model_scratch p numbers
    Descent(const QuadraticModel& model, const Matrix& H, double* w, double* scratch) : m_(model), H_(H), p_(model.p), w_(w) {
        curvature_ = scratch, q_ = scratch + p_, r_ = scratch + 2 * p_, direction_ = scratch + 3 * p_;
        product_ = scratch + 4 * p_, x_ = scratch + 5 * p_, moved_ = scratch + 6 * p_;
        double largest = 0;
        for (Index j = 0; j < p_; ++j) largest = std::fmax(largest, H_.diagonal(j));
        for (Index j = 0; j < p_; ++j) {
            // what the intercept leaves of a column that hardly varies is rounding: it moves in small steps
            const double whole = H_.diagonal(j), floor = std::fmax(1e-7 * whole, 1e-20 * largest);
            curvature_[j] = std::fmax(whole - m_.h[j] * m_.h[j] / m_.c, std::fmax(floor, 1e-300));
            q_[j] = 0;
        }
    }

    // One step along every coordinate; returns by how much the model fell.
    double sweep() {
        double fall = 0;
        for (Index j = 0; j < p_; ++j) {
            const double slope = slope_of(j), D = curvature_[j], before = w_[j];
            if (before == 0 && std::fabs(slope) <= m_.l1) continue;
            const double after = soft_threshold(before - slope / D, m_.l1 / D), step = after - before;
            if (step == 0) continue;
            fall -= step * (slope + 0.5 * D * step) + m_.l1 * (std::fabs(after) - std::fabs(before));
            w_[j] = after;
            s_ += m_.h[j] * step;
            H_.add_row(j, step, q_);
        }
        return fall;
    }

    // Towards the minimum over the weights that are not 0, their signs kept: conjugate gradients, scaled by the diagonal, until
    // what is left to fall is about `enough` or a hundredth of what fell. Returns by how much the model fell; *there: that
    // minimum was reached but for `enough`, and no sign was in its way.
    double on_support(double enough, bool* there) {
        double rz = 0, fall = 0, left = 0;
        for (Index j = 0; j < p_; ++j) {
            x_[j] = 0;
            r_[j] = w_[j] == 0 ? 0 : -slope_of(j) - std::copysign(m_.l1, w_[j]);
            direction_[j] = r_[j] / curvature_[j];
            rz += r_[j] * direction_[j];
        }
        for (int i = 1; i <= most_products && rz > 0; ++i) {
            const double hd = multiply(direction_, product_);
            double dHd = -hd * hd / m_.c;
            for (Index j = 0; j < p_; ++j) dHd += direction_[j] * product_[j];
            if (!(dHd > 0)) break;
            const double a = rz / dHd, part = 0.5 * a * rz;
            double next = 0;
            for (Index j = 0; j < p_; ++j) {
                if (w_[j] == 0) continue;
                x_[j] += a * direction_[j];
                r_[j] -= a * (product_[j] - m_.h[j] * hd / m_.c);
                next += r_[j] * r_[j] / curvature_[j];
            }
            fall += part;
            left = part * i;
            if (left <= std::fmax(0.01 * fall, enough)) break;
            for (Index j = 0; j < p_; ++j) direction_[j] = r_[j] / curvature_[j] + next / rz * direction_[j];
            rz = next;
        }
        *there = left <= enough;
        return fall > 0 ? along(fall, there) : 0.0;
    }

private:
    static constexpr int most_products = 200;

    double slope_of(Index j) const { return m_.g[j] + q_[j] - m_.h[j] * s_ / m_.c; }

    // to = H v; returns h'v
    double multiply(const double* v, double* to) const {
        double sum = 0;
        for (Index j = 0; j < p_; ++j) to[j] = 0;
        for (Index j = 0; j < p_; ++j) {
            if (v[j] == 0) continue;
            sum += m_.h[j] * v[j];
            H_.add_row(j, v[j], to);
        }
        return sum;
    }

    // w + t x for the longest of some t at which the model, weights that would change their sign set to 0, falls by more than
    // where the first of them becomes 0; that is where it goes otherwise. At t = 1 it falls by `fall` where none does.
    double along(double fall, bool* there) {
        double first = 1;
        for (Index j = 0; j < p_; ++j)
            if ((w_[j] + x_[j]) * w_[j] < 0) first = std::fmin(first, -w_[j] / x_[j]);
        *there = *there && first == 1;
        const double at_first = (2 - first) * first * fall;
        for (double t = 1; t > 0.1 && t > first; t /= 2) {
            const double hm = projected(t);
            const double found = change(hm);
            if (found <= -at_first) return take(hm), -found;
        }
        const double hm = projected(first);
        take(hm);
        return at_first;
    }

    // moved = the step to w + t x without its changes of sign; product = H moved; returns h'moved
    double projected(double t) {
        for (Index j = 0; j < p_; ++j) {
            const double to = w_[j] + t * x_[j];
            moved_[j] = to * w_[j] <= 0 ? -w_[j] : t * x_[j];
        }
        return multiply(moved_, product_);
    }
    double change(double hm) const {
        double sum = -0.5 * hm * hm / m_.c;
        for (Index j = 0; j < p_; ++j)
            sum += moved_[j] * (slope_of(j) + 0.5 * product_[j]) + m_.l1 * (std::fabs(w_[j] + moved_[j]) - std::fabs(w_[j]));
        return sum;
    }
    void take(double hm) {
        for (Index j = 0; j < p_; ++j) {
            w_[j] = moved_[j] == -w_[j] ? 0 : w_[j] + moved_[j];
            q_[j] += product_[j];
        }
        s_ += hm;
    }

    const QuadraticModel& m_;
    const Matrix H_;
    const Index p_;
    double* w_;
    double s_ = 0;                                                       // h'(w - w0)
    double *curvature_, *q_, *r_, *direction_, *product_, *x_, *moved_;  // q = H (w - w0)
};

template <class Matrix>
ModelFall descend(const QuadraticModel& model, const Matrix& H, double precision, double enough, Index rounds, double* w,
                  double* scratch, const std::atomic<bool>& cancel) {
    constexpr int sweeps = 3;  // until the support hardly changes
    Descent<Matrix> descent(model, H, w, scratch);
    ModelFall found{0, 0, false};
    bool there = false;  // at the minimum over the weights that are not 0
    for (Index round = 0; round < rounds && !cancel.load(std::memory_order_relaxed); ++round) {
        for (int i = 0; i < sweeps; ++i) {
            found.left = descent.sweep();
            found.fall += found.left;
            found.converged = there && found.left <= std::fmax(enough, precision * found.fall);
            if (found.converged || found.left == 0) break;
        }
        if (found.converged) break;
        found.fall += descent.on_support(0.1 * std::fmax(enough, precision * found.fall), &there);
    }
    return found;
}

inline ModelFall minimize_model(const QuadraticModel& model, double precision, double enough, Index rounds, double* w,
                                double* scratch, const std::atomic<bool>& cancel) {
    if (model.starts)
        return descend(model, RowsOfMatrix{model.H, model.starts, model.columns}, precision, enough, rounds, w, scratch,
                       cancel);
    return descend(model, SquareMatrix{model.H, model.p}, precision, enough, rounds, w, scratch, cancel);
}

}  // namespace gdfast::GDFAST_ISA
