// Optimizers: the step of one parameter, as in optimizers.py. To add one: a struct here, its name in `Optimizers`, its
// formula in optimizers.py. Included by kernels.cpp only.
//
// A struct is made once a step, from the constants p of the rule and the coefficients c of the step. Its `step` changes the
// slots, one reference each, and returns where the parameter goes and the threshold of the proximal step behind. A rule with
// options that need a slot is a template; each choice is a kernel of its own, so that no rule moves memory it does not need.
//
// A rule that does not move parameters whose gradient stays 0 says so by `idle`. Then `size` is the threshold of L1 in such a
// step, in units of lr l1; or, where slots fade, `kept` is what a step leaves of them.
#pragma once
#include <cmath>

#include "elementary.hpp"
#include "idle.hpp"

namespace gdfast::GDFAST_ISA {

// One parameter before its step: value, gradient, rate, strength of the L1 penalty, factor of all penalties.
template <class T>
struct Point {
    T w, g, lr, l1, factor;
};

template <class T>
struct Move {
    T to, threshold;
};

template <class T>
inline T square(T a) {
    return a * a;
}

// NaN passes through min and max as their second argument
template <class T>
inline T clamp(T a, T low, T high) {
    return min(high, max(low, a));
}

template <class T>
struct SGD {
    static constexpr const char* name = "sgd";
    static constexpr int n_slots = 0, n_parameters = 0, n_coefficients = 0;
    SGD(const double*, const double*) {}
    Move<T> step(Point<T> p) const { return {p.w - p.lr * p.g, p.lr * p.l1}; }
    static Idle idle(const double*) { return Idle::shrinks; }
    T size() const { return 1; }
};

template <class T>
struct Momentum {
    static constexpr const char* name = "sgd-momentum";
    static constexpr int n_slots = 1, n_parameters = 2, n_coefficients = 2;
    T momentum, taken, of_g, of_v, gain;
    Momentum(const double* p, const double* c)
        : momentum(T(p[0])), taken(T(c[0])), of_g(p[1] != 0 ? T(1) : T(0)), of_v(p[1] != 0 ? T(p[0]) : T(1)), gain(T(c[1])) {}
    Move<T> step(Point<T> p, T& velocity) const {
        velocity = momentum * velocity + taken * p.g;
        return {p.w - p.lr * (of_g * p.g + of_v * velocity), p.lr * gain * p.l1};
    }
};

template <class T>
struct Adagrad {
    static constexpr const char* name = "adagrad";
    static constexpr int n_slots = 1, n_parameters = 2, n_coefficients = 0;
    T inside, outside;
    Adagrad(const double* p, const double*) : inside(T(p[0])), outside(T(p[1])) {}
    Move<T> step(Point<T> p, T& accumulator) const {
        accumulator += p.g * p.g;
        const T size = p.lr / (std::sqrt(accumulator + inside) + outside);
        return {p.w - size * p.g, size * p.l1};
    }
    static Idle idle(const double*) { return Idle::rests; }
    T size(T accumulator) const { return 1 / (std::sqrt(accumulator + inside) + outside); }
};

template <class T>
struct Adadelta {
    static constexpr const char* name = "adadelta";
    static constexpr int n_slots = 2, n_parameters = 2, n_coefficients = 0;
    T gain, epsilon;
    Adadelta(const double* p, const double*) : gain(T(1 - p[0])), epsilon(T(p[1])) {}
    Move<T> step(Point<T> p, T& v, T& u) const {
        v += gain * (p.g * p.g - v);
        const T size = std::sqrt((u + epsilon) / (v + epsilon));
        u += gain * (square(size * p.g) - u);
        return {p.w - p.lr * (size * p.g), p.lr * size * p.l1};
    }
    static Idle idle(const double*) { return Idle::fades; }
    T kept() const { return 1 - gain; }
};

template <class T, bool centered, bool with_momentum>
struct RMSpropOf {
    static constexpr const char* name = centered        ? with_momentum ? "rmsprop-centered-momentum" : "rmsprop-centered"
                                        : with_momentum ? "rmsprop-momentum"
                                                        : "rmsprop";
    static constexpr int n_slots = 1 + centered + with_momentum, n_parameters = 4, n_coefficients = 1;
    T gain, momentum, inside, outside, grown;
    RMSpropOf(const double* p, const double* c)
        : gain(T(1 - p[0])), momentum(T(p[1])), inside(T(p[2])), outside(T(p[3])), grown(T(c[0])) {}
    Move<T> step(Point<T> p, T& v) const { return moved(p, second(p.g, v)); }
    Move<T> step(Point<T> p, T& v, T& slot) const {
        if constexpr (centered)
            return moved(p, about(p.g, second(p.g, v), slot));
        else
            return moved(p, second(p.g, v), slot);
    }
    Move<T> step(Point<T> p, T& v, T& mean, T& velocity) const { return moved(p, about(p.g, second(p.g, v), mean), velocity); }
    static Idle idle(const double*) { return with_momentum ? Idle::moves : Idle::fades; }
    T kept() const { return 1 - gain; }

private:
    T second(T g, T& v) const { return v += gain * (g * g - v); }
    T about(T g, T v, T& mean) const {
        mean += gain * (g - mean);
        return max(T(0), v - mean * mean);
    }
    Move<T> moved(Point<T> p, T v) const {
        const T size = p.lr / (std::sqrt(v + inside) + outside);
        return {p.w - size * p.g, size * p.l1};
    }
    Move<T> moved(Point<T> p, T v, T& velocity) const {
        const T size = 1 / (std::sqrt(v + inside) + outside);
        velocity = momentum * velocity + size * p.g;
        return {p.w - p.lr * velocity, p.lr * grown * size * p.l1};
    }
};
template <class T>
using RMSprop = RMSpropOf<T, false, false>;
template <class T>
using CenteredRMSprop = RMSpropOf<T, true, false>;
template <class T>
using MomentumRMSprop = RMSpropOf<T, false, true>;
template <class T>
using CenteredMomentumRMSprop = RMSpropOf<T, true, true>;

template <class T, bool amsgrad>
struct AdamOf {
    static constexpr const char* name = amsgrad ? "adam-amsgrad" : "adam";
    static constexpr int n_slots = 2 + amsgrad, n_parameters = 2, n_coefficients = 3;
    T gain_1, gain_2, of_m, of_v, epsilon;
    AdamOf(const double* p, const double* c)
        : gain_1(T(1 - p[0])), gain_2(T(1 - p[1])), of_m(T(c[0])), of_v(T(c[1])), epsilon(T(c[2])) {}
    Move<T> step(Point<T> p, T& m, T& v) const {
        m += gain_1 * (p.g - m);
        v += gain_2 * (p.g * p.g - v);
        return moved(p, m, v);
    }
    Move<T> step(Point<T> p, T& m, T& v, T& v_max) const {
        m += gain_1 * (p.g - m);
        v += gain_2 * (p.g * p.g - v);
        v_max = max(v_max, v);
        return moved(p, m, v_max);
    }

private:
    Move<T> moved(Point<T> p, T m, T v) const {
        const T size = p.lr / (std::sqrt(of_v * v) + epsilon);
        return {p.w - size * (of_m * m), size * p.l1};
    }
};
template <class T>
using Adam = AdamOf<T, false>;
template <class T>
using AMSGrad = AdamOf<T, true>;

template <class T>
struct Nadam {
    static constexpr const char* name = "nadam";
    static constexpr int n_slots = 2, n_parameters = 3, n_coefficients = 4;
    T gain_1, gain_2, epsilon, of_m, of_g, of_v, gain;
    Nadam(const double* p, const double* c)
        : gain_1(T(1 - p[0])),
          gain_2(T(1 - p[1])),
          epsilon(T(p[2])),
          of_m(T(c[0])),
          of_g(T(c[1])),
          of_v(T(c[2])),
          gain(T(c[3])) {}
    Move<T> step(Point<T> p, T& m, T& v) const {
        m += gain_1 * (p.g - m);
        v += gain_2 * (p.g * p.g - v);
        const T size = p.lr / (std::sqrt(of_v * v) + epsilon);
        return {p.w - size * (of_m * m + of_g * p.g), size * gain * p.l1};
    }
};

template <class T>
struct Adamax {
    static constexpr const char* name = "adamax";
    static constexpr int n_slots = 2, n_parameters = 4, n_coefficients = 1;
    T gain_1, beta_2, inside, outside, of_m;
    Adamax(const double* p, const double* c)
        : gain_1(T(1 - p[0])), beta_2(T(p[1])), inside(T(p[2])), outside(T(p[3])), of_m(T(c[0])) {}
    Move<T> step(Point<T> p, T& m, T& u) const {
        m += gain_1 * (p.g - m);
        u = max(beta_2 * u, absolute(p.g) + inside);
        const T size = p.lr / (u + outside);
        return {p.w - size * (of_m * m), size * p.l1};
    }
};

template <class T>
struct Lion {
    static constexpr const char* name = "lion";
    static constexpr int n_slots = 1, n_parameters = 2, n_coefficients = 0;
    T gain_1, gain_2;
    Lion(const double* p, const double*) : gain_1(T(1 - p[0])), gain_2(T(1 - p[1])) {}
    Move<T> step(Point<T> p, T& m) const {
        const T c = m + gain_1 * (p.g - m);
        m += gain_2 * (p.g - m);
        const T sign = c > 0 ? T(1) : c < 0 ? T(-1) : c;  // NaN stays
        const bool held = absolute(c) <= p.l1 && p.l1 > 0;
        return {held ? p.w : p.w - p.lr * sign, held ? p.lr : T(0)};
    }
};

template <class T>
struct FTRL {
    static constexpr const char* name = "ftrl";
    static constexpr int n_slots = 2, n_parameters = 3, n_coefficients = 0;
    T beta, l1, l2;
    FTRL(const double* p, const double*) : beta(T(p[0])), l1(T(p[1])), l2(T(p[2])) {}
    Move<T> step(Point<T> p, T& z, T& n) const {
        n += p.g * p.g;
        const T metric = beta + std::sqrt(n) + p.lr * l2 * p.factor, most = p.lr * l1 * p.factor;
        const T sum = z + (p.lr * p.g - metric * p.w);
        z = clamp(sum, -most, most);
        return {(z - sum) / metric, p.lr / metric * p.l1};
    }
    static Idle idle(const double* p) { return p[1] == 0 && p[2] == 0 ? Idle::rests : Idle::settles; }
    T size(T, T n) const { return 1 / (beta + std::sqrt(n)); }
};

template <template <class> class... Optimizer>
struct OptimizerList {};
using Optimizers = OptimizerList<SGD, Momentum, Adagrad, Adadelta, RMSprop, CenteredRMSprop, MomentumRMSprop,
                                 CenteredMomentumRMSprop, Adam, AMSGrad, Nadam, Adamax, Lion, FTRL>;

}  // namespace gdfast::GDFAST_ISA
