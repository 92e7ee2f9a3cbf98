// Optimizers: the step of one parameter, as in optimizers.py. Slots arrive as one array a slot.
// To add one: a struct here, its name in `Optimizers`, its formula in optimizers.py. Included by kernels.cpp only.
#pragma once
#include <cmath>

#include "elementary.hpp"

namespace gdfast::GDFAST_ISA {

template <class T>
struct SGD {
    static constexpr const char* name = "sgd";
    static constexpr int n_slots = 1, n_parameters = 2;
    T momentum, nesterov;
    SGD(const double* p, double, double) : momentum(T(p[0])), nesterov(T(p[1])) {}
    // the decrement of w
    T step(T g, T& v, T&, T lr) const {
        v = momentum * v + g;
        return lr * (nesterov != 0 ? g + momentum * v : v);
    }
};

template <class T>
struct Adam {
    static constexpr const char* name = "adam";
    static constexpr int n_slots = 2, n_parameters = 3;
    T gain_1, gain_2, epsilon, correct_m, correct_v;
    Adam(const double* p, double, double t)
        : gain_1(T(1 - p[0])),
          gain_2(T(1 - p[1])),
          epsilon(T(p[2])),
          correct_m(T(1 / (1 - std::pow(p[0], t)))),
          correct_v(T(1 / (1 - std::pow(p[1], t)))) {}
    T step(T g, T& m, T& v, T lr) const {
        m += gain_1 * (g - m);
        v += gain_2 * (g * g - v);
        return (lr * correct_m) * m / (std::sqrt(v * correct_v) + epsilon);
    }
};

template <template <class> class... Optimizer>
struct OptimizerList {};
using Optimizers = OptimizerList<SGD, Adam>;

}  // namespace gdfast::GDFAST_ISA
