// One step over the parameters by a gradient that is there already.
#include <algorithm>
#include <cmath>
#include <vector>

#include "chunk.hpp"
#include "team.hpp"

namespace gdfast {

template <class T>
double update(const Kernels<T>& kernels, const Update<T>& u, const T* g, int threads) {
    const Index blocks = parameter_blocks(u.n);
    const auto end = [&u](Index c) { return std::min(u.n, (c + 1) * parameters_per_block); };
    std::vector<double> squares(u.by_norm() ? std::size_t(blocks) : 0);
    double norm = 0;
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
        const int me = thread_number(), members = team_size();
        const Index first = blocks * me / members, last = blocks * (me + 1) / members;
        double square = 0;
        if (u.by_norm()) {
            for (Index c = first; c < last; ++c) {
                const Index from = c * parameters_per_block;
                squares[std::size_t(c)] = kernels.sum_of_squares(g + from, end(c) - from);
            }
            wait_for_all(members);
            for (double value : squares) square += value;
            if (me == 0) norm = std::sqrt(square);
        }
        Step<T> step = u.step;
        step.scale = u.scale_of(std::sqrt(square));
        // backwards: what the norm has just read is still in the caches
        for (Index c = last; c-- > first;)
            u.optimizer->update(step, u.w, g, u.slots, u.n, u.n_penalized, c * parameters_per_block, end(c));
    }
    return norm;
}

template double update(const Kernels<float>&, const Update<float>&, const float*, int);
template double update(const Kernels<double>&, const Update<double>&, const double*, int);

}  // namespace gdfast
