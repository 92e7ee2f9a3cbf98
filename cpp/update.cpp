// One step over the parameters by a gradient that is there already.
#include <algorithm>
#include <cmath>
#include <vector>

#include "chunk.hpp"

namespace gdfast {

// A thread takes so many blocks at a time; as the bits do not depend on who takes which, a thread that is late takes fewer.
static constexpr Index blocks_per_turn = 16;

template <class T>
double update(const Kernels<T>& kernels, const Update<T>& u, const T* g, int threads) {
    const Index blocks = parameter_blocks(u.n);
    const auto end = [&u](Index c) { return std::min(u.n, (c + 1) * parameters_per_block); };
    std::vector<double> squares(u.by_norm() ? std::size_t(blocks) : 0);
    Step<T> step = u.step;
    double norm = 0;
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
        if (u.by_norm()) {
#pragma omp for schedule(dynamic, blocks_per_turn)
            for (Index c = 0; c < blocks; ++c) {
                const Index from = c * parameters_per_block;
                squares[std::size_t(c)] = kernels.sum_of_squares(g + from, end(c) - from);
            }
#pragma omp single
            {
                double square = 0;
                for (double value : squares) square += value;
                norm = std::sqrt(square);
                step.scale = u.scale_of(norm);
            }
        }
        // backwards: what the norm has just read is still in the caches
#pragma omp for schedule(dynamic, blocks_per_turn)
        for (Index i = 0; i < blocks; ++i) {
            const Index c = blocks - 1 - i;
            u.optimizer->update(step, u.w, g, u.slots, u.n, u.n_penalized, c * parameters_per_block, end(c));
        }
    }
    return norm;
}

template double update(const Kernels<float>&, const Update<float>&, const float*, int);
template double update(const Kernels<double>&, const Update<double>&, const double*, int);

}  // namespace gdfast
