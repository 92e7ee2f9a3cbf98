// Losses of one margin z and one target y, as in losses.py, and softmax.
// To add one: a struct here, its name in `Losses`, its formula in losses.py. Included by kernels.cpp only.
#pragma once
#include "elementary.hpp"

namespace gdfast::GDFAST_ISA {

// Parameters arrive as doubles in the order of the Python fields.
template <class T>
struct SquaredError {
    static constexpr const char* name = "squared_error";
    static constexpr int n_parameters = 0;
    explicit SquaredError(const double*) {}
    T value(T z, T y) const { return T(0.5) * (z - y) * (z - y); }
    T gradient(T z, T y) const { return z - y; }
    T curvature(T, T) const { return 1; }
};

template <class T>
struct LogLoss {
    static constexpr const char* name = "log_loss";
    static constexpr int n_parameters = 0;
    explicit LogLoss(const double*) {}
    T value(T z, T y) const { return linear(z, y) + log1p(exp_minus_absolute(z)); }
    T linear(T z, T y) const { return max(z, T(0)) - y * z; }
    T excess(T z) const { return exp_minus_absolute(z); }
    T gradient(T z, T y) const { return sigmoid(z) - y; }
    T curvature(T z, T) const {
        const T e = exp_minus_absolute(z);
        return e / ((1 + e) * (1 + e));
    }
};

template <class T>
struct Huber {
    static constexpr const char* name = "huber";
    static constexpr int n_parameters = 1;
    T epsilon;
    explicit Huber(const double* p) : epsilon(T(p[0])) {}
    T value(T z, T y) const {
        const T a = absolute(z - y);
        return a <= epsilon ? T(0.5) * a * a : epsilon * a - T(0.5) * epsilon * epsilon;
    }
    T gradient(T z, T y) const { return min(epsilon, max(-epsilon, z - y)); }
    T curvature(T z, T y) const { return absolute(z - y) <= epsilon ? T(1) : T(0); }
};

template <class T>
struct Hinge {
    static constexpr const char* name = "hinge";
    static constexpr int n_parameters = 0;
    explicit Hinge(const double*) {}
    T value(T z, T y) const { return max(T(0), 1 - (2 * y - 1) * z); }
    T gradient(T z, T y) const {
        const T s = 2 * y - 1;
        return s * z < 1 ? -s : T(0);
    }
    T curvature(T, T) const { return 0; }
};

template <class T>
struct Perceptron {
    static constexpr const char* name = "perceptron";
    static constexpr int n_parameters = 0;
    explicit Perceptron(const double*) {}
    T value(T z, T y) const { return max(T(0), -(2 * y - 1) * z); }
    T gradient(T z, T y) const {
        const T s = 2 * y - 1;
        return s * z <= 0 ? -s : T(0);
    }
    T curvature(T, T) const { return 0; }
};

template <class T>
struct SquaredHinge {
    static constexpr const char* name = "squared_hinge";
    static constexpr int n_parameters = 0;
    explicit SquaredHinge(const double*) {}
    T value(T z, T y) const {
        const T a = max(T(0), 1 - (2 * y - 1) * z);
        return a * a;
    }
    T gradient(T z, T y) const {
        const T s = 2 * y - 1;
        return -2 * s * max(T(0), 1 - s * z);
    }
    T curvature(T z, T y) const {
        const T s = 2 * y - 1;
        return s * z < 1 ? 2 * s * s : T(0);
    }
};

template <class T>
struct ModifiedHuber {
    static constexpr const char* name = "modified_huber";
    static constexpr int n_parameters = 0;
    explicit ModifiedHuber(const double*) {}
    T value(T z, T y) const {
        const T m = (2 * y - 1) * z;
        const T a = max(T(0), 1 - m);
        return m >= -1 ? a * a : -4 * m;
    }
    T gradient(T z, T y) const {
        const T s = 2 * y - 1;
        return -s * (s * z >= -1 ? 2 * max(T(0), 1 - s * z) : T(4));
    }
    T curvature(T z, T y) const {
        const T s = 2 * y - 1;
        return (s * z >= -1) & (s * z < 1) ? 2 * s * s : T(0);
    }
};

template <class T>
struct EpsilonInsensitive {
    static constexpr const char* name = "epsilon_insensitive";
    static constexpr int n_parameters = 1;
    T epsilon;
    explicit EpsilonInsensitive(const double* p) : epsilon(T(p[0])) {}
    T value(T z, T y) const { return max(T(0), absolute(z - y) - epsilon); }
    T gradient(T z, T y) const {
        const T r = z - y;
        return absolute(r) > epsilon ? (r > 0 ? T(1) : T(-1)) : T(0);
    }
    T curvature(T, T) const { return 0; }
};

template <class T>
struct SquaredEpsilonInsensitive {
    static constexpr const char* name = "squared_epsilon_insensitive";
    static constexpr int n_parameters = 1;
    T epsilon;
    explicit SquaredEpsilonInsensitive(const double* p) : epsilon(T(p[0])) {}
    T value(T z, T y) const {
        const T a = max(T(0), absolute(z - y) - epsilon);
        return a * a;
    }
    T gradient(T z, T y) const {
        const T r = z - y;
        return 2 * (r > 0 ? T(1) : T(-1)) * max(T(0), absolute(r) - epsilon);
    }
    T curvature(T z, T y) const { return absolute(z - y) > epsilon ? T(2) : T(0); }
};

template <class T>
struct Pinball {
    static constexpr const char* name = "pinball";
    static constexpr int n_parameters = 1;
    T quantile;
    explicit Pinball(const double* p) : quantile(T(p[0])) {}
    T value(T z, T y) const { return max(quantile * (y - z), (quantile - 1) * (y - z)); }
    T gradient(T z, T y) const { return z > y ? 1 - quantile : (z < y ? -quantile : T(0)); }
    T curvature(T, T) const { return 0; }
};

template <class T>
struct Poisson {
    static constexpr const char* name = "poisson";
    static constexpr int n_parameters = 0;
    explicit Poisson(const double*) {}
    T value(T z, T y) const { return exp(z) - y * z; }
    T gradient(T z, T y) const { return exp(z) - y; }
    T curvature(T z, T) const { return exp(z); }
};

template <class T>
struct Gamma {
    static constexpr const char* name = "gamma";
    static constexpr int n_parameters = 0;
    explicit Gamma(const double*) {}
    T value(T z, T y) const { return z + y * exp(-z); }
    T gradient(T z, T y) const { return 1 - y * exp(-z); }
    T curvature(T z, T y) const { return y * exp(-z); }
};

template <class T>
struct Tweedie {
    static constexpr const char* name = "tweedie";
    static constexpr int n_parameters = 1;
    T a, b;  // 2 - power and 1 - power
    explicit Tweedie(const double* p) : a(T(2 - p[0])), b(T(1 - p[0])) {}
    // y exp(b z), which is 0 for y = 0 however large the exponential
    T weighted(T z, T y) const { return y == 0 ? T(0) : y * exp(b * z); }
    T value(T z, T y) const { return exp(a * z) / a - weighted(z, y) / b; }
    T gradient(T z, T y) const { return exp(a * z) - weighted(z, y); }
    T curvature(T z, T y) const { return a * exp(a * z) - b * weighted(z, y); }
};

// Sees all margins of a row: its formulas live where the rows are, in residuals.hpp.
template <class T>
struct Softmax {
    static constexpr const char* name = "softmax";
    static constexpr int n_parameters = 0;
    explicit Softmax(const double*) {}
};

template <template <class> class... Loss>
struct LossList {};
using Losses = LossList<SquaredError, LogLoss, Softmax, Huber, Hinge, Perceptron, SquaredHinge, ModifiedHuber,
                        EpsilonInsensitive, SquaredEpsilonInsensitive, Pinball, Poisson, Gamma, Tweedie>;

}  // namespace gdfast::GDFAST_ISA
