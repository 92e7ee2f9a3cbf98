// One step over the parameters by a gradient that is there already.
#include <algorithm>
#include <cmath>
#include <vector>

#include "chunk.hpp"

namespace gdfast {

// A thread takes so many blocks at a time; as the bits do not depend on who takes which, a thread that is late takes fewer.
static constexpr Index blocks_per_turn = 16;

namespace {

// A block of the parameters of one tensor.
struct Block {
    Index tensor, first, last;
};

template <class T>
std::vector<Block> blocks_of(const Tensor<T>* tensors, Index n_tensors) {
    std::vector<Block> blocks;
    Index count = 0;
    for (Index i = 0; i < n_tensors; ++i) count += parameter_blocks(tensors[i].n);
    blocks.reserve(std::size_t(count));
    for (Index i = 0; i < n_tensors; ++i)
        for (Index first = 0; first < tensors[i].n; first += parameters_per_block)
            blocks.push_back({i, first, std::min(tensors[i].n, first + parameters_per_block)});
    return blocks;
}

}  // namespace

template <class T>
double update(const Kernels<T>& kernels, Update<T>* groups, Index n_groups, const Tensor<T>* tensors, Index n_tensors,
              int threads) {
    const std::vector<Block> list = blocks_of(tensors, n_tensors);
    const Index blocks = Index(list.size());
    const bool by_norm = groups[0].by_norm();
    std::vector<double> squares(by_norm ? list.size() : 0);
    double norm = 0;
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
        if (by_norm) {
#pragma omp for schedule(dynamic, blocks_per_turn)
            for (Index c = 0; c < blocks; ++c) {
                const Block& block = list[std::size_t(c)];
                squares[std::size_t(c)] =
                    kernels.sum_of_squares(tensors[block.tensor].g + block.first, block.last - block.first);
            }
#pragma omp single
            {
                double square = 0;
                for (double value : squares) square += value;
                norm = std::sqrt(square) * std::fabs(groups[0].step.scale);
                for (Index i = 0; i < n_groups; ++i) groups[i].step.scale *= groups[0].scale_of(norm);
            }
        }
        // backwards: what the norm has just read is still in the caches
#pragma omp for schedule(dynamic, blocks_per_turn)
        for (Index i = 0; i < blocks; ++i) {
            const Block& block = list[std::size_t(blocks - 1 - i)];
            const Tensor<T>& t = tensors[block.tensor];
            const Update<T>& u = groups[t.group];
            u.optimizer->update(u.step, t.w, t.g, u.slots + t.offset, u.n, u.n_penalized, block.first, block.last);
        }
    }
    return norm;
}

template <class T>
double update(const Kernels<T>& kernels, Update<T> u, const T* g, int threads) {
    const Tensor<T> all{0, u.w, g, u.n, 0};
    return update(kernels, &u, 1, &all, 1, threads);
}

template double update(const Kernels<float>&, Update<float>*, Index, const Tensor<float>*, Index, int);
template double update(const Kernels<double>&, Update<double>*, Index, const Tensor<double>*, Index, int);
template double update(const Kernels<float>&, Update<float>, const float*, int);
template double update(const Kernels<double>&, Update<double>, const double*, int);

}  // namespace gdfast
